/* The arena: addresses that stay, memory that comes with use, nothing left behind. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena.h"
#include "test.h"

enum { RESERVE = 64 * 1024 * 1024 };

static struct arena arena;

static void begin(size_t reserve)
{
    arena_finish(&arena);
    expect_number(0, arena_init(&arena, reserve));
}

/* Pages of the first `size` bytes that hold memory now. */
static size_t resident(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 0;
    static unsigned char there[RESERVE / 4096];
    expect_number(0, mincore(arena.base, size, there));
    for (size_t i = 0; i < size / page; i++)
        n += there[i] & 1;
    return n;
}

static void allocations_are_aligned(void)
{
    begin(RESERVE);
    for (size_t size = 0; size < 100; size++)
        expect_number(0, (uintptr_t)arena_alloc(&arena, size) % 16);
}

static void allocations_know_their_size(void)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 4096, 100000, 5 * 1024 * 1024};
    begin(RESERVE);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *memory = arena_alloc(&arena, sizes[i]);
        expect(memory != NULL);
        memset(memory, 1, sizes[i]);
        expect_number(sizes[i], arena_size(memory));
    }
}

static void allocations_do_not_overlap(void)
{
    uint8_t *last = NULL;
    begin(RESERVE);
    for (size_t size = 0; size < 300; size++) {
        uint8_t *memory = arena_alloc(&arena, size);
        expect(!last || memory >= last + arena_size(last));
        last = memory;
    }
}

static void growth_keeps_addresses(void)
{
    begin(RESERVE);
    char *first = arena_alloc(&arena, 10);
    memcpy(first, "here still", 10);
    const uint8_t *base = arena.base;
    for (unsigned i = 0; i < 200; i++)
        memset(arena_alloc(&arena, 100000), 2, 100000);
    expect(base == arena.base);
    expect_bytes("here still", first, 10);
}

static void the_reservation_is_the_limit(void)
{
    begin(1024 * 1024);
    expect(arena_alloc(&arena, 1024 * 1024) == NULL);
    expect(arena_alloc(&arena, SIZE_MAX) == NULL);
    expect(arena_alloc(&arena, SIZE_MAX - 15) == NULL);
    expect(arena_alloc(&arena, 1024 * 1024 - 16) != NULL);
    expect(arena_alloc(&arena, 0) == NULL);
    expect(!arena_commit(&arena, 1024 * 1024 + 1));
    expect(arena_commit(&arena, 1024 * 1024));
}

static void a_full_arena_serves_again_after_reset(void)
{
    begin(1024 * 1024);
    while (arena_alloc(&arena, 1000))
        continue;
    arena_reset(&arena, false);
    expect_number(0, arena.used);
    expect(arena_alloc(&arena, 1000) != NULL);
}

static void odd_reservations_are_usable_to_the_last_byte(void)
{
    begin(100001);
    uint8_t *memory = arena_alloc(&arena, 100001 - 16);
    expect(memory != NULL);
    memory[100001 - 17] = 1;
    expect(arena_alloc(&arena, 0) == NULL);
    arena_reset(&arena, true);
    expect(arena_alloc(&arena, 100001 - 16) != NULL);
}

static void a_reservation_that_cannot_be_fails(void)
{
    struct arena none;
    expect_number(-ENOMEM, arena_init(&none, SIZE_MAX / 8 * 7));
}

/* A capacity of 1 GiB that a peer claims is address space until the provider writes. */
static void allocation_is_not_memory(void)
{
    begin(RESERVE);
    size_t before = resident(RESERVE);
    expect(arena_alloc(&arena, RESERVE / 2) != NULL);
    expect(resident(RESERVE) <= before + 2);
}

static bool is_zero(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (arena.base[i])
            return false;
    return true;
}

static void use(size_t size)
{
    begin(RESERVE);
    memset(arena_alloc(&arena, size), 0xee, size);
}

static void secrets_are_wiped_whole(void)
{
    static const size_t sizes[] = {1, 100, ARENA_WIPE + 1, 1024 * 1024, ARENA_KEEP - 16, ARENA_KEEP, ARENA_KEEP + 100000, 3 * ARENA_KEEP};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        use(sizes[i]);
        test_case("%zu bytes", sizes[i]);
        arena_reset(&arena, true);
        expect(is_zero(0, sizes[i] + 16));
    }
}

static void the_beginning_is_always_wiped(void)
{
    use(1024 * 1024);
    arena_reset(&arena, false);
    expect(is_zero(0, ARENA_WIPE));
}

static void much_memory_is_given_back(void)
{
    use(5 * ARENA_KEEP);
    arena_reset(&arena, false);
    expect(resident(6 * ARENA_KEEP) <= ARENA_KEEP / (size_t)sysconf(_SC_PAGESIZE));
}

/* A caller's buffer of some MiB, of which the provider wrote little. */
static void what_was_never_written_is_not_wiped(void)
{
    begin(RESERVE);
    expect(arena_alloc(&arena, ARENA_KEEP / 2) != NULL);
    expect(resident(ARENA_KEEP) <= 1);
    arena_reset(&arena, true);
    expect(resident(ARENA_KEEP) <= ARENA_WIPE / (size_t)sysconf(_SC_PAGESIZE));
}

static void secrets_in_locked_memory_are_wiped(void)
{
    use(1024 * 1024);
    if (mlock(arena.base, ARENA_WIPE * 2) != 0) {
        test_note("no memory can be locked here");
        return;
    }
    arena_reset(&arena, true);
    expect(is_zero(0, 1024 * 1024 + 16));
}

static void finishing_twice_is_harmless(void)
{
    begin(RESERVE);
    arena_finish(&arena);
    arena_finish(&arena);
    expect(arena.base == NULL);
}

static const struct test tests[] = {
    TEST(allocations_are_aligned, "whatever is asked for, it is aligned for any type"),
    TEST(allocations_know_their_size, "an allocation knows the size it was asked for"),
    TEST(allocations_do_not_overlap, "no two allocations share a byte"),
    TEST(growth_keeps_addresses, "what was handed out stays where it is while the arena grows"),
    TEST(the_reservation_is_the_limit, "nothing is handed out beyond the reservation, however wild the size"),
    TEST(a_full_arena_serves_again_after_reset, "a reset hands everything out again"),
    TEST(odd_reservations_are_usable_to_the_last_byte, "a reservation need be no multiple of a page"),
    TEST(a_reservation_that_cannot_be_fails, "an impossible reservation fails"),
    TEST(allocation_is_not_memory, "a large allocation takes no memory until it is written"),
    TEST(secrets_are_wiped_whole, "a reset after secrets leaves none of what was used"),
    TEST(the_beginning_is_always_wiped, "any reset wipes the beginning, where small calls are"),
    TEST(much_memory_is_given_back, "memory beyond what is kept goes back to the system"),
    TEST(what_was_never_written_is_not_wiped, "what was claimed and never written costs nothing to wipe"),
    TEST(secrets_in_locked_memory_are_wiped, "memory the application has locked is wiped all the same"),
    TEST(finishing_twice_is_harmless, "a finished arena can be finished again"),
};

TEST_MAIN(tests)
