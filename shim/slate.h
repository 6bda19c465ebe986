/*
 * A helper's slate: memory where it notes what it is doing. The broker made it and reads it, when the helper has died or somebody asks.
 *
 * A note is a store of one word, which nobody waits for. Each channel has a mark on a cache line of its own, and a page of its own to
 * count calls on. Looking at the clock costs more than a quick call may: of those only some are timed, and stand for the others.
 * The layout stands in p11host/slate.py once more.
 */
#ifndef P11HOST_SLATE_H
#define P11HOST_SLATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

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

/* The threads of the watch, which call the provider for no channel. They have a mark, and are counted nowhere. */
enum slate_watcher { SLATE_LOOKER, SLATE_WAITER, SLATE_WATCHERS };

enum {
    SLATE_FUNCTIONS = 128,       /* at least FUNCTION_COUNT */
    SLATE_BUCKETS = 62,
    SLATE_FIRST_BITS = 7,        /* the first bucket is for less than 2^7 ns, then come two for each power of two */
    SLATE_TIMED_AT_FIRST = 64,   /* calls of a function that are all timed; */
    SLATE_SLOW_NS = 4096,        /* then those of a function that takes so long on average, */
    SLATE_SPARSE_BITS = 6,       /* and of others one in at most 2^6, by chance */
};

/* Calls of one function through one channel; its thread alone writes there. */
struct slate_tally {
    _Atomic uint64_t calls, errors; /* errors: all that did not return CKR_OK */
    _Atomic uint64_t due;           /* so many calls come before the next that is timed */
    _Atomic uint64_t timed;         /* the calls that have been timed, or for which one has stood */
};

/* How long the calls of one function took, through whatever channel. */
struct slate_gauge {
    _Atomic uint64_t nanoseconds, timed; /* of so many */
    _Atomic uint64_t buckets[SLATE_BUCKETS];
};

struct slate {
    _Atomic uint32_t phase;
    _Atomic uint32_t served; /* how many processes use this helper: the first of the pids */
    _Atomic uint32_t user;   /* 1 once a user has logged in in this life, by a call of the application's */
    _Atomic uint32_t pin;    /* enum slate_pin */
    uint8_t apart[48];
    struct slate_mark marks[LIMIT_CHANNELS];
    _Atomic uint32_t pids[LIMIT_CHANNELS];
    struct slate_mark watchers[SLATE_WATCHERS];
    uint8_t aside[3904];
    struct slate_gauge gauges[SLATE_FUNCTIONS];
    struct slate_tally tallies[LIMIT_CHANNELS][SLATE_FUNCTIONS]; /* a page each; those that no channel had take no memory */
};

/* NULL before one of these two has made it; then there is no channel with a mark. */
extern struct slate *slate;

/* The file behind this descriptor, which stays the caller's, is the slate from now on. Nothing is, if it is too small. */
void slate_use(int fd);

/* Without a file: what is written there nobody reads. False when out of memory. */
bool slate_make(void);

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

static inline uint64_t slate_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Before a call: when it began, 0 if that is not wanted. */
static inline uint64_t slate_begin(const struct slate_tally *tally)
{
    uint64_t calls = atomic_load_explicit(&tally->calls, memory_order_relaxed);
    return calls < atomic_load_explicit(&tally->due, memory_order_relaxed) ? 0 : slate_clock();
}

/* It took so long, and stands for those that were not timed before it. */
void slate_time(struct slate_tally *tally, struct slate_gauge *gauge, uint64_t nanoseconds);

/* After it. */
static inline void slate_count(struct slate_tally *tally, struct slate_gauge *gauge, uint64_t began, bool failed)
{
    uint64_t calls = atomic_load_explicit(&tally->calls, memory_order_relaxed);
    atomic_store_explicit(&tally->calls, calls + 1, memory_order_relaxed);
    if (failed)
        atomic_fetch_add_explicit(&tally->errors, 1, memory_order_relaxed);
    if (began)
        slate_time(tally, gauge, slate_clock() - began);
}

/* Which channel's it is; 0 for none. */
static inline uint64_t slate_place(const struct slate_mark *mark)
{
    return mark ? (uint64_t)(mark - slate->marks) + 1 : 0;
}

/* A thread alone writes to its mark. */
static inline void slate_enter(struct slate_mark *mark, unsigned fn)
{
    uint64_t answered = atomic_load_explicit(&mark->word, memory_order_relaxed) >> SLATE_COUNT_SHIFT;
    atomic_store_explicit(&mark->word, answered << SLATE_COUNT_SHIFT | (fn + 1) << 1 | SLATE_BUSY, memory_order_relaxed);
}

/* The index of the function that is being called, -1 for none. */
static inline int slate_function(const struct slate_mark *mark)
{
    uint64_t word = atomic_load_explicit(&mark->word, memory_order_relaxed);
    return word & SLATE_BUSY ? (int)(word >> 1 & 0x7fff) - 1 : -1;
}

static inline void slate_leave(struct slate_mark *mark)
{
    uint64_t word = atomic_load_explicit(&mark->word, memory_order_relaxed);
    atomic_store_explicit(&mark->word, (word & ~(uint64_t)SLATE_BUSY) + (UINT64_C(1) << SLATE_COUNT_SHIFT), memory_order_relaxed);
}

#endif
