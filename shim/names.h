/*
 * The numbers an application sees: handles that carry their generation, and small slot ids.
 *
 * A client handle is the server handle with the generation it was given out in on top, so the same object has the
 * same handle within a life, and no handle of another life is ever taken for one. A server handle too large for that
 * is kept in a list and named by its place in it.
 *
 * Slot ids live as long as the process: the table is ordinary memory, inherited by a child, and only ever grows.
 */
#ifndef P11HOST_NAMES_H
#define P11HOST_NAMES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "arena.h"
#include "cryptoki.h"

/* Not 0: programs take a slot id for a truth value. */
enum { FIRST_SLOT_ID = 1 };

struct large_handles {
    pthread_mutex_t lock; /* zero is unlocked */
    struct arena list;    /* of CK_ULONG */
    struct arena index;   /* of uint32_t: places in the list, by the handle's hash */
    size_t cells;         /* of the index */
    _Atomic(CK_ULONG) count; /* after what it counts has been written: a child copies the list as it finds it */
};

/* Never 0, never given out before in this process or an ancestor of it (until 2^16 lives have passed). */
uint32_t generation_next(void);

uint32_t handle_generation(CK_ULONG client);
bool handle_to_server(struct large_handles *large, uint32_t generation, CK_ULONG client, CK_ULONG *ret_server);
CK_ULONG handle_to_client(struct large_handles *large, uint32_t generation, CK_ULONG server);

/* In a child: takes over what its parent had given out. False when out of memory. */
bool large_handles_inherit(struct large_handles *large, const struct large_handles *parent);

/* Forgets them all, for the next life or for good. */
void large_handles_finish(struct large_handles *large);

/* A module keeps its number for the life of the process. LIMIT_MODULES when there are too many. */
unsigned module_number(const char *name);

/* The id of a module's slot: a new one if it has none. CK_UNAVAILABLE_INFORMATION when there are too many. */
CK_ULONG slot_to_client(unsigned module, CK_ULONG server);
/* How many ids there are: they count on from FIRST_SLOT_ID. */
CK_ULONG slot_count(void);
bool slot_to_server(CK_ULONG client, unsigned *ret_module, CK_ULONG *ret_server);

#endif
