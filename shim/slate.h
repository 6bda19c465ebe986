/*
 * A helper's slate: memory where it notes what it is doing. The broker made it and reads it, when the helper has died or somebody asks.
 *
 * A note is a store of one word, which nobody waits for. Each channel has a mark on a cache line of its own; the rest of that line is
 * for what may be counted there later. Its layout stands in p11host/slate.py once more.
 */
#ifndef P11HOST_SLATE_H
#define P11HOST_SLATE_H

#include <stdatomic.h>
#include <stdint.h>

#include "limits.h"

/* What the main thread is at. Only in SERVING are there channels. DESERTED: nobody waited any more until it was ready. */
enum slate_phase { SLATE_BORN, SLATE_LOADING, SLATE_SPARE, SLATE_INITIALIZING, SLATE_SERVING, SLATE_LEAVING, SLATE_DESERTED };

/* What became of the PIN that the broker gave (pin.h). */
enum slate_pin { SLATE_PIN_UNUSED, SLATE_PIN_TRIED, SLATE_PIN_GOOD, SLATE_PIN_REFUSED };

/* Calls that were answered, then 15 bits for a function's index + 1, then whether it is being called. */
struct slate_mark {
    _Atomic uint64_t word;
    uint8_t apart[56];
};

enum { SLATE_COUNT_SHIFT = 16, SLATE_BUSY = 1 };

struct slate {
    _Atomic uint32_t phase;
    _Atomic uint32_t served; /* how many processes use this helper: the first of the pids */
    _Atomic uint32_t user;   /* 1 once a user has logged in in this life, by a call of the application's */
    _Atomic uint32_t pin;    /* enum slate_pin */
    uint8_t apart[48];
    struct slate_mark marks[LIMIT_CHANNELS];
    _Atomic uint32_t pids[LIMIT_CHANNELS];
};

/* Where there is none: what is written there nobody reads. */
extern struct slate *slate;

/* The file behind this descriptor, which stays the caller's, is the slate from now on. */
void slate_use(int fd);

static inline void slate_note(enum slate_phase phase)
{
    atomic_store_explicit(&slate->phase, (uint32_t)phase, memory_order_relaxed);
}

static inline void slate_note_user(void)
{
    atomic_store_explicit(&slate->user, 1, memory_order_relaxed);
}

static inline void slate_note_pin(enum slate_pin pin)
{
    atomic_store_explicit(&slate->pin, (uint32_t)pin, memory_order_seq_cst);
}

/* A thread alone writes to its mark. */
static inline void slate_enter(struct slate_mark *mark, unsigned fn)
{
    uint64_t answered = atomic_load_explicit(&mark->word, memory_order_relaxed) >> SLATE_COUNT_SHIFT;
    atomic_store_explicit(&mark->word, answered << SLATE_COUNT_SHIFT | (fn + 1) << 1 | SLATE_BUSY, memory_order_relaxed);
}

static inline void slate_leave(struct slate_mark *mark)
{
    uint64_t word = atomic_load_explicit(&mark->word, memory_order_relaxed);
    atomic_store_explicit(&mark->word, (word & ~(uint64_t)SLATE_BUSY) + (UINT64_C(1) << SLATE_COUNT_SHIFT), memory_order_relaxed);
}

#endif
