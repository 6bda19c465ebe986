/*
 * What a helper keeps of the beginnings of operations: the mechanism of messages, and the memory of a mechanism whose
 * parameter a later call may write.
 *
 * The provider may hold pointers into it, so the arena of the call that began the operation is kept as it is, and the
 * channel goes on with another. Any channel may carry a later call of the same operation.
 */
#ifndef P11HOST_KEPT_H
#define P11HOST_KEPT_H

#include "walk.h"

/* Bits of the address space that the arena of one call reserves. */
enum { CALL_ARENA_BITS = sizeof(void *) == 8 ? 32 : 25 };

/* One call of a function that is about operations. */
struct keeping {
    struct recall recall;
    struct operation *room; /* for the one it begins */
};

/* Once, before any call. */
void kept_init(void);

/* Before the request is read: what the walk needs for it. */
void kept_expect(struct keeping *keeping, struct walk *walk);

/*
 * Before the provider is called. Sets the reader's error where a message's parameter is not one of its operation, or there
 * is no memory for what must be kept.
 */
void kept_prepare(struct keeping *keeping, struct walk *walk);

/* After the response is written: keeps what has begun, the walk's arena with it, and lets go of what has ended. */
void kept_follow(struct keeping *keeping, struct walk *walk, CK_RV rv);

#endif
