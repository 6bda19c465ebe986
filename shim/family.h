/*
 * The processes that share a helper (`fork = "inherit"`): the one that had it started and those it forked. What is different in
 * them: which sessions a process may use, and that it closes and logs out only itself.
 *
 * The helper holds up its end in share.c.
 */
#ifndef P11HOST_FAMILY_H
#define P11HOST_FAMILY_H

#include "exchange.h"

/* A call to a slot of a module that is shared. */
CK_RV family_slot(struct call *call);

/* A call with a session of this process's own in such a module. */
CK_RV family_session(struct call *call);

/* A call with a session handle that is not this process's own: one that it has inherited, or none. */
CK_RV family_inherited(struct call *call);

#endif
