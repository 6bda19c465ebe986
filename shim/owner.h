/*
 * Whose a channel is. A program may fork in a signal handler, within a call: then the child comes back into it with a channel of its
 * parent's, which is none of its business. So whoever is about to do what the peer can see looks here first, as late as
 * can be.
 */
#ifndef P11HOST_OWNER_H
#define P11HOST_OWNER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* All zero: nobody's in particular, as at the helper's end. */
struct owner {
    uint32_t life;                /* the number of the process's life */
    const _Atomic uint32_t *page; /* where it stands, if that is wiped at fork; else `now` tells */
    uint32_t (*now)(void);
};

static inline bool owner_is_another(const struct owner *owner)
{
    if (owner->page)
        return atomic_load_explicit(owner->page, memory_order_relaxed) != owner->life;
    return owner->now && owner->now() != owner->life;
}

#endif
