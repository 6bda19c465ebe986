/*
 * An arena: one contiguous range of addresses, reserved whole and given memory only as it is used.
 *
 * Contiguous, so that pointers into it stay valid while it grows and a snapshot of a part of it is one memcpy.
 * Reserved, so that no number a peer claims ever becomes memory: pages arrive when they are written.
 */
#ifndef P11HOST_ARENA_H
#define P11HOST_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena {
    uint8_t *base;
    size_t used;      /* bytes handed out */
    size_t committed; /* bytes that may be touched */
    size_t reserved;  /* bytes of address space */
};

/* 0 or -ENOMEM. */
int arena_init(struct arena *arena, size_t reserve);
void arena_finish(struct arena *arena);

/* Makes the first `size` bytes touchable. False when over the reservation or out of memory. */
bool arena_commit(struct arena *arena, size_t size);

/* 16-byte aligned, not cleared beyond what arena_reset cleared. NULL when there is no room. Size 0 gives a valid pointer. */
void *arena_alloc(struct arena *arena, size_t size);

/* The size arena_alloc was asked for. */
size_t arena_size(const void *allocation);

/*
 * Hands everything out again. Wipes the first ARENA_WIPE bytes of what was used, and gives memory back to the system, which
 * wipes it too: beyond ARENA_KEEP, or all the rest if `secret`.
 */
void arena_reset(struct arena *arena, bool secret);

enum { ARENA_WIPE = 64 * 1024, ARENA_KEEP = 8 * 1024 * 1024 };

#endif
