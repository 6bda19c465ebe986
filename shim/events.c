#include "events.h"

#include <errno.h>
#include <sys/mman.h>

#include "ear.h"
#include "root.h"

enum {
    NAP_MS = 20,     /* of a second thread that waits, until it looks again */
    MOST_MS = 60000, /* that it polls at a time, where nothing is due sooner */
};
_Static_assert(DEADLINE_EVENTS_NOW > DEADLINE_LOOK_NOW && DEADLINE_EVENTS_FIRST > DEADLINE_LOOK_FIRST, "a helper answers sooner than it is awaited");

struct events {
    pthread_mutex_t lock; /* of the ears; zero is unlocked */
    uint64_t rounds; /* of quick questions, so far */
    struct ear ears[LIMIT_MODULES];
    struct seen seen;
};

static struct events *find_or_map(struct state *state)
{
    struct events *events = atomic_load(&state->events), *none = NULL;
    if (events)
        return events;
    events = mmap(NULL, sizeof *events, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (events == MAP_FAILED)
        return NULL;
    if (atomic_compare_exchange_strong(&state->events, &none, events))
        return events;
    munmap(events, sizeof *events);
    return none;
}

void events_finish(struct state *state)
{
    struct events *events = atomic_exchange(&state->events, NULL);
    if (!events)
        return;
    for (unsigned i = 0; i < state->n_modules; i++)
        ear_close(&events->ears[i], &state->modules[i]);
    munmap(events, sizeof *events);
}

/* ---- what calls tell ---- */

/* Of a slot of a module's whose ear does not hear yet. */
static void tell(const struct call *call, struct events *events, CK_ULONG id, enum seen_state state, uint64_t face)
{
    unsigned number;
    CK_ULONG server;
    struct state *all = call->state;
    const struct module *module = slot_to_server(id, &number, &server) ? state_module_by_number(all, number) : NULL;
    uint64_t before = seen_before(&events->seen, id);
    if (module && ear_may_tell(&events->ears[module - all->modules], module))
        seen_tell(&events->seen, id, before, state, face);
}

struct slot_set {
    uint64_t bits[LIMIT_SLOTS / 64];
};

static struct slot_set set_of(const CK_SLOT_ID *slots, CK_ULONG count)
{
    struct slot_set set = {0};
    for (CK_ULONG i = 0; i < count; i++) {
        CK_ULONG place = slots[i] - FIRST_SLOT_ID;
        if (place < LIMIT_SLOTS)
            set.bits[place / 64] |= UINT64_C(1) << place % 64;
    }
    return set;
}

static bool has_slot(const struct slot_set *set, CK_ULONG id)
{
    CK_ULONG place = id - FIRST_SLOT_ID;
    return set->bits[place / 64] >> place % 64 & 1;
}

/* A list of those with a token says that all others are empty, or are not there. Each is told once: somebody may begin to wait meanwhile. */
static void tell_list(const struct call *call, struct events *events)
{
    struct slot_set set = set_of((const CK_SLOT_ID *)call->words[1], *(const CK_ULONG *)call->words[2]);
    bool present = (CK_BBOOL)call->words[0];
    for (CK_ULONG id = FIRST_SLOT_ID; id < FIRST_SLOT_ID + slot_count(); id++) {
        if (has_slot(&set, id))
            tell(call, events, id, present ? SEEN_TOKEN : SEEN_UNTOLD, 0);
        else if (present)
            tell(call, events, id, SEEN_EMPTY, 0);
    }
    for (unsigned i = 0; i < call->state->n_modules; i++)
        ear_tell_all(&events->ears[i]);
}

static void tell_token(const struct call *call, struct events *events)
{
    const CK_TOKEN_INFO *info = (const CK_TOKEN_INFO *)call->words[1];
    struct token_face face;
    token_face_of(&face, info);
    tell(call, events, call->words[0], SEEN_TOKEN, seen_face(&face));
}

static void tell_slot(const struct call *call, struct events *events)
{
    const CK_SLOT_INFO *info = (const CK_SLOT_INFO *)call->words[1];
    tell(call, events, call->words[0], info->flags & CKF_TOKEN_PRESENT ? SEEN_TOKEN : SEEN_EMPTY, 0);
}

void events_told(const struct call *call, unsigned fn, CK_RV rv)
{
    bool says_empty = fn == FN_C_GetTokenInfo && rv == CKR_TOKEN_NOT_PRESENT;
    bool tells = rv == CKR_OK && call->words[1] && (fn != FN_C_GetSlotList || call->words[2]);
    struct events *events = tells || says_empty ? find_or_map(call->state) : NULL;
    if (!events)
        return;
    if (says_empty)
        tell(call, events, call->words[0], SEEN_EMPTY, 0);
    else if (fn == FN_C_GetSlotList)
        tell_list(call, events);
    else if (fn == FN_C_GetSlotInfo)
        tell_slot(call, events);
    else
        tell_token(call, events);
}

/* ---- waiting ---- */

struct wait {
    struct state *state;
    struct events *events;
    struct owner owner; /* whose call it is: a child that comes back into it leaves all alone */
    bool quick, listens;
    int cancel;               /* may the caller's thread be cancelled? */
    uint64_t round, until_ms; /* of a quick one */
};

static bool is_over(const struct wait *wait)
{
    return owner_is_another(&wait->owner) || atomic_load(&wait->state->ending);
}

static bool has_event(const struct wait *wait)
{
    return atomic_load(&wait->events->seen.pending) != 0;
}

/* The thread is cancelled: it leaves as if it had returned. */
static void abandon(void *argument)
{
    const struct wait *wait = argument;
    if (owner_is_another(&wait->owner))
        return;
    if (wait->listens)
        pthread_mutex_unlock(&wait->events->lock);
    state_leave(wait->state);
}

/* Here alone can it be. True if there is something to hear. */
static bool sleep_on(struct wait *wait, struct pollfd *polled, unsigned count, uint64_t ms)
{
    volatile bool any;
    pthread_cleanup_push(abandon, wait);
    pthread_setcancelstate(wait->cancel, NULL);
    any = poll(polled, count, (int)ms) > 0;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cleanup_pop(0);
    return any;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What there is to wait for: the descriptors of the ears, and when to stop waiting for these. */
static uint64_t gather(const struct wait *wait, struct pollfd polled[LIMIT_MODULES])
{
    bool any = false;
    uint64_t until = channel_now_ms() + MOST_MS;
    for (unsigned i = 0; i < wait->state->n_modules; i++) {
        const struct ear *ear = &wait->events->ears[i];
        polled[i] = (struct pollfd){.fd = ear_descriptor(ear), .events = POLLIN | POLLRDHUP};
        any = any || polled[i].fd >= 0;
        until = sooner(until, ear_until(ear, &wait->state->modules[i]));
    }
    if (wait->quick)
        until = wait->until_ms;
    return any ? until : sooner(until, channel_now_ms() + EAR_TICK_MS); /* C_Finalize wakes who polls for something */
}

static void poll_ears(struct wait *wait)
{
    struct pollfd polled[LIMIT_MODULES];
    uint64_t until = gather(wait, polled), now = channel_now_ms();
    if (is_over(wait)) /* what was opened meanwhile C_Finalize may not have found */
        return;
    bool any = sleep_on(wait, polled, wait->state->n_modules, until > now ? until - now : 0);
    for (unsigned i = 0; i < wait->state->n_modules && !is_over(wait); i++)
        ear_hear(&wait->events->ears[i], &wait->state->modules[i], &wait->events->seen, any && polled[i].revents);
}

/* All at once are asked; a quick one asks each once. */
static void tend_ears(struct wait *wait)
{
    for (unsigned i = 0; i < wait->state->n_modules && !is_over(wait); i++)
        ear_tend(&wait->events->ears[i], &wait->state->modules[i], &wait->events->seen, wait->round);
}

static bool is_awaited(const struct wait *wait)
{
    bool awaited = false;
    for (unsigned i = 0; i < wait->state->n_modules && !awaited; i++)
        awaited = ear_is_awaited(&wait->events->ears[i], wait->round);
    return awaited && channel_now_ms() < wait->until_ms;
}

/* Under the lock. */
static void look_once(struct wait *wait)
{
    wait->round = ++wait->events->rounds;
    wait->until_ms = channel_now_ms() + (wait->round == 1 ? DEADLINE_EVENTS_FIRST : DEADLINE_EVENTS_NOW);
    do {
        tend_ears(wait);
        poll_ears(wait);
    } while (!is_over(wait) && !has_event(wait) && is_awaited(wait));
}

static void wait_long(struct wait *wait)
{
    while (!is_over(wait) && !has_event(wait)) {
        tend_ears(wait);
        if (!is_over(wait) && !has_event(wait))
            poll_ears(wait);
    }
}

/* One thread listens at a time; what another one waits for it hears as well. */
static void listen_for_events(struct wait *wait)
{
    wait->listens = pthread_mutex_trylock(&wait->events->lock) == 0;
    if (!wait->listens && !wait->quick)
        sleep_on(wait, NULL, 0, NAP_MS);
    if (!wait->listens)
        return;
    if (wait->quick)
        look_once(wait);
    else
        wait_long(wait);
    pthread_mutex_unlock(&wait->events->lock);
    wait->listens = false;
}

static CK_RV conclude(const struct call *call, const struct wait *wait)
{
    if (owner_is_another(&wait->owner))
        return call->function->gone;
    return is_over(wait) ? CKR_CRYPTOKI_NOT_INITIALIZED : CKR_NO_EVENT;
}

static CK_RV take_event(const struct call *call, struct wait *wait, CK_SLOT_ID *slot)
{
    bool listened = false;
    while (!is_over(wait) && !seen_take(&wait->events->seen, slot)) {
        if (wait->quick && listened)
            return conclude(call, wait);
        listen_for_events(wait);
        listened = true;
    }
    return is_over(wait) ? conclude(call, wait) : CKR_OK;
}

CK_RV events_wait(const struct call *call)
{
    CK_SLOT_ID *slot = (CK_SLOT_ID *)call->words[1];
    if (!slot || call->words[2])
        return CKR_ARGUMENTS_BAD;
    struct wait wait = {.state = call->state, .events = find_or_map(call->state), .owner = root_owner()};
    if (!wait.events)
        return CKR_HOST_MEMORY;
    wait.quick = call->words[0] & CKF_DONT_BLOCK;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &wait.cancel);
    CK_RV rv = take_event(call, &wait, slot);
    pthread_setcancelstate(wait.cancel, NULL);
    return rv;
}
