#include "slate.h"

#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tables.h"

_Static_assert(FUNCTION_COUNT <= SLATE_FUNCTIONS, "there is a tally for each function");
_Static_assert(sizeof(struct slate_gauge) == 512 && sizeof(struct slate_tally[SLATE_FUNCTIONS]) == 4096, "as p11host/slate.py has it");
_Static_assert(offsetof(struct slate, gauges) % 4096 == 0 && offsetof(struct slate, tallies) % 4096 == 0, "pages of their own");

struct slate *slate;

static void map(int flags, int fd)
{
    void *at = mmap(NULL, sizeof *slate, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at != MAP_FAILED)
        slate = at;
}

void slate_use(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && st.st_size >= (off_t)sizeof *slate)
        map(MAP_SHARED, fd);
}

/* Shared, though with nobody: it is no part of the data that a helper's limit is about. */
bool slate_make(void)
{
    map(MAP_SHARED | MAP_ANONYMOUS, -1);
    return slate != NULL;
}

static unsigned bucket_of(uint64_t nanoseconds)
{
    if (nanoseconds >> SLATE_FIRST_BITS == 0)
        return 0;
    unsigned top = 63 - (unsigned)__builtin_clzll(nanoseconds);
    unsigned bucket = 2 * (top - SLATE_FIRST_BITS) + (unsigned)(nanoseconds >> (top - 1) & 1) + 1;
    return bucket < SLATE_BUCKETS ? bucket : SLATE_BUCKETS - 1;
}

/* What comes in turns must not be met at the same turn each time. */
static uint64_t some_calls(uint64_t seed)
{
    uint64_t mixed = seed * UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ mixed >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return mixed >> (64 - SLATE_SPARSE_BITS);
}

/* Whether the next is timed follows from all of them, not from this one: else the slow would count for more than they are. */
void slate_time(struct slate_tally *tally, struct slate_gauge *gauge, uint64_t nanoseconds)
{
    uint64_t calls = atomic_load_explicit(&tally->calls, memory_order_relaxed);
    uint64_t weight = calls - atomic_load_explicit(&tally->timed, memory_order_relaxed), took = weight * nanoseconds;
    atomic_fetch_add_explicit(&gauge->buckets[bucket_of(nanoseconds)], weight, memory_order_relaxed);
    uint64_t all = atomic_fetch_add_explicit(&gauge->timed, weight, memory_order_relaxed) + weight;
    uint64_t sum = atomic_fetch_add_explicit(&gauge->nanoseconds, took, memory_order_relaxed) + took;
    bool dense = calls < SLATE_TIMED_AT_FIRST || sum / SLATE_SLOW_NS >= all;
    atomic_store_explicit(&tally->timed, calls, memory_order_relaxed);
    atomic_store_explicit(&tally->due, dense ? calls : calls + some_calls(calls + nanoseconds), memory_order_relaxed);
}
