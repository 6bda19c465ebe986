/*
 * What an application knows of its slots, and the events it has yet to hear of.
 *
 * Until it first waits for an event it is what calls have told it; from then on, what events have. An event is one that has not been
 * delivered: of each slot there is a count, so that none is lost, and those of one slot come in their order by themselves.
 * Each slot is one word, changed by compare-and-swap: threads may call meanwhile.
 */
#ifndef P11HOST_SEEN_H
#define P11HOST_SEEN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cryptoki.h"
#include "limits.h"
#include "token_face.h"

struct seen {
    _Atomic uint64_t pending; /* events, of all slots */
    _Atomic CK_ULONG next;    /* the place after the one whose was delivered last */
    _Atomic uint64_t slots[LIMIT_SLOTS];
};

/* UNTOLD: it knows the slot, and not what is in it. */
enum seen_state { SEEN_NOTHING, SEEN_UNTOLD, SEEN_EMPTY, SEEN_TOKEN };

/* A number for a token, never 0: that stands for one of which no more is known. */
uint64_t seen_face(const struct token_face *face);

/*
 * A call has told it. Ids are the application's. `before` is the slot as it was when nothing but calls told of it yet: what has been learnt since is
 * newer than what the call says.
 */
uint64_t seen_before(const struct seen *seen, CK_ULONG slot);
void seen_tell(struct seen *seen, CK_ULONG slot, uint64_t before, enum seen_state state, uint64_t face);

/* An event says what is in the slot now. */
void seen_event(struct seen *seen, CK_ULONG slot, enum seen_state state, uint64_t face);

/* Before a snapshot, for each slot of the module. */
void seen_unmark(struct seen *seen, CK_ULONG slot);

/*
 * A snapshot says it: what differs from what it knows is an event, two if there is another token. The slot is marked. What it knows nothing of is
 * new, if it knew all there were.
 */
void seen_compare(struct seen *seen, CK_ULONG slot, enum seen_state state, uint64_t face, bool knew_all);

/* After it, again for each: unless it was marked, there is none any more. */
void seen_sweep(struct seen *seen, CK_ULONG slot);

/* The module's helper has gone: its token, too, until the next one says that it is there. */
void seen_lose(struct seen *seen, CK_ULONG slot);

/* The next event's slot, fairly; false if there is none. */
bool seen_take(struct seen *seen, CK_ULONG *ret_slot);

#endif
