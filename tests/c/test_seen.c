/* What an application knows of its slots, and the events it has yet to hear of. */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "names.h"
#include "seen.h"
#include "test.h"

enum { SLOTS = 4, THREADS = 4, EACH = 5000 };

static struct seen seen;
static CK_ULONG n_slots = SLOTS;

/* The part of names.c that is needed. */
CK_ULONG slot_count(void)
{
    return n_slots;
}

static void begin(void)
{
    memset(&seen, 0, sizeof seen);
    n_slots = SLOTS;
}

static void tell(CK_ULONG slot, enum seen_state state, uint64_t face)
{
    seen_tell(&seen, slot, seen_before(&seen, slot), state, face);
}

/* The next event's slot, 0 if there is none. */
static CK_ULONG take(void)
{
    CK_ULONG slot = 0;
    return seen_take(&seen, &slot) ? slot : 0;
}

static unsigned count_all(void)
{
    unsigned n = 0;
    while (take())
        n++;
    return n;
}

static void what_calls_tell_is_no_event(void)
{
    begin();
    tell(1, SEEN_TOKEN, 7);
    tell(1, SEEN_EMPTY, 0);
    tell(2, SEEN_UNTOLD, 0);
    expect_number(0, take());
}

/* Known before; what is there; did it know all; so many events. */
static const struct {
    enum seen_state before, now;
    uint64_t face_before, face_now;
    bool knew_all;
    unsigned events;
} comparisons[] = {
    {SEEN_NOTHING, SEEN_TOKEN, 0, 7, false, 0}, {SEEN_NOTHING, SEEN_TOKEN, 0, 7, true, 1}, {SEEN_NOTHING, SEEN_EMPTY, 0, 0, true, 0},
    {SEEN_UNTOLD, SEEN_TOKEN, 0, 7, true, 0},   {SEEN_EMPTY, SEEN_TOKEN, 0, 7, false, 1},  {SEEN_EMPTY, SEEN_EMPTY, 0, 0, true, 0},
    {SEEN_TOKEN, SEEN_EMPTY, 7, 0, false, 1},   {SEEN_TOKEN, SEEN_TOKEN, 7, 7, true, 0},   {SEEN_TOKEN, SEEN_TOKEN, 7, 8, true, 2},
    {SEEN_TOKEN, SEEN_TOKEN, 0, 8, true, 0},    {SEEN_TOKEN, SEEN_TOKEN, 7, 0, true, 0},
};

static void what_differs_is_an_event(void)
{
    for (size_t i = 0; i < sizeof comparisons / sizeof *comparisons; i++) {
        test_case("comparison %zu", i);
        begin();
        if (comparisons[i].before != SEEN_NOTHING)
            tell(3, comparisons[i].before, comparisons[i].face_before);
        seen_compare(&seen, 3, comparisons[i].now, comparisons[i].face_now, comparisons[i].knew_all);
        expect_number(comparisons[i].events, count_all());
        seen_compare(&seen, 3, comparisons[i].now, comparisons[i].face_now, true);
        expect_number(0, count_all());
    }
}

/* A call that tells no more than that there is a token forgets nothing. */
static void a_face_is_kept(void)
{
    begin();
    tell(1, SEEN_TOKEN, 7);
    tell(1, SEEN_TOKEN, 0);
    tell(1, SEEN_UNTOLD, 0);
    seen_compare(&seen, 1, SEEN_TOKEN, 8, true);
    expect_number(2, count_all());
}

/* The call was made before somebody began to wait, and has come back only now. */
static void what_calls_told_late_is_old(void)
{
    begin();
    tell(1, SEEN_EMPTY, 0);
    uint64_t before = seen_before(&seen, 1);
    seen_unmark(&seen, 1);
    seen_compare(&seen, 1, SEEN_TOKEN, 7, true);
    expect_number(1, count_all());
    seen_tell(&seen, 1, before, SEEN_EMPTY, 0);
    seen_lose(&seen, 1);
    expect_number(1, count_all());
}

static void what_no_snapshot_has_is_gone(void)
{
    begin();
    for (CK_ULONG slot = 1; slot <= 3; slot++)
        seen_compare(&seen, slot, slot == 3 ? SEEN_EMPTY : SEEN_TOKEN, 7, false);
    for (CK_ULONG slot = 1; slot <= 3; slot++)
        seen_unmark(&seen, slot);
    seen_compare(&seen, 2, SEEN_TOKEN, 7, true);
    for (CK_ULONG slot = 1; slot <= 3; slot++)
        seen_sweep(&seen, slot);
    expect_number(1, take());
    expect_number(0, take());
    seen_lose(&seen, 1);
    expect_number(0, take());
    seen_lose(&seen, 2);
    expect_number(2, take());
}

/* Whatever was there before: it says that something happened. */
static void the_same_state_is_an_event(void)
{
    begin();
    tell(2, SEEN_TOKEN, 7);
    seen_event(&seen, 2, SEEN_TOKEN, 7);
    seen_event(&seen, 2, SEEN_TOKEN, 7);
    expect_number(2, take());
    expect_number(2, take());
    expect_number(0, take());
}

static void slots_come_in_turn(void)
{
    begin();
    for (unsigned i = 0; i < 3; i++) {
        seen_event(&seen, 4, SEEN_TOKEN, 7);
        seen_event(&seen, 2, SEEN_TOKEN, 7);
    }
    for (unsigned i = 0; i < 3; i++) {
        expect_number(2, take());
        expect_number(4, take());
    }
    expect_number(0, take());
}

static void many_are_as_many_as_have_room(void)
{
    begin();
    for (unsigned i = 0; i < 3 * LIMIT_UNHEARD; i++)
        seen_event(&seen, 1, i % 2 ? SEEN_EMPTY : SEEN_TOKEN, 7);
    expect_number(LIMIT_UNHEARD, atomic_load(&seen.pending));
    seen_compare(&seen, 1, SEEN_EMPTY, 0, true);
    expect_number(LIMIT_UNHEARD, count_all());
    expect_number(0, atomic_load(&seen.pending));
    seen_event(&seen, 1, SEEN_TOKEN, 7);
    expect_number(1, count_all());
}

static void slots_that_there_cannot_be(void)
{
    static const CK_ULONG wrong[] = {0, LIMIT_SLOTS + FIRST_SLOT_ID, CK_UNAVAILABLE_INFORMATION};
    begin();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tell(wrong[i], SEEN_TOKEN, 7);
        seen_event(&seen, wrong[i], SEEN_TOKEN, 7);
        seen_compare(&seen, wrong[i], SEEN_TOKEN, 7, true);
        seen_unmark(&seen, wrong[i]);
        seen_sweep(&seen, wrong[i]);
        seen_lose(&seen, wrong[i]);
    }
    expect_number(0, atomic_load(&seen.pending));
    n_slots = LIMIT_SLOTS;
    seen_event(&seen, LIMIT_SLOTS, SEEN_TOKEN, 7);
    expect_number(LIMIT_SLOTS, take());
    n_slots = 0;
    seen_event(&seen, 1, SEEN_TOKEN, 7);
    expect_number(0, take());
}

static void faces_differ(void)
{
    struct token_face face = {0}, other = {0};
    expect(seen_face(&face) != 0);
    other.serial[15] = 1;
    expect(seen_face(&face) != seen_face(&other));
    face.flags = CKF_TOKEN_INITIALIZED;
    expect(seen_face(&face) != seen_face(&other));
    other = face;
    expect(seen_face(&face) == seen_face(&other));
}

/* ---- threads ---- */

static _Atomic unsigned told, taken;

static void *tell_on(void *slot)
{
    for (unsigned i = 0; i < EACH; i++) {
        while (atomic_load(&told) - atomic_load(&taken) >= LIMIT_UNHEARD - THREADS)
            sched_yield(); /* no more than have room */
        atomic_fetch_add(&told, 1);
        seen_event(&seen, *(CK_ULONG *)slot, i % 2 ? SEEN_EMPTY : SEEN_TOKEN, 7);
    }
    return NULL;
}

static void *take_on(void *unused)
{
    while (atomic_load(&taken) < THREADS * EACH)
        if (take())
            atomic_fetch_add(&taken, 1);
        else
            sched_yield();
    return unused;
}

static void none_is_lost_or_taken_twice(void)
{
    pthread_t threads[2 * THREADS];
    CK_ULONG slots[THREADS] = {1, 1, 2, 3};
    begin();
    for (unsigned i = 0; i < THREADS; i++) {
        expect_number(0, pthread_create(&threads[i], NULL, tell_on, &slots[i]));
        expect_number(0, pthread_create(&threads[THREADS + i], NULL, take_on, NULL));
    }
    for (unsigned i = 0; i < 2 * THREADS; i++)
        expect_number(0, pthread_join(threads[i], NULL));
    expect_number(THREADS * EACH, atomic_load(&taken));
    expect_number(0, atomic_load(&seen.pending));
    expect_number(0, take());
}

static const struct test tests[] = {
    TEST(what_calls_tell_is_no_event, "What a call says of a slot is known, and is no event."),
    TEST(what_differs_is_an_event, "What differs from what is known is an event, another token two, and each but once."),
    TEST(a_face_is_kept, "A call that says less than is known takes nothing back."),
    TEST(what_calls_told_late_is_old, "A call that comes back late takes nothing back of what has been learnt since."),
    TEST(what_no_snapshot_has_is_gone, "A token whose slot a snapshot lacks is gone; an empty slot was empty."),
    TEST(the_same_state_is_an_event, "The same token pulled and pushed is an event each time."),
    TEST(slots_come_in_turn, "No slot's events keep another's waiting."),
    TEST(many_are_as_many_as_have_room, "Events that nobody takes are counted up to a limit, and that is kept to."),
    TEST(slots_that_there_cannot_be, "A slot that there cannot be is nobody's."),
    TEST(faces_differ, "Tokens are told apart by every field; no token is as one of which nothing is known."),
    TEST(none_is_lost_or_taken_twice, "Threads that tell and threads that take lose no event and make up none."),
};

TEST_MAIN(tests)
