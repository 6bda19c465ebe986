/* The counters on a helper's slate. Times are the test's own. */
#include <stdbool.h>
#include <string.h>

#include "slate.h"
#include "test.h"

enum { PLACE = 3, FN = 5 };

static struct slate_tally *tally;
static struct slate_gauge *gauge;

static void wipe_slate(void)
{
    expect(slate || slate_make());
    tally = &slate->tallies[PLACE][FN];
    gauge = &slate->gauges[FN];
    memset(tally, 0, sizeof *tally);
    memset(gauge, 0, sizeof *gauge);
}

/* A call that takes so long. True if it was timed. */
static bool call(uint64_t nanoseconds, bool failed)
{
    bool timed = slate_begin(tally) != 0;
    slate_count(tally, gauge, 0, failed);
    if (timed)
        slate_time(tally, gauge, nanoseconds);
    return timed;
}

static uint64_t weight_from(unsigned first)
{
    uint64_t weight = 0;
    for (unsigned i = first; i < SLATE_BUCKETS; i++)
        weight += gauge->buckets[i];
    return weight;
}

static void all_calls_are_counted(void)
{
    wipe_slate();
    for (unsigned i = 0; i < 1000; i++)
        call(100, i % 10 == 0);
    expect_number(1000, tally->calls);
    expect_number(100, tally->errors);
}

static void slow_calls_are_all_timed(void)
{
    unsigned timed = 0;
    wipe_slate();
    for (unsigned i = 0; i < 1000; i++)
        timed += call(SLATE_SLOW_NS, false);
    expect_number(1000, timed);
    expect_number(1000, gauge->timed);
    expect_number(1000LL * SLATE_SLOW_NS, gauge->nanoseconds);
}

static void few_quick_calls_are_timed(void)
{
    unsigned timed = 0;
    wipe_slate();
    for (unsigned i = 0; i < 10000; i++)
        timed += call(300 + i % 16, false);
    expect(timed >= SLATE_TIMED_AT_FIRST && timed < 1000);
    expect(gauge->timed <= 10000 && gauge->timed > 10000 - (1 << SLATE_SPARSE_BITS));
    expect_number(gauge->timed, weight_from(0));
}

/* As C_Sign that is asked for a length first; the slow ones are few enough for not all calls to be timed. */
static void turns_are_met_as_often_as_they_come(void)
{
    wipe_slate();
    for (unsigned i = 0; i < 200000; i++)
        call(i % 4 == 0 ? 8000 + i % 61 : 200 + i % 16, false);
    double share = (double)weight_from(10) / (double)gauge->timed;
    test_note("slow: %.3f of all", share);
    expect(share > 0.15 && share < 0.35);
}

static void a_time_is_in_its_bucket(void)
{
    static const struct {
        uint64_t nanoseconds;
        unsigned bucket;
    } cases[] = {
        {0, 0}, {127, 0}, {128, 1}, {191, 1}, {192, 2}, {255, 2}, {256, 3}, {384, 4}, {UINT64_C(1) << 36, 59},
        {(UINT64_C(1) << 37) - 1, 60}, {UINT64_C(1) << 37, 61}, {UINT64_MAX, 61},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_case("%llu ns", (unsigned long long)cases[i].nanoseconds);
        wipe_slate();
        call(cases[i].nanoseconds, false);
        expect_number(1, gauge->buckets[cases[i].bucket]);
    }
}

static const struct test tests[] = {
    TEST(all_calls_are_counted, "every call is counted, and every one that failed"),
    TEST(slow_calls_are_all_timed, "all calls of a slow function are timed"),
    TEST(few_quick_calls_are_timed, "few calls of a quick function are timed, and they stand for all"),
    TEST(turns_are_met_as_often_as_they_come, "slow calls among quick ones count for as many as they are"),
    TEST(a_time_is_in_its_bucket, "a time is counted in the bucket that p11host/counts.py says it is in"),
};

TEST_MAIN(tests)
