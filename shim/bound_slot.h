/*
 * What is known of each slot that sessions were opened in, and of these sessions: on which token, and what has become of it.
 *
 * Must not know a provider: whoever calls it looks, and tells what was seen. All here is under one lock, which is never held for long. A slot
 * stays for good.
 */
#ifndef P11HOST_BOUND_SLOT_H
#define P11HOST_BOUND_SLOT_H

#include <pthread.h>

#include "sessions.h"
#include "watch_log.h"

/*
 * What a session's `life` says here. All but OPEN are refused: LOST is open with the provider, STUBBORN could not be closed there. The number of
 * one that is CLOSED is not given to another until whoever has it has been told; a session that gets it all the same is SURPLUS for a moment.
 */
enum { BOUND_OPEN = 1, BOUND_LOST, BOUND_CLOSED, BOUND_STUBBORN, BOUND_SURPLUS };

struct bound_slot {
    CK_SLOT_ID id;
    unsigned open;     /* sessions */
    bool known;        /* on what they were opened: */
    struct token_face token;
    uint64_t since;    /* when that was looked at */
    uint64_t losses;   /* times that they were lost */
    bool told;         /* somebody has been told of the last loss */
    bool warned;       /* the provider has said itself that the token was removed */
    uint64_t prompts;  /* reasons to look again, so far */
    bool doubtful;     /* there is one that nobody has looked for */
    bool refusing;     /* some of its sessions are refused, */
    bool unclosed;     /* and some of these are LOST */
    pthread_rwlock_t gate; /* zero is unlocked; sessions are opened under it, those that were lost closed alone */
};

/* Of all slots. What stands there may be asked and, as to SURPLUS, CLOSED and STUBBORN, changed without the lock. */
extern struct sessions bound_sessions;

/* Some slot is doubtful or refusing. */
extern _Atomic bool bound_alert;

/* How many sessions have been opened. The `server` of one that is OPEN is how many there were with it. */
extern _Atomic CK_ULONG bound_opened;

/* NULL if there is no room for one more. */
struct bound_slot *bound_slot_find_or_add(CK_SLOT_ID id);

/* Where a session was opened; NULL if nothing is known of it. */
struct bound_slot *bound_slot_of(CK_ULONG handle, struct session *ret_session);

/* The slot at this place, in the order in which they were added; NULL at the end. */
struct bound_slot *bound_slot_at(unsigned place);

/* ---- sessions ---- */

/* One that was opened after so many losses: if there has been another, it is lost, too. False when out of memory. */
bool bound_slot_put(struct bound_slot *slot, CK_ULONG handle, uint64_t losses);

/* Forgets one with that life. False if there is none. */
bool bound_slot_take(struct bound_slot *slot, CK_ULONG handle, uint32_t life, uint64_t *ret_losses);

/* The provider has said that there is no such session, in a call that began when so many had been opened: a later one is not meant. */
void bound_slot_told(CK_ULONG handle, CK_ULONG opened);

/* All have been closed. */
void bound_slot_forget_all(CK_SLOT_ID id);

/* So many times were sessions lost. */
uint64_t bound_slot_losses(struct bound_slot *slot);

/* Some that were lost have yet to be closed; or no more, as far as there are none. */
bool bound_slot_has_unclosed(struct bound_slot *slot);
void bound_slot_all_closed(struct bound_slot *slot);

/* One is refused. Has somebody been told of the loss before? */
bool bound_slot_tell(struct bound_slot *slot);

/* ---- tokens ---- */

bool bound_slot_is_unused(struct bound_slot *slot);
bool bound_slot_is_doubtful(struct bound_slot *slot);

/* There is a reason to look: the provider says that the token of a session was removed. */
void bound_slot_warn(CK_ULONG handle);

/* There is one for all slots with sessions. Are there any? */
bool bound_slot_doubt_all(void);

/* Before a look: reasons so far. When it is over, with that number and when it began. */
uint64_t bound_slot_prompts(struct bound_slot *slot);
void bound_slot_looked(struct bound_slot *slot, const struct slot_look *seen, uint64_t prompts, uint64_t began);

/* Somebody else's look. True if some sessions are LOST. */
bool bound_slot_saw(struct bound_slot *slot, const struct slot_look *seen, uint64_t began);

#endif
