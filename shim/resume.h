/*
 * Resuming (`resume = true`): what an application had open when its helper died it has again in the next one.
 *
 * Sessions are opened again by family.c; here objects of the token are found again, and the user logs in again with the PIN that
 * the broker gave the helper. What was made in a session, and what was in progress, is gone. Nothing is executed twice.
 */
#ifndef P11HOST_RESUME_H
#define P11HOST_RESUME_H

#include "exchange.h"

/* The provider's handle of an object, in this generation. False if it is not known, or cannot be found again for certain. */
bool resume_object(struct call *call, CK_ULONG client, CK_ULONG *ret_server);

/* Before and after a call with a session: what it makes of objects and of logins. */
void resume_foresee(const struct call *call);
void resume_follow(const struct call *call, CK_RV rv);

/* Has the user logged in, where that can be done again? Then the broker is asked for the PIN. */
bool resume_wants_login(const struct module *module);

/* A session of this slot has been closed, or all of them. */
void resume_closed(struct module *module, CK_ULONG slot);

/*
 * A session has been opened on the token with this face, and is the call's: if the user had logged in in its slot, that is done again, once in a
 * generation; but not to another token.
 */
void resume_login(const struct call *call, uint64_t face);

#endif
