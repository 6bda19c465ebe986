/*
 * The memory that this process shares with helpers, listed in ordinary memory so that a child finds it.
 *
 * A child has its parent's: it could read there what its parent says and hears from then on, PINs and keys among it, and write.
 */
#ifndef P11HOST_SHARED_H
#define P11HOST_SHARED_H

/* A channel's bell, trays and shelf; NULL is none. A child forked before this has it for good, as it has what it copied. */
void shared_remember(void *page);

/* Before it is unmapped. */
void shared_forget(void *page);

/*
 * In a child, before its first life: memory of its own, all zero, takes the place of its parent's. It is not unmapped: who forked in a
 * signal handler comes back into a call that looks there.
 */
void shared_leave_inherited(void);

#endif
