/*
 * What is in each slot of a provider, and the changes there were, numbered (specs/PROTOCOL.md, section 4.10).
 *
 * Knows states, numbers and a clock that it is told. Must not know threads, providers or channels: all here is the watch's, under
 * its lock.
 */
#ifndef P11HOST_WATCH_LOG_H
#define P11HOST_WATCH_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "cryptoki.h"
#include "limits.h"
#include "token_face.h"

enum slot_state { SLOT_NONE, SLOT_EMPTY, SLOT_TOKEN };

struct slot_look {
    CK_SLOT_ID slot;
    enum slot_state state;
    bool unclear; /* what token it is could not be found out: then it is the one that was there, if there was one */
    struct token_face token;
};

/* What is in a slot after a change. */
struct slot_event {
    uint64_t number;
    struct slot_look after;
};

/* A slot as it was told last. */
struct watched_slot {
    struct slot_look told;
    uint64_t credit_ns, since; /* how much it may change, and when that was reckoned */
    uint64_t stirred;          /* when its last event was logged, */
    bool claimed;              /* of which the provider's own wait has told since, too */
    uint64_t held, said;       /* changes that were not told one by one, and how many of them the log knows of */
    bool behind;               /* there is a change that has yet to be told */
};

struct watch_log {
    bool narrow;     /* slots are shown by what is in them: that an empty one comes or goes is no event */
    uint64_t number; /* of the last event; before the first one where the numbers of this life begin */
    uint64_t begun;
    unsigned n_slots;
    struct watched_slot slots[LIMIT_MODULE_SLOTS];
    struct slot_event events[LIMIT_EVENTS]; /* a ring */
};

/* Begins with what is seen first, which is no event. `now` is a time of the monotonic clock in nanoseconds, also of those below. */
void watch_log_begin(struct watch_log *log, const struct slot_look *seen, unsigned n_seen, uint64_t now);

/* Has anything changed since? */
bool watch_log_differs(const struct watch_log *log, const struct slot_look *seen, unsigned n_seen);

/*
 * Logs the changes since: those between two tokens are two. A slot that changes too often is told of now and then only, its last
 * state always. How many changes there were, told or not.
 */
unsigned watch_log_compare(struct watch_log *log, const struct slot_look *seen, unsigned n_seen, uint64_t now);

enum stir { STIR_NO_SLOT, STIR_KNOWN, STIR_TOLD };

/*
 * The provider's wait says that something has happened there. Where nothing is to be seen that is an event, unless it is about the one that was
 * seen a moment ago.
 */
enum stir watch_log_stir(struct watch_log *log, CK_SLOT_ID slot, uint64_t now);

/* When a slot that was told of too often may be told of again, 0 if none waits for that. */
uint64_t watch_log_due(const struct watch_log *log);

/* A slot of which more is to be said in the log: its place there, or n_slots. Counts as said. */
unsigned watch_log_take_flapping(struct watch_log *log);

/* Can all changes after this number be told? */
bool watch_log_has(const struct watch_log *log, uint64_t after);

const struct slot_event *watch_log_event(const struct watch_log *log, uint64_t number);

#endif
