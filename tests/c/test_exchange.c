/* The shim's half of a call: channels taken and given, failures and what they mean. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd_count.h"
#include "rig.h"
#include "test.h"

/* ---- calls ---- */

static void a_call_goes_there_and_back(void)
{
    rig_begin(rig_serve);
    rig_expect_random(7);
    rig_end();
}

static void one_thread_needs_one_channel(void)
{
    rig_begin(rig_serve);
    for (CK_ULONG i = 0; i < 100; i++)
        rig_expect_random(i);
    expect_number(1, atomic_load(&rig_helper.count));
    expect_number(0, atomic_load(&rig_state.calls));
    rig_end();
}

static void everything_is_closed_at_the_end(void)
{
    unsigned before = open_descriptors();
    rig_begin(rig_serve);
    rig_expect_random(7);
    rig_end();
    expect_number(before, open_descriptors());
}

static void a_long_call_goes_there_and_back(void)
{
    enum { LONG = 1200000 }; /* both ways together more than the shelf has room for */
    static uint8_t data[LONG], out[LONG];
    CK_ULONG len = LONG;
    rig_begin(rig_serve);
    for (size_t i = 0; i < LONG; i++)
        data[i] = (uint8_t)(i * 5 >> 3);
    for (unsigned round = 0; round < 3; round++) {
        uintptr_t words[16] = {0, (uintptr_t)data, LONG - round, (uintptr_t)out, (uintptr_t)&len};
        len = LONG;
        expect_number(CKR_OK, rig_call(FN_C_Digest, words, 1));
        expect_number(LONG - round, len);
        for (size_t i = 0; i < len; i++)
            expect_number((uint8_t)~data[i], out[i]);
    }
    rig_end();
}

static void objects_are_renamed(void)
{
    CK_OBJECT_HANDLE objects[6];
    CK_ULONG count = 0, server;
    uintptr_t words[16] = {0, (uintptr_t)objects, 6, (uintptr_t)&count};
    rig_begin(rig_serve);
    uint32_t generation = atomic_load(&rig_module()->generation);
    expect_number(CKR_OK, rig_call(FN_C_FindObjects, words, 100));
    expect_number(6, count);
    for (CK_ULONG i = 0; i < 6; i++) {
        expect_number(generation, handle_generation(objects[i]));
        expect(handle_to_server(&rig_module()->large, generation, objects[i], &server));
        expect_number(i % 2 ? CK_UNAVAILABLE_INFORMATION - 100 - i : 100 + i, server);
    }
    rig_end();
}

static void slots_are_renamed(void)
{
    CK_SESSION_INFO info;
    uintptr_t words[16] = {0, (uintptr_t)&info};
    unsigned of;
    CK_ULONG server;
    rig_begin(rig_serve);
    expect_number(CKR_OK, rig_call(FN_C_GetSessionInfo, words, 7));
    expect(slot_to_server(info.slotID, &of, &server));
    expect_number(1007, server);
    expect_number(rig_module()->number, of);
    rig_end();
}

static struct channel *take_channel(void)
{
    bool late;
    struct channel *channel = module_take(rig_module(), atomic_load(&rig_module()->generation), 0, &late);
    expect(channel && !late);
    return channel;
}

/* A plaintext was on the shelf, which stays when the call is over. */
static void the_shelf_is_wiped_after_secrets(void)
{
    enum { LONG = 100000 };
    static uint8_t data[LONG], out[LONG];
    CK_ULONG len = LONG;
    uintptr_t words[16] = {0, (uintptr_t)data, LONG, (uintptr_t)out, (uintptr_t)&len};
    rig_begin(rig_serve);
    memset(data, 0x5a, LONG);
    expect(functions[FN_C_Decrypt].secret);
    expect_number(CKR_OK, rig_call(FN_C_Decrypt, words, 1));
    expect_number((uint8_t)~0x5a, out[LONG - 1]);
    struct channel *channel = take_channel();
    const struct shelf *shelf = &channel->bell.shelf;
    expect(shelf->base != NULL);
    for (size_t i = 0; i < shelf->size; i++)
        if (shelf->base[i] != 0)
            test_failed(__FILE__, __LINE__, "byte %zu of the shelf: 0x%02x", i, shelf->base[i]);
    module_give(rig_module(), channel);
    rig_end();
}

/* Buffers that the helper has no room for, not even as addresses. */
static void a_call_too_large_costs_no_other(void)
{
    enum { COUNT = 6 };
    CK_ATTRIBUTE template[COUNT];
    uintptr_t words[16] = {0, 0, (uintptr_t)template, COUNT};
    rig_begin(rig_serve);
    for (unsigned i = 0; i < COUNT; i++)
        template[i] = (CK_ATTRIBUTE){CKA_VALUE, words, LIMIT_BYTES};
    expect_number(CKR_HOST_MEMORY, rig_call(FN_C_GetAttributeValue, words, 1));
    rig_expect_random(7);
    rig_end();
}

static void what_cannot_be_sent_leaves_the_channel(void)
{
    rig_begin(rig_serve);
    uintptr_t words[16] = {0, (uintptr_t)"x", (uintptr_t)1 << 63};
    expect_number(CKR_ARGUMENTS_BAD, rig_call(FN_C_SeedRandom, words, 1));
    rig_expect_random(7);
    expect_number(1, atomic_load(&rig_helper.count));
    rig_end();
}

/* ---- threads ---- */

enum { THREADS = 12, CALLS = LIMIT_REPEATS }; /* or they would be one search without end */

static void *call_often(void *argument)
{
    CK_ULONG session = (uintptr_t)argument;
    for (unsigned i = 0; i < CALLS; i++) {
        CK_OBJECT_HANDLE objects[4];
        CK_ULONG count = 0, server;
        uintptr_t words[16] = {0, (uintptr_t)objects, 4, (uintptr_t)&count};
        rig_expect_random(session);
        expect_number(CKR_OK, rig_call(FN_C_FindObjects, words, session));
        expect(handle_to_server(&rig_module()->large, atomic_load(&rig_module()->generation), objects[3], &server));
        expect_number(CK_UNAVAILABLE_INFORMATION - session - 3, server);
    }
    return NULL;
}

static void threads_do_not_disturb_each_other(void)
{
    pthread_t threads[THREADS];
    rig_begin(rig_serve);
    for (uintptr_t i = 0; i < THREADS; i++)
        expect_number(0, pthread_create(&threads[i], NULL, call_often, (void *)(i + 1)));
    for (unsigned i = 0; i < THREADS; i++)
        expect_number(0, pthread_join(threads[i], NULL));
    expect(atomic_load(&rig_helper.count) <= THREADS + 1);
    expect_number(0, atomic_load(&rig_state.calls));
    rig_end();
}

/* ---- helpers that misbehave ---- */

static _Atomic unsigned rounds;

static void write_fault(struct writer *w, uint32_t id, const char *code)
{
    write_array(w, 4), write_uint(w, 1), write_uint(w, id);
    write_array(w, 2), write_str(w, code, strlen(code)), write_str(w, "because", 7);
    write_nil(w);
}

static void write_random(struct writer *w, uint32_t id)
{
    uint8_t bytes[20];
    memset(bytes, 1, sizeof bytes);
    write_array(w, 4), write_uint(w, 1), write_uint(w, id), write_nil(w);
    write_array(w, 2), write_uint(w, CKR_OK), write_bin(w, bytes, sizeof bytes);
}

static void a_helper_that_dies_during_a_call_is_told(void)
{
    rig_begin(rig_die);
    expect_number(functions[FN_C_GenerateRandom].gone, rig_random());
    expect_number(0, atomic_load(&rig_module()->generation));
    expect_number(functions[FN_C_GenerateRandom].absent, rig_random());
    rig_end();
}

static void every_function_has_its_word_for_it(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++) {
        uintptr_t words[16] = {0};
        bool sent = !functions[fn].local;
        for (unsigned i = 0; i < functions[fn].n_args; i++)
            sent = sent && functions[fn].args[i].kind != ARG_MESSAGE;
        if (!sent)
            continue;
        test_case("%s", functions[fn].name);
        rig_begin(rig_die);
        expect_number(functions[fn].gone, rig_call(fn, words, 1));
        expect_number(functions[fn].absent, rig_call(fn, words, 1));
        rig_end();
    }
}

static void hang_up_once(struct channel *c)
{
    if (atomic_fetch_add(&rounds, 1) == 0)
        rig_take_request(c);
    else
        rig_serve(c);
}

/* The helper is there still, so the life goes on. */
static void a_channel_that_dies_costs_one_call(void)
{
    atomic_store(&rounds, 0);
    rig_begin(hang_up_once);
    uint32_t generation = atomic_load(&rig_module()->generation);
    expect_number(functions[FN_C_GenerateRandom].gone, rig_random());
    rig_expect_random(5);
    expect_number(generation, atomic_load(&rig_module()->generation));
    rig_end();
}

static const char *fault;

/* As the protocol says: unknown, refused and failed keep the channel, the others close it. */
static void find_fault_once(struct channel *c)
{
    bool closes = !strcmp(fault, "malformed") || !strcmp(fault, "limit");
    if (atomic_fetch_add(&rounds, 1) == 0) {
        write_fault(&c->out, rig_take_request(c), fault);
        if (channel_send(c) != 0 || closes)
            return;
    }
    rig_serve(c);
}

static void a_fault_costs_one_call(void)
{
    static const struct {
        const char *code;
        CK_RV rv;
        unsigned channels;
    } rows[] = {
        {"unknown", CKR_FUNCTION_NOT_SUPPORTED, 1},
        {"limit", CKR_HOST_MEMORY, 2},
        {"failed", CKR_HOST_MEMORY, 1},
        {"malformed", CKR_DEVICE_ERROR, 2},
        {"something", CKR_DEVICE_ERROR, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        atomic_store(&rounds, 0);
        fault = rows[i].code;
        test_case("%s", fault);
        rig_begin(find_fault_once);
        expect_number(rows[i].rv, rig_random());
        rig_expect_random(5);
        expect_number(rows[i].channels, atomic_load(&rig_helper.count));
        rig_end();
    }
}

static void answer_another_question(struct channel *c)
{
    write_random(&c->out, rig_take_request(c) + 1);
    channel_send(c);
    rig_take_request(c);
}

static void answer_nonsense(struct channel *c)
{
    rig_take_request(c);
    write_str(&c->out, "nonsense", 8);
    channel_send(c);
    rig_take_request(c);
}

static void an_answer_that_is_none_is_a_device_error(void)
{
    conversation *const conversations[] = {answer_another_question, answer_nonsense};
    for (unsigned i = 0; i < 2; i++) {
        test_case("conversation %u", i);
        rig_begin(conversations[i]);
        expect_number(CKR_DEVICE_ERROR, rig_random());
        rig_end();
    }
}

static void answer_twice(struct channel *c)
{
    if (atomic_fetch_add(&rounds, 1) == 0) {
        uint32_t id = rig_take_request(c);
        write_random(&c->out, id);
        write_random(&c->out, id + 1);
        channel_send(c);
        rig_take_request(c);
    }
    rig_serve(c);
}

/* What it said too much would be taken for the answer to the next call. */
static void an_answer_too_many_ends_the_channel(void)
{
    atomic_store(&rounds, 0);
    rig_begin(answer_twice);
    rig_expect_random(1);
    rig_expect_random(5);
    expect_number(2, atomic_load(&rig_helper.count));
    rig_end();
}

static void say_nothing_once(struct channel *c)
{
    if (atomic_fetch_add(&rounds, 1) > 0) {
        rig_serve(c);
        return;
    }
    rig_take_request(c);
    rig_take_request(c); /* until the caller has hung up */
}

static void a_helper_that_hangs_hangs_nobody(void)
{
    atomic_store(&rounds, 0);
    rig_begin(say_nothing_once);
    rig_module()->patience[PATIENCE_SHORT] = rig_module()->patience[PATIENCE_LONG] = TICK_MS;
    struct channel *channel = take_channel();
    channel_set_ticks(channel, TICK_MS, TICK_MS);
    module_give(rig_module(), channel);
    expect_number(CKR_DEVICE_ERROR, rig_random());
    expect_number(HELPER, rig_hung);
    expect_number(0, atomic_load(&rig_module()->generation));
    expect_number(-1, rig_module()->door);
    rig_end();
}

/* It has a channel that is busy, and does not say hello on another. */
static void a_helper_that_takes_no_channel_hangs_nobody(void)
{
    rig_begin(rig_serve);
    struct channel *busy = take_channel();
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    close(rig_module()->door);
    rig_module()->door = ends[0];
    rig_module()->patience[PATIENCE_SHORT] = rig_module()->patience[PATIENCE_LONG] = TICK_MS;
    rig_hung = 0;
    expect_number(CKR_DEVICE_ERROR, rig_random());
    expect_number(HELPER, rig_hung);
    module_give(rig_module(), busy);
    close(ends[1]);
    rig_end();
}

/* ---- several at the same time ---- */

static struct call random_call(uintptr_t *words, uint8_t *bytes, CK_ULONG len)
{
    words[1] = (uintptr_t)bytes;
    words[2] = len;
    return (struct call){.state = &rig_state, .module = rig_module(), .function = &functions[FN_C_GenerateRandom], .words = words};
}

static void several_are_sent_before_one_is_heard(void)
{
    enum { MANY = 4, LEN = 8 };
    uint8_t bytes[MANY][LEN];
    uintptr_t words[MANY][16] = {0};
    struct call calls[MANY];
    struct talk talks[MANY], *all[MANY];
    rig_begin(rig_serve);
    for (unsigned i = 0; i < MANY; i++) {
        calls[i] = random_call(words[i], bytes[i], LEN);
        calls[i].session = i + 1;
        exchange_begin(&talks[i], &calls[i]);
        all[i] = &talks[i];
    }
    exchange_greet(all, MANY);
    expect_number(MANY, atomic_load(&rig_state.calls));
    for (unsigned i = MANY; i-- > 0;) {
        expect_number(CKR_OK, exchange_end(&talks[i]));
        expect_number(i + 1, bytes[i][LEN - 1]);
    }
    expect_number(0, atomic_load(&rig_state.calls));
    rig_expect_random(9);
    rig_end();
}

static void say_nothing(struct channel *channel)
{
    while (rig_take_request(channel))
        ;
}

/* With an hour for each nobody would see the end of this. */
static void the_time_of_others_counts(void)
{
    enum { TWO = 2, HOUR_MS = 3600000 };
    uint8_t bytes[1];
    uintptr_t words[TWO][16] = {0};
    struct call calls[TWO];
    struct talk talks[TWO], *all[TWO];
    rig_begin(say_nothing);
    rig_module()->patience[PATIENCE_SHORT] = rig_module()->patience[PATIENCE_LONG] = HOUR_MS;
    for (unsigned i = 0; i < TWO; i++) {
        calls[i] = random_call(words[i], bytes, sizeof bytes);
        exchange_begin(&talks[i], &calls[i]);
        all[i] = &talks[i];
    }
    exchange_greet(all, TWO);
    for (unsigned i = 0; i < TWO; i++)
        talks[i].since -= HOUR_MS - TICK_MS;
    for (unsigned i = 0; i < TWO; i++)
        expect_number(CKR_DEVICE_ERROR, exchange_end(&talks[i]));
    expect_number(HELPER, rig_hung);
    expect_number(0, atomic_load(&rig_state.calls));
    rig_end();
}

static void one_without_a_helper_is_told_at_the_end(void)
{
    uint8_t bytes[1];
    uintptr_t words[16] = {0};
    struct call call = random_call(words, bytes, sizeof bytes);
    struct talk talk;
    rig_begin(rig_die);
    expect_number(CKR_DEVICE_REMOVED, rig_random());
    exchange_begin(&talk, &call);
    expect_number(call.function->absent, exchange_end(&talk));
    expect_number(0, atomic_load(&rig_state.calls));
    rig_end();
}

static void an_ending_application_says_so(void)
{
    rig_begin(rig_die);
    atomic_store(&rig_state.ending, true);
    expect_number(CKR_CRYPTOKI_NOT_INITIALIZED, rig_random());
    rig_end();
}

/* C_Finalize has shut down what was open then: a channel that came later would not be among it. */
static void nothing_is_sent_after_the_end_has_begun(void)
{
    rig_begin(rig_serve);
    rig_expect_random(5);
    atomic_store(&rig_state.ending, true);
    expect_number(CKR_CRYPTOKI_NOT_INITIALIZED, rig_random());
    rig_end();
}

static const struct test tests[] = {
    TEST(a_call_goes_there_and_back, "a call reaches the provider and its answer the caller"),
    TEST(one_thread_needs_one_channel, "a thread that calls one by one uses one channel"),
    TEST(everything_is_closed_at_the_end, "an application that has ended has nothing open"),
    TEST(a_long_call_goes_there_and_back, "inputs and outputs of a megabyte arrive whole"),
    TEST(objects_are_renamed, "an application sees handles of its own life"),
    TEST(slots_are_renamed, "an application sees slots by its own ids"),
    TEST(the_shelf_is_wiped_after_secrets, "no secret stays on the shelf"),
    TEST(a_call_too_large_costs_no_other, "a call that is too large for the helper fails, and the next one does not"),
    TEST(what_cannot_be_sent_leaves_the_channel, "a call that cannot be sent does no harm"),
    TEST(threads_do_not_disturb_each_other, "many threads call at the same time"),
    TEST(a_helper_that_dies_during_a_call_is_told, "the first call that is affected tells, later ones say what is so"),
    TEST(every_function_has_its_word_for_it, "every function says it in the words the standard has for it"),
    TEST(a_channel_that_dies_costs_one_call, "a channel that dies is replaced while the helper lives"),
    TEST(a_fault_costs_one_call, "a request at fault costs its own call and no other"),
    TEST(an_answer_that_is_none_is_a_device_error, "an answer that is none is not believed"),
    TEST(an_answer_too_many_ends_the_channel, "an answer too many is not taken for the next"),
    TEST(a_helper_that_hangs_hangs_nobody, "a call never answered is CKR_DEVICE_ERROR, and its helper is given up and reported"),
    TEST(a_helper_that_takes_no_channel_hangs_nobody, "nor does one that takes no channel"),
    TEST(several_are_sent_before_one_is_heard, "several calls are with their helpers at the same time"),
    TEST(the_time_of_others_counts, "of several that are never answered none is waited for longer than of one"),
    TEST(one_without_a_helper_is_told_at_the_end, "one of several that cannot be sent is told as it would be alone"),
    TEST(an_ending_application_says_so, "a call that is interrupted by C_Finalize says so"),
    TEST(nothing_is_sent_after_the_end_has_begun, "a call that has its channel only after C_Finalize has begun is not sent"),
};

TEST_MAIN(tests)
