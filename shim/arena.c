#include "arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, HEADER = 16, FIRST_COMMIT = 64 * 1024 };

int arena_init(struct arena *arena, size_t reserve)
{
    void *base = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -ENOMEM;
    *arena = (struct arena){.base = base, .reserved = reserve};
    if (!arena_commit(arena, FIRST_COMMIT)) {
        arena_finish(arena);
        return -ENOMEM;
    }
    return 0;
}

void arena_finish(struct arena *arena)
{
    if (arena->base)
        munmap(arena->base, arena->reserved);
    *arena = (struct arena){0};
}

bool arena_commit(struct arena *arena, size_t size)
{
    if (size <= arena->committed)
        return true;
    if (size > arena->reserved)
        return false;
    size_t target = arena->committed * 2;
    if (target < size)
        target = size;
    target = (target + PAGE - 1) & ~(size_t)(PAGE - 1);
    if (target > arena->reserved)
        target = arena->reserved;
    if (mprotect(arena->base, target, PROT_READ | PROT_WRITE) != 0)
        return false;
    arena->committed = target;
    return true;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    size_t room = arena->reserved - arena->used;
    if (room < HEADER || size > room - HEADER)
        return NULL;
    size_t end = arena->used + HEADER + size;
    if (!arena_commit(arena, end))
        return NULL;
    uint8_t *header = arena->base + arena->used;
    memcpy(header, &size, sizeof size);
    arena->used = (end + HEADER - 1) & ~(size_t)(HEADER - 1);
    if (arena->used > arena->reserved)
        arena->used = arena->reserved;
    return header + HEADER;
}

size_t arena_size(const void *allocation)
{
    size_t size;
    memcpy(&size, (const uint8_t *)allocation - HEADER, sizeof size);
    return size;
}

/*
 * What was used from `from` on, which begins a page. Pages given back read as zero when touched again, and those never
 * written are not touched; memory that the application has locked cannot be given back.
 */
static void give_back(struct arena *arena, size_t from)
{
    if (arena->used <= from)
        return;
    if (madvise(arena->base + from, arena->used - from, MADV_DONTNEED) != 0)
        explicit_bzero(arena->base + from, arena->used - from);
    arena->used = from;
}

void arena_reset(struct arena *arena, bool secret)
{
    give_back(arena, secret ? ARENA_WIPE : ARENA_KEEP);
    explicit_bzero(arena->base, arena->used < ARENA_WIPE ? arena->used : (size_t)ARENA_WIPE);
    arena->used = 0;
}
