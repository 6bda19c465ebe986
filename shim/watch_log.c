#include "watch_log.h"

#include <string.h>

/* What an event costs of a slot's credit, which grows with time. */
#define COST_NS (UINT64_C(1000000000) / LIMIT_SLOT_RATE)
#define MOST_CREDIT_NS (LIMIT_SLOT_BURST * COST_NS)
/* A provider's wait tells later than a look finds out, if at all. */
#define ECHO_NS (DEADLINE_ECHO * UINT64_C(1000000))

_Static_assert(LIMIT_SLOT_BURST >= 2, "another token in a slot is two events at a time");

static bool is_same_token(const struct slot_look *a, const struct slot_look *b)
{
    return a->unclear || b->unclear || !memcmp(&a->token, &b->token, sizeof a->token);
}

static bool is_same(const struct slot_look *a, const struct slot_look *b)
{
    return a->state == b->state && (a->state != SLOT_TOKEN || is_same_token(a, b));
}

/* ---- a slot's credit ---- */

static void reckon(struct watched_slot *slot, uint64_t now)
{
    uint64_t gained = slot->credit_ns + (now - slot->since);
    slot->credit_ns = gained < MOST_CREDIT_NS ? gained : MOST_CREDIT_NS;
    slot->since = now;
}

static bool may_tell(const struct watched_slot *slot, unsigned events)
{
    return slot->credit_ns >= events * COST_NS;
}

/* ---- events ---- */

static void tell(struct watch_log *log, struct watched_slot *slot, const struct slot_look *after, uint64_t now)
{
    slot->told = *after;
    slot->credit_ns -= COST_NS;
    slot->stirred = now;
    slot->claimed = false;
    log->number++;
    log->events[log->number % LIMIT_EVENTS] = (struct slot_event){log->number, *after};
}

/* A token where another was: that one was pulled first. */
static void tell_change(struct watch_log *log, struct watched_slot *slot, const struct slot_look *seen, uint64_t now)
{
    bool swapped = slot->told.state == SLOT_TOKEN && seen->state == SLOT_TOKEN;
    struct slot_look empty = {.slot = seen->slot, .state = SLOT_EMPTY};
    if (log->narrow && slot->told.state != SLOT_TOKEN && seen->state != SLOT_TOKEN) {
        slot->told = *seen;
        return;
    }
    reckon(slot, now);
    slot->behind = !may_tell(slot, swapped ? 2 : 1);
    if (slot->behind) {
        slot->held++;
        return;
    }
    if (swapped)
        tell(log, slot, &empty, now);
    tell(log, slot, seen, now);
}

/* ---- slots ---- */

/* They are mostly seen in the order in which they are known. */
static unsigned find(const struct watch_log *log, CK_SLOT_ID slot, unsigned hint)
{
    if (hint < log->n_slots && log->slots[hint].told.slot == slot)
        return hint;
    unsigned i = 0;
    while (i < log->n_slots && log->slots[i].told.slot != slot)
        i++;
    return i;
}

static void forget_gone(struct watch_log *log)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < log->n_slots; i++)
        if (log->slots[i].told.state != SLOT_NONE)
            log->slots[kept++] = log->slots[i];
    log->n_slots = kept;
}

static struct watched_slot *add(struct watch_log *log, CK_SLOT_ID slot, uint64_t now)
{
    if (log->n_slots == LIMIT_MODULE_SLOTS)
        forget_gone(log);
    if (log->n_slots == LIMIT_MODULE_SLOTS)
        return NULL;
    struct watched_slot *added = &log->slots[log->n_slots++];
    *added = (struct watched_slot){.told.slot = slot, .credit_ns = MOST_CREDIT_NS, .since = now};
    return added;
}

/* What is not known yet of a token that has not changed. */
static void complete(struct watched_slot *slot, const struct slot_look *seen)
{
    if (slot->told.unclear && !seen->unclear && seen->state == SLOT_TOKEN)
        slot->told = *seen;
    slot->behind = slot->behind && seen->unclear;
}

static bool compare_one(struct watch_log *log, const struct slot_look *seen, unsigned hint, uint64_t now)
{
    unsigned at = find(log, seen->slot, hint);
    struct watched_slot *slot = at < log->n_slots ? &log->slots[at] : add(log, seen->slot, now);
    if (!slot)
        return false;
    if (is_same(&slot->told, seen)) {
        complete(slot, seen);
        return false;
    }
    tell_change(log, slot, seen, now);
    return true;
}

static bool is_seen(const struct slot_look *seen, unsigned n_seen, CK_SLOT_ID slot, unsigned hint)
{
    if (hint < n_seen && seen[hint].slot == slot)
        return true;
    unsigned i = 0;
    while (i < n_seen && seen[i].slot != slot)
        i++;
    return i < n_seen;
}

bool watch_log_differs(const struct watch_log *log, const struct slot_look *seen, unsigned n_seen)
{
    bool differs = false;
    for (unsigned i = 0; i < log->n_slots && !differs; i++)
        differs = log->slots[i].told.state != SLOT_NONE && !is_seen(seen, n_seen, log->slots[i].told.slot, i);
    for (unsigned i = 0; i < n_seen && !differs; i++) {
        unsigned at = find(log, seen[i].slot, i);
        differs = at == log->n_slots || !is_same(&log->slots[at].told, &seen[i]);
    }
    return differs;
}

unsigned watch_log_compare(struct watch_log *log, const struct slot_look *seen, unsigned n_seen, uint64_t now)
{
    unsigned changes = 0;
    for (unsigned i = 0; i < log->n_slots; i++) {
        struct watched_slot *slot = &log->slots[i];
        struct slot_look gone = {.slot = slot->told.slot};
        if (slot->told.state == SLOT_NONE || is_seen(seen, n_seen, gone.slot, i))
            continue;
        tell_change(log, slot, &gone, now);
        changes++;
    }
    for (unsigned i = 0; i < n_seen; i++)
        changes += compare_one(log, &seen[i], i, now);
    return changes;
}

/* Numbers begin above those of every earlier life: fewer than one in a nanosecond are given out. */
void watch_log_begin(struct watch_log *log, const struct slot_look *seen, unsigned n_seen, uint64_t now)
{
    for (unsigned i = 0; i < n_seen; i++) {
        struct watched_slot *slot = find(log, seen[i].slot, i) < log->n_slots ? NULL : add(log, seen[i].slot, now);
        if (slot)
            slot->told = seen[i];
    }
    log->begun = log->number = now;
}

enum stir watch_log_stir(struct watch_log *log, CK_SLOT_ID slot, uint64_t now)
{
    unsigned at = find(log, slot, 0);
    if (at == log->n_slots || log->slots[at].told.state == SLOT_NONE)
        return STIR_NO_SLOT;
    struct watched_slot *stirred = &log->slots[at];
    bool is_echo = stirred->stirred && !stirred->claimed && now - stirred->stirred < ECHO_NS;
    stirred->claimed = true;
    if (is_echo)
        return STIR_KNOWN;
    reckon(stirred, now);
    struct slot_look same = stirred->told;
    if (may_tell(stirred, 1))
        tell(log, stirred, &same, now);
    else
        stirred->held++;
    stirred->claimed = true;
    return STIR_TOLD;
}

/* ---- flapping ---- */

uint64_t watch_log_due(const struct watch_log *log)
{
    uint64_t due = 0;
    for (unsigned i = 0; i < log->n_slots; i++) {
        const struct watched_slot *slot = &log->slots[i];
        uint64_t when = slot->since + 2 * COST_NS - (slot->credit_ns < 2 * COST_NS ? slot->credit_ns : 2 * COST_NS);
        if (slot->behind && (due == 0 || when < due))
            due = when;
    }
    return due;
}

unsigned watch_log_take_flapping(struct watch_log *log)
{
    unsigned i = 0;
    while (i < log->n_slots && log->slots[i].held <= log->slots[i].said * 2)
        i++;
    if (i < log->n_slots)
        log->slots[i].said = log->slots[i].held;
    return i;
}

/* ---- what is told ---- */

bool watch_log_has(const struct watch_log *log, uint64_t after)
{
    return after >= log->begun && after <= log->number && log->number - after <= LIMIT_EVENTS;
}

const struct slot_event *watch_log_event(const struct watch_log *log, uint64_t number)
{
    return &log->events[number % LIMIT_EVENTS];
}
