/*
 * Memory with a wall behind it: what is given out ends where a page begins that cannot be touched. Reading or writing
 * one byte too many ends the program, sanitizer or not.
 *
 * A caller's arguments are built here, so that one comparison tells whether anything but an output was written.
 */
#ifndef P11HOST_FENCE_H
#define P11HOST_FENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Never NULL; size 0 gives the address of the wall. Aligned as far as `size` is. Filled with FENCE_FILL. */
void *fence_alloc(size_t size);

/* True when only a few more can be given out: whoever makes things up should come to an end. */
bool fence_is_full(void);

/* Takes everything back. */
void fence_reset(void);

/* Remembers what everything given out holds now. */
void fence_snapshot(void);

/* Gives a part of it the contents it had then. */
void fence_restore(void *at, size_t size);

/* The first byte that differs from the snapshot, or NULL. */
const void *fence_first_change(void);

enum { FENCE_FILL = 0x5c };

#endif
