/* What the shim remembers of a session's operations from one call for the next: what is recalled before a call, and what follows from it. */
#ifndef P11HOST_REMEMBER_H
#define P11HOST_REMEMBER_H

#include "exchange.h"

/* Before the call, of a function that has a role. */
void remember_recall(const struct call *call, struct walk *walk, struct recall *recall);

/* After it. */
void remember_follow(const struct call *call, const struct walk *walk, CK_RV rv);

#endif
