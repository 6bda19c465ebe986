/* The lives of a module: how one begins, how it ends, and that nothing of it is valid in the next. */
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd_count.h"
#include "rig.h"
#include "test.h"

/* ---- hellos ---- */

static void a_provider_that_failed_says_why(void)
{
    static struct helper failing;
    static struct module absent;
    rig_module_init(&absent, helper_start(&failing, rig_serve), LONG_MS);
    failing.rv = CKR_TOKEN_NOT_RECOGNIZED;
    module_greet(&absent);
    expect_number(CKR_TOKEN_NOT_RECOGNIZED, module_await(&absent));
    expect_number(0, atomic_load(&absent.generation));
    expect_number(-1, absent.door);
    module_finish(&absent);
    helper_dies(&failing);
}

/* It takes the channel and says no hello, until somebody else does. */
static void a_late_helper_is_not_waited_for_twice(void)
{
    static struct helper late;
    static struct module slow;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    rig_module_init(&slow, ends[0], TICK_MS);
    expect(!module_is_late(&slow));
    module_greet(&slow);
    expect_number(CKR_FUNCTION_FAILED, module_await(&slow));
    expect_number(0, atomic_load(&slow.generation));
    expect(module_is_late(&slow));
    expect(module_start(&slow));
    expect_number(CKR_FUNCTION_FAILED, module_revive(&slow));
    helper_start_at(&late, rig_serve, ends[1]);
    while (module_revive(&slow) != CKR_OK)
        sched_yield();
    expect(!module_is_late(&slow));
    expect(atomic_load(&slow.generation) != 0);
    module_finish(&slow);
    helper_dies(&late);
}

static void a_list_waits_less_for_a_helper(void)
{
    static struct helper late;
    static struct module slow;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    rig_module_init(&slow, ends[0], LONG_MS);
    atomic_store(&slow.list_ms, TICK_MS);
    module_greet(&slow);
    expect_number(CKR_FUNCTION_FAILED, module_revive_for_list(&slow));
    expect(module_is_late_for_list(&slow));
    expect(!module_is_late(&slow));
    helper_start_at(&late, rig_serve, ends[1]);
    expect_number(CKR_OK, module_revive(&slow));
    expect(!module_is_late_for_list(&slow));
    module_finish(&slow);
    helper_dies(&late);
}

/* Nobody will wait for it any more, and it may stand still. */
static void a_late_helper_is_reported_at_the_end(void)
{
    static struct module slow;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    rig_module_init(&slow, ends[0], TICK_MS);
    slow.helper = 4711;
    rig_hung = 0;
    module_report_late(&slow);
    expect_number(0, rig_hung);
    module_greet(&slow);
    expect_number(CKR_FUNCTION_FAILED, module_await(&slow));
    module_report_late(&slow);
    expect_number(4711, rig_hung);
    close(ends[1]);
    module_finish(&slow);
}

static void a_helper_that_never_comes_is_dropped(void)
{
    static struct module silent;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    rig_module_init(&silent, ends[0], TICK_MS);
    module_greet(&silent);
    expect_number(CKR_FUNCTION_FAILED, module_await(&silent));
    close(ends[1]);
    expect_number(CKR_GENERAL_ERROR, module_revive(&silent));
    expect(!module_is_late(&silent));
    expect(!module_start(&silent));
    module_finish(&silent);
}

static void a_module_without_a_door_is_no_helper(void)
{
    static struct module absent;
    rig_module_init(&absent, -1, LONG_MS);
    module_greet(&absent);
    expect(absent.greeting == NULL);
    expect_number(CKR_GENERAL_ERROR, module_await(&absent));
    module_finish(&absent);
}

static void nobody_behind_the_door_is_no_helper(void)
{
    static struct module absent;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    close(ends[1]);
    rig_module_init(&absent, ends[0], LONG_MS);
    module_greet(&absent);
    expect_number(CKR_GENERAL_ERROR, module_await(&absent));
    module_finish(&absent);
}

/* ---- a new life ---- */

static void a_new_helper_is_a_new_life(void)
{
    static struct helper second;
    CK_ULONG server;
    rig_begin(rig_die);
    uint32_t before = atomic_load(&rig_module()->generation);
    CK_ULONG session = handle_to_client(&rig_module()->large, before, 5);
    CK_ULONG large = handle_to_client(&rig_module()->large, before, CK_UNAVAILABLE_INFORMATION);
    rig_random();
    rig_next_door = helper_start(&second, rig_serve);
    expect_number(CKR_OK, module_revive(rig_module()));
    uint32_t after = atomic_load(&rig_module()->generation);
    expect(after != 0 && after != before);
    expect(!handle_to_server(&rig_module()->large, after, session, &server));
    expect(!handle_to_server(&rig_module()->large, after, large, &server));
    rig_expect_random(5);
    expect_number(CKR_OK, module_revive(rig_module()));
    expect_number(after, atomic_load(&rig_module()->generation));
    module_finish(rig_module());
    helper_dies(&second);
    helper_dies(&rig_helper);
}

static void no_new_helper_is_no_life(void)
{
    rig_begin(rig_die);
    rig_random();
    expect_number(CKR_GENERAL_ERROR, module_revive(rig_module()));
    expect_number(0, atomic_load(&rig_module()->generation));
    rig_end();
}

static void a_channel_of_another_life_is_not_used(void)
{
    rig_begin(rig_serve);
    uint32_t generation = atomic_load(&rig_module()->generation);
    bool late;
    expect(module_take(rig_module(), generation + 1, 0, &late) == NULL);
    expect(module_take(rig_module(), 0, 0, &late) == NULL);
    struct channel *channel = module_take(rig_module(), generation, 0, &late);
    expect(channel != NULL);
    channel->generation = generation + 1; /* left over from another */
    module_give(rig_module(), channel);
    rig_expect_random(5);
    expect_number(2, atomic_load(&rig_helper.count));
    rig_end();
}

static const struct test tests[] = {
    TEST(a_provider_that_failed_says_why, "what the provider's C_Initialize answered is what the application hears"),
    TEST(a_late_helper_is_not_waited_for_twice, "a helper that is slow to say hello is waited for once, and used when it has"),
    TEST(a_list_waits_less_for_a_helper, "a list leaves a helper that is slow to start to those who need it"),
    TEST(a_late_helper_is_reported_at_the_end, "a helper that is late when the application ends is the broker's to end"),
    TEST(a_helper_that_never_comes_is_dropped, "a helper that ends instead makes room for another"),
    TEST(a_module_without_a_door_is_no_helper, "a module that the broker could not start is absent"),
    TEST(nobody_behind_the_door_is_no_helper, "a module without a helper is told at once"),
    TEST(a_new_helper_is_a_new_life, "a new helper is a new life: nothing of the old one is valid"),
    TEST(no_new_helper_is_no_life, "without a new helper there is no new life"),
    TEST(a_channel_of_another_life_is_not_used, "a channel of another life is never used"),
};

TEST_MAIN(tests)
