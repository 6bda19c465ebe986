/* The lives of a module: how one begins, how it ends, and that nothing of it is valid in the next. */
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
    struct offer offer = {.name = "two", .door = helper_start(&failing, rig_serve), .short_ms = LONG_MS, .long_ms = LONG_MS};
    failing.rv = CKR_TOKEN_NOT_RECOGNIZED;
    module_init(&absent, &offer, &rig_state.calls);
    expect_number(CKR_TOKEN_NOT_RECOGNIZED, module_await(&absent, module_greet(&absent), LONG_MS));
    expect_number(0, atomic_load(&absent.generation));
    expect_number(-1, absent.door);
    module_finish(&absent);
    helper_dies(&failing);
}

/* It takes the channel and says no hello. */
static void a_silent_helper_is_no_helper(void)
{
    static struct module silent;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    struct offer offer = {.name = "two", .door = ends[0], .short_ms = LONG_MS, .long_ms = LONG_MS};
    module_init(&silent, &offer, &rig_state.calls);
    expect_number(CKR_GENERAL_ERROR, module_await(&silent, module_greet(&silent), TICK_MS));
    expect_number(0, atomic_load(&silent.generation));
    module_finish(&silent);
    close(ends[1]);
}

static void a_module_without_a_door_is_no_helper(void)
{
    static struct module absent;
    struct offer offer = {.name = "two", .door = -1, .error = "there is no such file", .short_ms = LONG_MS, .long_ms = LONG_MS};
    module_init(&absent, &offer, &rig_state.calls);
    expect(module_greet(&absent) == NULL);
    expect_number(CKR_GENERAL_ERROR, module_await(&absent, NULL, LONG_MS));
    module_finish(&absent);
}

static void nobody_behind_the_door_is_no_helper(void)
{
    static struct module absent;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    close(ends[1]);
    struct offer offer = {.name = "two", .door = ends[0], .short_ms = LONG_MS, .long_ms = LONG_MS};
    module_init(&absent, &offer, &rig_state.calls);
    expect_number(CKR_GENERAL_ERROR, module_await(&absent, module_greet(&absent), LONG_MS));
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
    expect(module_take(rig_module(), generation + 1) == NULL);
    expect(module_take(rig_module(), 0) == NULL);
    struct channel *channel = module_take(rig_module(), generation);
    expect(channel != NULL);
    channel->generation = generation + 1; /* left over from another */
    module_give(rig_module(), channel);
    rig_expect_random(5);
    expect_number(2, atomic_load(&rig_helper.count));
    rig_end();
}

static const struct test tests[] = {
    TEST(a_provider_that_failed_says_why, "what the provider's C_Initialize answered is what the application hears"),
    TEST(a_silent_helper_is_no_helper, "a helper that does not say hello is not waited for for ever"),
    TEST(a_module_without_a_door_is_no_helper, "a module that the broker could not start is absent"),
    TEST(nobody_behind_the_door_is_no_helper, "a module without a helper is told at once"),
    TEST(a_new_helper_is_a_new_life, "a new helper is a new life: nothing of the old one is valid"),
    TEST(no_new_helper_is_no_life, "without a new helper there is no new life"),
    TEST(a_channel_of_another_life_is_not_used, "a channel of another life is never used"),
};

TEST_MAIN(tests)
