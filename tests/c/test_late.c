/* Answers that a list of many does not wait for: left to come, asked for again, overdue. */
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd_count.h"
#include "late.h"
#include "rig.h"
#include "test.h"

enum { LEN = 8 };

static _Atomic bool released;

static void write_answer(struct writer *w, uint32_t id)
{
    uint8_t bytes[LEN];
    memset(bytes, 7, sizeof bytes);
    write_array(w, 4), write_uint(w, 1), write_uint(w, id), write_nil(w);
    write_array(w, 2), write_uint(w, CKR_OK), write_bin(w, bytes, sizeof bytes);
}

static void answer_when_released(struct channel *c)
{
    uint32_t id;
    while ((id = rig_take_request(c)) != 0) {
        while (!atomic_load(&released))
            usleep(1000);
        write_answer(&c->out, id);
        if (channel_send(c) != 0)
            return;
    }
}

struct question {
    struct call call;
    struct talk talk;
    uintptr_t words[16];
    uint8_t bytes[LEN];
};

static void begin(struct question *q, struct module *module)
{
    memset(q, 0, sizeof *q);
    q->words[1] = (uintptr_t)q->bytes;
    q->words[2] = LEN;
    q->call = (struct call){
        .state = &rig_state, .module = module, .function = &functions[FN_C_GenerateRandom], .words = q->words, .session = 7, .hasty = true,
    };
    exchange_begin(&q->talk, &q->call);
}

static CK_RV ask(struct question *q)
{
    struct talk *const alone[] = {&q->talk};
    begin(q, rig_module());
    exchange_greet(alone, 1);
    return exchange_end(&q->talk);
}

static void begin_late(conversation *converse)
{
    atomic_store(&released, false);
    rig_begin(converse);
    atomic_store(&rig_module()->list_ms, TICK_MS);
}

static void expect_late(void)
{
    struct question q;
    expect_number(CKR_FUNCTION_FAILED, ask(&q));
    expect(q.call.late);
    expect_number(0, atomic_load(&rig_state.calls));
}

static void expect_in_time(void)
{
    struct question q;
    uint8_t same[LEN];
    memset(same, 7, sizeof same);
    while (ask(&q) != CKR_OK)
        sched_yield();
    expect_bytes(same, q.bytes, LEN);
}

static struct channel *take_channel(struct module *module)
{
    bool greeting;
    struct channel *channel = module_take_now(module, atomic_load(&module->generation), &greeting);
    expect(channel && !greeting);
    return channel;
}

/* ---- one module ---- */

static void it_is_left_to_come(void)
{
    begin_late(answer_when_released);
    uint32_t generation = atomic_load(&rig_module()->generation);
    expect_late();
    expect_late();
    expect_number(1, atomic_load(&rig_helper.count));
    atomic_store(&released, true);
    expect_in_time();
    expect_number(generation, atomic_load(&rig_module()->generation));
    rig_end();
}

static _Atomic unsigned channels;

static void hold_the_first(struct channel *c)
{
    if (atomic_fetch_add(&channels, 1) == 0)
        answer_when_released(c);
    else
        rig_serve(c);
}

static void its_channel_is_no_other_calls(void)
{
    atomic_store(&channels, 0);
    begin_late(hold_the_first);
    expect_late();
    rig_expect_random(5);
    atomic_store(&released, true);
    rig_expect_random(6);
    expect_number(2, atomic_load(&rig_helper.count));
    rig_end();
}

static void who_answered_late_has_more_time(void)
{
    begin_late(answer_when_released);
    expect_late();
    expect_number(TICK_MS, late_patience(rig_module()));
    atomic_store(&released, true);
    expect_in_time();
    expect(late_patience(rig_module()) >= 2 * TICK_MS);
    rig_end();
}

static void it_is_overdue_at_its_deadline(void)
{
    struct question q;
    begin_late(answer_when_released);
    rig_module()->patience[PATIENCE_SHORT] = rig_module()->patience[PATIENCE_LONG] = 3 * TICK_MS;
    rig_hung = 0;
    expect_late();
    while (rig_hung != HELPER)
        expect(ask(&q) != CKR_OK);
    expect_number(0, atomic_load(&rig_module()->generation));
    atomic_store(&released, true);
    rig_end();
}

static void a_deadline_that_is_shorter_counts(void)
{
    struct question q;
    begin_late(answer_when_released);
    rig_module()->patience[PATIENCE_SHORT] = rig_module()->patience[PATIENCE_LONG] = TICK_MS;
    struct channel *channel = atomic_load(&rig_module()->idle[0]);
    channel_set_ticks(channel, TICK_MS, TICK_MS);
    rig_hung = 0;
    expect_number(CKR_DEVICE_ERROR, ask(&q));
    expect_number(HELPER, rig_hung);
    atomic_store(&released, true);
    rig_end();
}

static void nothing_of_it_stays_open(void)
{
    unsigned before = open_descriptors();
    begin_late(answer_when_released);
    expect_late();
    atomic_store(&released, true);
    rig_end();
    expect_number(before, open_descriptors());
}

/* Two threads asked at the same time. */
static void there_is_one_at_most(void)
{
    struct question questions[2];
    struct talk *const talks[] = {&questions[0].talk, &questions[1].talk};
    begin_late(answer_when_released);
    unsigned before = open_descriptors();
    begin(&questions[0], rig_module());
    begin(&questions[1], rig_module());
    atomic_store(&rig_module()->list_ms, LONG_MS);
    exchange_greet(talks, 2);
    atomic_store(&rig_module()->list_ms, TICK_MS);
    expect_number(2, atomic_load(&rig_state.calls));
    for (unsigned i = 0; i < 2; i++)
        expect_number(CKR_FUNCTION_FAILED, exchange_end(talks[i]));
    expect_number(before + 2, open_descriptors()); /* the helper's ends of the second */
    atomic_store(&released, true);
    expect_in_time();
    rig_end();
}

/* Now in time, now late. */
static void answer_as_it_likes(struct channel *c)
{
    static _Atomic unsigned asked;
    uint32_t id;
    while ((id = rig_take_request(c)) != 0) {
        usleep(atomic_fetch_add(&asked, 1) % 3 * TICK_MS * 1000);
        write_answer(&c->out, id);
        if (channel_send(c) != 0)
            return;
    }
}

static void *ask_often(void *argument)
{
    struct question q;
    for (unsigned i = 0; i < 8; i++)
        if (ask(&q) != CKR_OK)
            expect(q.call.late);
    return argument;
}

static void threads_ask_at_the_same_time(void)
{
    pthread_t threads[4];
    begin_late(answer_as_it_likes);
    for (unsigned i = 0; i < 4; i++)
        expect_number(0, pthread_create(&threads[i], NULL, ask_often, NULL));
    for (unsigned i = 0; i < 4; i++)
        expect_number(0, pthread_join(threads[i], NULL));
    expect_number(0, atomic_load(&rig_state.calls));
    expect(!atomic_load(&rig_module()->late_looked));
    expect_in_time();
    rig_end();
}

static void one_of_another_life_is_forgotten(void)
{
    begin_late(answer_when_released);
    expect_late();
    atomic_load(&rig_module()->late)->generation++;
    expect(late_may_ask(rig_module()));
    expect(!atomic_load(&rig_module()->late));
    atomic_store(&released, true);
    rig_end();
}

static void begin_to_answer(struct channel *c)
{
    rig_take_request(c);
    expect_number(1, send(c->to, "\x94", 1, MSG_NOSIGNAL));
    rig_take_request(c);
}

static void one_that_only_begins_to_come_hangs(void)
{
    struct question q;
    rig_begin(begin_to_answer);
    atomic_store(&rig_module()->list_ms, TICK_MS);
    channel_set_ticks(atomic_load(&rig_module()->idle[0]), TICK_MS, TICK_MS);
    rig_hung = 0;
    while (rig_hung != HELPER)
        expect(ask(&q) != CKR_OK);
    expect_number(0, atomic_load(&rig_module()->generation));
    rig_end();
}

/* ---- hellos ---- */

/* Its only channel is busy, and there is nobody at its door. */
static int keep_busy(struct channel **ret_busy)
{
    int ends[2];
    *ret_busy = take_channel(rig_module());
    make_pair(SOCK_SEQPACKET, ends);
    close(rig_module()->door);
    rig_module()->door = ends[0];
    return ends[1];
}

static void a_hello_is_left_to_come_too(void)
{
    static struct helper awake;
    rig_begin(rig_serve);
    struct channel *busy;
    int door = keep_busy(&busy);
    atomic_store(&rig_module()->list_ms, TICK_MS);
    expect_late();
    expect_late();
    helper_start_at(&awake, rig_serve, door);
    expect_in_time();
    module_give(rig_module(), busy);
    module_finish(rig_module());
    helper_dies(&awake);
    helper_dies(&rig_helper);
}

static void one_without_a_hello_hides_no_other(void)
{
    static struct helper second;
    static struct module other;
    struct question questions[2];
    struct talk *const talks[] = {&questions[0].talk, &questions[1].talk};
    rig_begin(rig_serve);
    struct channel *busy;
    int door = keep_busy(&busy);
    atomic_store(&rig_module()->list_ms, TICK_MS);
    rig_module_init(&other, helper_start(&second, rig_serve), LONG_MS);
    module_greet(&other);
    expect_number(CKR_OK, module_await(&other));
    struct channel *too = take_channel(&other);
    begin(&questions[0], rig_module());
    begin(&questions[1], &other);
    expect(questions[0].talk.greeting && questions[1].talk.greeting);
    exchange_greet(talks, 2);
    expect_number(CKR_FUNCTION_FAILED, exchange_end(talks[0]));
    expect_number(CKR_OK, exchange_end(talks[1]));
    expect(questions[0].call.late && !questions[1].call.late);
    module_give(&other, too);
    module_finish(&other);
    helper_dies(&second);
    module_give(rig_module(), busy);
    rig_end();
    close(door);
}

static const struct test tests[] = {
    TEST(it_is_left_to_come, "a helper that takes long is asked once, and again when it has answered"),
    TEST(its_channel_is_no_other_calls, "the channel on which an answer is to come is given to no other call"),
    TEST(who_answered_late_has_more_time, "a module that has answered too late is waited for longer"),
    TEST(it_is_overdue_at_its_deadline, "a helper that does not answer before the call's deadline is given up and reported"),
    TEST(a_deadline_that_is_shorter_counts, "nobody is waited for longer than the call may take"),
    TEST(nothing_of_it_stays_open, "an application that ends with an answer to come has nothing open"),
    TEST(there_is_one_at_most, "threads that ask at the same time leave one answer to come"),
    TEST(threads_ask_at_the_same_time, "threads that ask at the same time are each told, in time or that it is late"),
    TEST(one_of_another_life_is_forgotten, "a new life waits for no answer of the one before"),
    TEST(one_that_only_begins_to_come_hangs, "a helper that only begins to answer is given up and reported"),
    TEST(a_hello_is_left_to_come_too, "a helper that does not take a new channel is late, too"),
    TEST(one_without_a_hello_hides_no_other, "while one is waited for that takes no channel, others are asked and answer"),
};

TEST_MAIN(tests)
