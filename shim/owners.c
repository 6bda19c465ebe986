#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "owners.h"
#include "share.h"
#include "slate.h"
#include "thread.h"

static struct {
    struct provider *provider;
    struct pollfd *places;
    struct {
        pid_t pid;
        uint32_t number;
    } all[OWNERS];
    unsigned count;
    uint32_t last;
    bool had_stranger;
    _Atomic unsigned burials; /* threads that close what processes that have ended had open */
} owners;

void owners_init(struct provider *provider, struct pollfd *places)
{
    owners.provider = provider;
    owners.places = places;
}

unsigned owners_count(void)
{
    return owners.count;
}

bool owners_had_stranger(void)
{
    return owners.had_stranger;
}

bool owners_are_busy(void)
{
    return atomic_load(&owners.burials) != 0;
}

/* ---- what may still call for one ---- */

/* Where each process has the provider to itself nothing is counted. */
static struct share *share_of(uint32_t owner)
{
    return owner == OWNERS_STRANGER ? NULL : owners.provider->share;
}

void owners_hold(uint32_t owner)
{
    struct share *share = share_of(owner);
    if (share)
        share_hold(share, owner);
}

void owners_release(uint32_t owner)
{
    struct share *share = share_of(owner);
    if (share && share_release(share, owner))
        share_bury(owners.provider, owner);
}

static void *run_release(void *argument)
{
    owners_release((uint32_t)(uintptr_t)argument);
    atomic_fetch_sub(&owners.burials, 1);
    return NULL;
}

/* In a thread of its own: it may make calls to the provider. */
static void start_release(uint32_t owner)
{
    atomic_fetch_add(&owners.burials, 1);
    if (!thread_start(run_release, (void *)(uintptr_t)owner))
        atomic_fetch_sub(&owners.burials, 1);
}

/* ---- who is watched ---- */

static void call_roll(void)
{
    for (unsigned i = 0; i < owners.count; i++)
        atomic_store(&slate->pids[i], (uint32_t)owners.all[i].pid);
    atomic_store(&slate->served, owners.count);
}

uint32_t owners_watch(pid_t pid)
{
    for (unsigned i = 0; i < owners.count; i++)
        if (owners.all[i].pid == pid)
            return owners.all[i].number;
    int fd = pid > 0 && owners.count < OWNERS ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (fd < 0) {
        owners.had_stranger = true; /* of another pid namespace, or gone already: the door and the channels will tell */
        return OWNERS_STRANGER;
    }
    owners.all[owners.count].pid = pid;
    owners.all[owners.count].number = ++owners.last;
    owners.places[owners.count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    owners_hold(owners.last);
    call_roll();
    return owners.last;
}

void owners_forget_dead(void)
{
    for (unsigned i = 0; i < owners.count;) {
        if (!owners.places[i].revents) {
            i++;
            continue;
        }
        close(owners.places[i].fd);
        if (owners.provider->share)
            start_release(owners.all[i].number);
        owners.count--;
        owners.all[i] = owners.all[owners.count];
        owners.places[i] = owners.places[owners.count];
        call_roll();
    }
}
