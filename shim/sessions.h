/*
 * The sessions of one module, by their handles: in the shim those that a forked child may use too, in a helper that several
 * processes share those that are open, and whose they are; in one whose sessions are bound to tokens whether they may be used.
 *
 * A table is read in a child as it was in its parent at the fork, whatever the parent's threads were doing: a session is
 * written before its handle, a larger table before it takes the place of the smaller one, and a child takes no lock of its parent's.
 */
#ifndef P11HOST_SESSIONS_H
#define P11HOST_SESSIONS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cryptoki.h"

struct session {
    CK_ULONG handle;
    CK_ULONG slot; /* the provider's */
    CK_FLAGS flags;
    uint32_t life;   /* in the shim: the generation in which it is open; in a helper: whose it is, or what bound.c says */
    CK_ULONG server; /* in the shim: the provider's handle in that life */
    uint64_t face;   /* in the shim: of the token that it was opened on (seen.h), 0 if that cannot be told */
};

struct session_table;

struct sessions {
    pthread_mutex_t lock; /* zero is unlocked */
    _Atomic(struct session_table *) table;
};

/* False when out of memory. */
bool sessions_put(struct sessions *sessions, const struct session *session);

bool sessions_get(struct sessions *sessions, CK_ULONG handle, struct session *ret_session);

/* Removes it; false if it is not there. */
bool sessions_take(struct sessions *sessions, CK_ULONG handle, struct session *ret_session);

/*
 * Notes that a session is open as `server` in the life `life`. Returns what it is open as there: another number if a thread was
 * faster, 0 if it has been closed meanwhile.
 */
CK_ULONG sessions_settle(struct sessions *sessions, CK_ULONG handle, uint32_t life, CK_ULONG server);

/* Finds one with this slot and life, any other life if `others`. */
bool sessions_find(struct sessions *sessions, CK_ULONG slot, uint32_t life, bool others, struct session *ret_session);

/* Finds one of this life. */
bool sessions_find_of(struct sessions *sessions, uint32_t life, struct session *ret_session);

/* All with this slot and this life have the life `to` from now on. How many these are. */
size_t sessions_move(struct sessions *sessions, CK_ULONG slot, uint32_t life, uint32_t to);

void sessions_forget_slot(struct sessions *sessions, CK_ULONG slot);

/* In a child: takes over what its parent had, none of it open yet. False when out of memory. */
bool sessions_inherit(struct sessions *sessions, const struct sessions *parent);

/* Forgets them all. */
void sessions_finish(struct sessions *sessions);

#endif
