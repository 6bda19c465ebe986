#include "fence.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, SMALL = 2048, LARGE = 64, RESERVED = 16, LARGE_SIZE = 512 * 1024 };

/* One page or many, then the wall. Kept from one test to the next. */
struct piece {
    uint8_t *end;  /* where the wall stands */
    uint8_t *copy; /* as it was at the snapshot */
    size_t size;   /* in use before the wall */
};

static struct piece small[SMALL], large[LARGE];
static size_t n_small, n_large;

static void *map(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("fence: mmap");
        abort();
    }
    return memory;
}

static void build(struct piece *piece, size_t room)
{
    uint8_t *memory = map(room + PAGE);
    piece->copy = map(room);
    piece->end = memory + room;
    if (mprotect(piece->end, PAGE, PROT_NONE) != 0) {
        perror("fence: mprotect");
        abort();
    }
}

static struct piece *next(size_t size)
{
    struct piece *piece = size <= PAGE ? &small[n_small] : &large[n_large];
    if (size > LARGE_SIZE || (size <= PAGE ? n_small == SMALL : n_large == LARGE)) {
        fputs("fence: out of pieces\n", stderr);
        abort();
    }
    if (size <= PAGE)
        n_small++;
    else
        n_large++;
    if (!piece->end)
        build(piece, size <= PAGE ? PAGE : LARGE_SIZE);
    return piece;
}

void *fence_alloc(size_t size)
{
    struct piece *piece = next(size);
    piece->size = size;
    memset(piece->end - size, FENCE_FILL, size);
    return piece->end - size;
}

bool fence_is_full(void)
{
    return n_small >= SMALL / 2 || n_large >= LARGE - RESERVED;
}

void fence_reset(void)
{
    n_small = n_large = 0;
}

static void each(void (*act)(struct piece *))
{
    for (size_t i = 0; i < n_small; i++)
        act(&small[i]);
    for (size_t i = 0; i < n_large; i++)
        act(&large[i]);
}

static void remember(struct piece *piece)
{
    memcpy(piece->copy, piece->end - piece->size, piece->size);
}

void fence_snapshot(void)
{
    each(remember);
}

static bool holds(const struct piece *piece, const uint8_t *at)
{
    return at >= piece->end - piece->size && at <= piece->end;
}

static struct piece *find(const uint8_t *at)
{
    for (size_t i = 0; i < n_small; i++)
        if (holds(&small[i], at))
            return &small[i];
    for (size_t i = 0; i < n_large; i++)
        if (holds(&large[i], at))
            return &large[i];
    fputs("fence: not mine\n", stderr);
    abort();
}

void fence_restore(void *at, size_t size)
{
    const struct piece *piece = find(at);
    memcpy(at, piece->copy + ((uint8_t *)at - (piece->end - piece->size)), size);
}

static const uint8_t *first_change(const struct piece *piece)
{
    const uint8_t *now = piece->end - piece->size;
    if (memcmp(now, piece->copy, piece->size) == 0)
        return NULL;
    size_t i = 0;
    while (now[i] == piece->copy[i])
        i++;
    return now + i;
}

const void *fence_first_change(void)
{
    const uint8_t *change = NULL;
    for (size_t i = 0; i < n_small && !change; i++)
        change = first_change(&small[i]);
    for (size_t i = 0; i < n_large && !change; i++)
        change = first_change(&large[i]);
    return change;
}
