#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "owners.h"
#include "serve.h"
#include "served.h"
#include "slate.h"
#include "thread.h"

enum { MOST = sizeof(void *) == 8 ? LIMIT_CHANNELS : LIMIT_NARROW_CHANNELS };

static struct {
    struct provider *provider;
    struct hello hello;
    int bell; /* rung when a channel ends */
    _Atomic unsigned count;
    pthread_mutex_t lock; /* of what follows; zero is unlocked */
    struct channel *all[LIMIT_CHANNELS];
} served;

int served_init(struct provider *provider)
{
    served.provider = provider;
    served.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return served.bell;
}

void served_greet_with(const struct hello *hello)
{
    served.hello = *hello;
}

unsigned served_count(void)
{
    return atomic_load(&served.count);
}

bool served_is_full(void)
{
    return served_count() >= MOST;
}

/* ---- the list ---- */

/* In the list, `old` becomes `new`: NULL is a free place. */
static void exchange(const struct channel *old, struct channel *new)
{
    pthread_mutex_lock(&served.lock);
    for (unsigned i = 0; i < LIMIT_CHANNELS; i++)
        if (served.all[i] == old) {
            served.all[i] = new;
            if (new)
                new->mark = &slate->marks[i], new->tallies = slate->tallies[i];
            break;
        }
    pthread_mutex_unlock(&served.lock);
}

static bool is_hung_up(const struct channel *channel)
{
    struct pollfd p = {.fd = channel->from, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0;
}

bool served_all_hung_up(void)
{
    bool all = true;
    pthread_mutex_lock(&served.lock);
    for (unsigned i = 0; all && i < LIMIT_CHANNELS; i++)
        all = !served.all[i] || is_hung_up(served.all[i]);
    pthread_mutex_unlock(&served.lock);
    return all;
}

/* ---- one channel ---- */

static bool say_hello(struct channel *channel)
{
    struct hello hello = served.hello;
    hello.bell = channel->bell.page != NULL;
    write_hello(&channel->out, &hello);
    return channel_send(channel) == 0 && hello.rv == CKR_OK;
}

static void end(struct channel *channel)
{
    uint64_t one = 1;
    uint32_t owner = channel->opener;
    exchange(channel, NULL);
    channel_free(channel);
    owners_release(owner);
    atomic_fetch_sub(&served.count, 1);
    if (write(served.bell, &one, sizeof one) < 0)
        return; /* rung already */
}

static void *run(void *argument)
{
    struct channel *channel = argument;
    if (say_hello(channel))
        serve(channel, served.provider);
    end(channel);
    return NULL;
}

void served_start(struct channel *channel, uint32_t owner)
{
    channel->opener = owner;
    owners_hold(owner);
    atomic_fetch_add(&served.count, 1);
    exchange(NULL, channel);
    channel_set_ticks(channel, 0, DEADLINE_SHORT);
    if (!thread_start(run, channel))
        end(channel);
}

void served_turn_away(struct channel *channel, const char *why)
{
    struct hello hello = hello_ours();
    hello.pid = (uint64_t)getpid();
    strncpy(hello.error, why, sizeof hello.error - 1);
    channel_set_ticks(channel, 0, DEADLINE_SHORT);
    channel_set_deadline(channel, DEADLINE_SHORT);
    write_hello(&channel->out, &hello);
    channel_send(channel);
    channel_free(channel);
}
