/* An ear at a helper that tells what a script says: of slots and numbers, and lies about both. */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ear.h"
#include "fd_count.h"
#include "rig.h"
#include "test.h"

enum { MOST_STEPS = 8, MOST_ENTRIES = 4, MANY = 2000, NO_SLOT = -1, EMPTY = 0, SOME_TOKEN = -2 };

/* What is in a slot: one of these, or a token with that serial number. The number is of no use in a state. */
struct told_slot {
    uint64_t number;
    CK_SLOT_ID slot;
    int token;
};

/* One answer. */
struct step {
    const char *kind, *what; /* NULL: `raw` */
    uint64_t number;
    unsigned count, claimed; /* entries, and how many more it claims to have: then it ends */
    struct told_slot told[MOST_ENTRIES];
    const char *raw; /* NULL: none, and the channel stays open */
    size_t raw_len;
};

#define STATE(n, entries, ...) {.kind = "state", .what = "slots", .number = n, .count = entries, .told = {__VA_ARGS__}}
#define EVENTS(n, entries, ...) {.kind = "events", .what = "events", .number = n, .count = entries, .told = {__VA_ARGS__}}
#define RAW(bytes) {.raw = bytes, .raw_len = sizeof bytes - 1}
#define ANSWER "\x94\x01\x01\xc0" /* to the first question: a map comes */

/* ---- the helper ---- */

static struct {
    const struct step *steps;
    unsigned n_steps;
    bool again; /* the last for ever */
    atomic_uint asked;
    _Atomic uint64_t after; /* of the last question; all ones for none */
    _Atomic uint64_t wait_ms;
} script;

static bool read_question(struct channel *c, uint64_t *ret_id)
{
    char text[LIMIT_NAME + 1];
    uint64_t after = UINT64_MAX;
    channel_begin(c, 0);
    read_array(&c->in);
    read_uint(&c->in);
    *ret_id = read_uint(&c->in);
    read_text(&c->in, text, sizeof text);
    read_array(&c->in);
    for (size_t n = c->in.error ? 0 : read_map(&c->in); n; n--) {
        read_text(&c->in, text, sizeof text);
        if (!strcmp(text, "after"))
            after = read_uint(&c->in);
        else
            atomic_store(&script.wait_ms, read_uint(&c->in));
    }
    atomic_store(&script.after, after);
    return c->in.error == 0;
}

static void write_text(struct writer *w, const char *text)
{
    write_str(w, text, strlen(text));
}

static void write_token(struct writer *w, int token)
{
    uint8_t field[32] = {(uint8_t)token};
    if (token == NO_SLOT)
        write_nil(w);
    else if (token == EMPTY || token == SOME_TOKEN)
        write_bool(w, token != EMPTY);
    if (token <= 0)
        return;
    write_array(w, 5);
    for (unsigned i = 0; i < 4; i++)
        write_bin(w, field, i < 2 ? 32 : 16);
    write_uint(w, 0);
}

static void write_answer(struct writer *w, const struct step *step, uint64_t id)
{
    bool events = !strcmp(step->what, "events");
    write_array(w, 4);
    write_uint(w, 1);
    write_uint(w, id);
    write_nil(w);
    write_map(w, 3);
    write_text(w, "kind");
    write_text(w, step->kind);
    write_text(w, "number");
    write_uint(w, step->number);
    write_text(w, step->what);
    write_array(w, step->count + step->claimed);
    for (unsigned i = 0; i < step->count; i++) {
        write_array(w, events ? 3 : 2);
        if (events)
            write_uint(w, step->told[i].number);
        write_uint(w, step->told[i].slot);
        write_token(w, step->told[i].token);
    }
}

static void converse(struct channel *c)
{
    uint64_t id;
    while (read_question(c, &id)) {
        unsigned turn = atomic_fetch_add(&script.asked, 1);
        const struct step *step = &script.steps[turn < script.n_steps || !script.again ? turn : script.n_steps - 1];
        if (turn >= script.n_steps && !script.again)
            continue;
        if (step->kind) {
            write_answer(&c->out, step, id);
            expect_number(0, channel_send(c));
        } else if (step->raw) {
            expect_number(step->raw_len, send(c->to, step->raw, step->raw_len, MSG_NOSIGNAL));
        }
        if (step->claimed || step->raw)
            return;
    }
}

/* ---- the application ---- */

static struct ear ear;
static struct seen seen;
static CK_ULONG first_slot; /* ids live as long as the process */

static void begin(const struct step *steps, unsigned count)
{
    memset(&ear, 0, sizeof ear);
    memset(&seen, 0, sizeof seen);
    script.steps = steps;
    script.n_steps = count;
    script.again = false;
    atomic_store(&script.asked, 0);
    rig_begin(converse);
    first_slot = slot_to_client(rig_module()->number, 100);
    slot_to_client(rig_module()->number, 101);
}

static void end(void)
{
    ear_close(&ear, rig_module());
    rig_end();
}

/* One step of who waits. It waits here, if anything is to come. */
static void go_on(uint64_t round)
{
    ear_tend(&ear, rig_module(), &seen, round);
    struct pollfd p = {.fd = ear_descriptor(&ear), .events = POLLIN | POLLRDHUP};
    uint64_t until = ear_until(&ear, rig_module()), now = channel_now_ms();
    int n = poll(&p, 1, until > now ? (int)(until - now) : 0);
    ear_hear(&ear, rig_module(), &seen, n > 0);
}

/* Until so many answers have been heard. */
static void hear(unsigned answers)
{
    while (atomic_load(&script.asked) < answers || ear.asked)
        go_on(0);
}

static CK_ULONG next(void)
{
    CK_ULONG slot = 0;
    return seen_take(&seen, &slot) ? slot - first_slot + 100 : 0;
}

static unsigned count_all(void)
{
    unsigned n = 0;
    while (next())
        n++;
    return n;
}

/* The question after the last answer that was heard. */
static void expect_asks_after(uint64_t number)
{
    unsigned asked = atomic_load(&script.asked);
    while (ear.asked == 0)
        ear_tend(&ear, rig_module(), &seen, 0);
    while (atomic_load(&script.asked) == asked)
        poll(NULL, 0, 1);
    expect_number(number, atomic_load(&script.after));
    expect_number(DEADLINE_WATCH, atomic_load(&script.wait_ms));
}

/* ---- what is told ---- */

static void a_state_and_what_follows(void)
{
    static const struct step steps[] = {
        STATE(10, 2, {0, 100, EMPTY}, {0, 101, 7}),
        EVENTS(12, 2, {11, 100, 5}, {12, 101, EMPTY}),
        EVENTS(13, 1, {13, 101, 7}),
    };
    begin(steps, 3);
    hear(1);
    expect_number(0, next());
    expect_asks_after(10);
    hear(2);
    expect_number(100, next());
    expect_number(101, next());
    expect_number(0, next());
    hear(3);
    expect_number(101, next());
    expect_asks_after(13);
    end();
}

static void the_same_token_pulled_and_pushed(void)
{
    static const struct step steps[] = {
        STATE(10, 1, {0, 100, 7}),
        EVENTS(12, 2, {11, 100, EMPTY}, {12, 100, 7}),
        EVENTS(13, 1, {13, 100, 7}),
        EVENTS(15, 2, {14, 100, EMPTY}, {15, 100, 8}),
    };
    begin(steps, 4);
    hear(2);
    expect_number(2, count_all());
    hear(3);
    expect_number(1, count_all());
    hear(4);
    expect_number(2, count_all());
    end();
}

/* More came than the helper remembers, or it is another that goes on: what differs is what was missed. */
static void a_gap_is_compared(void)
{
    static const struct step steps[] = {
        STATE(10, 2, {0, 100, EMPTY}, {0, 101, 7}),
        STATE(500, 2, {0, 100, 5}, {0, 101, 8}),
        STATE(20, 1, {0, 101, SOME_TOKEN}),
        EVENTS(21, 1, {21, 100, 5}),
    };
    begin(steps, 4);
    hear(2);
    expect_number(3, count_all());
    expect_number(500, ear.number);
    hear(3);
    expect_number(100, next());
    expect_number(0, next());
    expect_number(20, ear.number);
    hear(4);
    expect_number(100, next());
    end();
}

static void what_was_told_before_is_compared(void)
{
    static const struct step steps[] = {STATE(10, 2, {0, 100, 5}, {0, 101, 7})};
    begin(steps, 1);
    expect(ear_may_tell(&ear, rig_module()));
    seen_tell(&seen, first_slot, seen_before(&seen, first_slot), SEEN_EMPTY, 0);
    hear(1);
    expect_number(100, next());
    expect_number(0, next());
    expect(!ear_may_tell(&ear, rig_module()));
    end();
}

static void all_that_is_new_after_a_list(void)
{
    static const struct step steps[] = {STATE(10, 2, {0, 100, 5}, {0, 101, EMPTY})};
    begin(steps, 1);
    ear_tell_all(&ear);
    hear(1);
    expect_number(100, next());
    expect_number(0, next());
    end();
}

/* One question waits, the other is answered as soon as can be: in that order. What both were told of is one event. */
static void a_quick_question_beside_one_that_waits(void)
{
    static const struct step steps[] = {
        STATE(10, 1, {0, 100, EMPTY}),
        EVENTS(11, 1, {11, 100, 5}),
        EVENTS(12, 2, {11, 100, 5}, {12, 100, EMPTY}),
    };
    begin(steps, 3);
    hear(1);
    ear_tend(&ear, rig_module(), &seen, 0);
    ear_tend(&ear, rig_module(), &seen, 1);
    expect_number(2, ear.asked);
    expect(ear_is_awaited(&ear, 1));
    ear_tend(&ear, rig_module(), &seen, 1);
    expect_number(2, ear.asked);
    hear(3);
    expect(!ear_is_awaited(&ear, 1));
    expect_number(2, count_all());
    expect_asks_after(12);
    end();
}

static void another_helper_brings_its_tokens(void)
{
    static const struct step steps[] = {STATE(10, 2, {0, 100, EMPTY}, {0, 101, 7}), STATE(99, 1, {0, 101, 7})};
    static struct helper another;
    begin(steps, 2);
    hear(1);
    helper_dies(&rig_helper);
    rig_next_door = helper_start(&another, converse);
    while (next() != 101)
        go_on(0);
    hear(2);
    expect_number(101, next());
    expect_number(0, next());
    ear_close(&ear, rig_module());
    module_finish(rig_module());
    helper_dies(&another);
}

/* ---- lies ---- */

/* Each event is applied once, whatever became of the answer it came in. */
static void an_answer_that_is_cut_short(void)
{
    static const struct step steps[] = {
        STATE(10, 2, {0, 100, EMPTY}, {0, 101, EMPTY}),
        {.kind = "events", .what = "events", .number = 13, .count = 2, .claimed = 1, .told = {{11, 100, 5}, {12, 101, 6}}},
        EVENTS(13, 3, {11, 100, 5}, {12, 101, 6}, {13, 100, EMPTY}),
    };
    begin(steps, 3);
    hear(1);
    while (ear.channel)
        go_on(0);
    expect_number(2, count_all());
    ear.rest_ms = 0;
    hear(3);
    expect_number(12, atomic_load(&script.after));
    expect_number(1, count_all());
    expect_number(13, ear.number);
    end();
}

static void numbers_that_go_back(void)
{
    static const struct step steps[] = {
        STATE(10, 1, {0, 100, EMPTY}),
        EVENTS(12, 2, {11, 100, 5}, {12, 100, EMPTY}),
        EVENTS(3, 3, {11, 100, 5}, {3, 100, EMPTY}, {12, 100, 5}),
        EVENTS(2, 0),
    };
    begin(steps, 4);
    hear(2);
    expect_number(2, count_all());
    hear(3);
    expect_number(0, count_all());
    ear.rest_ms = 0;
    hear(4);
    expect_number(12, ear.number);
    end();
}

static void events_without_a_state(void)
{
    static const struct step steps[] = {EVENTS(UINT64_MAX, 1, {UINT64_MAX, 100, 5}), STATE(10, 1, {0, 100, 5}), EVENTS(11, 1, {11, 100, EMPTY})};
    begin(steps, 3);
    hear(1);
    count_all();
    ear.rest_ms = 0;
    hear(2);
    expect_number(UINT64_MAX, atomic_load(&script.after));
    count_all();
    hear(3);
    expect_number(1, count_all());
    end();
}

static const struct step vain[] = {STATE(10, 1, {0, 100, EMPTY}), EVENTS(9, 1, {9, 100, 5}), EVENTS(10, 0)};

/* The application's thread would do nothing else, for ever. */
static void answers_at_once_that_say_nothing(void)
{
    for (unsigned i = 0; i < 3; i++) {
        struct step steps[2] = {vain[0], vain[i]};
        unsigned asked = 0;
        test_case("answer %u", i);
        begin(steps, 2);
        script.again = true;
        hear(1);
        while (asked++ < MANY && ear.rest_ms <= channel_now_ms())
            go_on(0);
        expect(asked < MANY);
        expect_number(0, next());
        end();
    }
}

static void more_slots_than_there_can_be(void)
{
    static struct step step = STATE(10, 0), steps[1];
    begin(&step, 1);
    for (CK_SLOT_ID slot = 0; slot < LIMIT_MODULE_SLOTS - 1; slot++)
        slot_to_client(rig_module()->number, 1000 + slot);
    end();
    steps[0] = (struct step)STATE(10, 3, {0, 5000, 5}, {0, 100, 7}, {0, UINT64_MAX, 7});
    begin(steps, 1);
    ear_tell_all(&ear);
    hear(1);
    expect_number(100, next());
    expect_number(0, next());
    end();
}

static const struct step lies[] = {
    RAW("\xc1"),
    RAW("\x94\x01\x02\xc0\x80"),                             /* another question's */
    RAW("\x94\x00\x01\xc0\x80"),                             /* no answer */
    RAW("\x93\x01\x01\xc0"),                                 /* too short */
    RAW(ANSWER "\x90"),                                      /* no map */
    RAW(ANSWER "\x81\xa5slots\xdd\xff\xff\xff\xff"),         /* 2^32 - 1 slots */
    RAW(ANSWER "\x81\xa6" "events\xdd\x00\x0f\xff\xff\x93"), /* a million, and the end */
    RAW(ANSWER "\x81\xa5slots\x91\x92\x64\x92\xc2\xc2"),     /* a face of two fields */
    RAW(ANSWER "\x81\xa5slots\x91\x92\x64\x95\xc4\x01x"),    /* a label of one byte */
    RAW(ANSWER "\x81\xa5slots\x91\x92\x64\x95\xc6\xff\xff\xff\xff"),
    RAW(ANSWER "\x81\xa5slots\x91\x93\x64\xc3\xc3"),         /* a slot of three elements */
    RAW(ANSWER "\x81\xa5slots\x91\x92\xa1x\xc3"),            /* a slot that is text */
    RAW(ANSWER "\x81\xa6" "events\x91\x93\xc0\x64\xc3"),     /* an event without a number */
    RAW(ANSWER "\x81\xa6number\xa1x"),
    RAW(ANSWER "\x81\xd9\xff"),                              /* a key that is too long */
    RAW(ANSWER "\x80" ANSWER "\x80"),                        /* two answers to one question */
    RAW("\x94\x01\x01\x92\xa7unknown\xc0\xc0"),              /* a refusal without its text */
};

static void lies_end_the_channel(void)
{
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        test_case("lie %zu", i);
        unsigned before = open_descriptors();
        begin(&lies[i], 1);
        hear(1);
        while (ear.channel)
            go_on(0);
        expect(ear.rest_ms > channel_now_ms());
        expect(!ear.subscribed);
        expect_number(0, next());
        expect_number(-1, ear_descriptor(&ear));
        end();
        expect_number(before, open_descriptors());
    }
}

static void who_knows_no_events_is_not_asked_again(void)
{
    static const struct step steps[] = {RAW("\x94\x01\x01\x92\xa7unknown\xa1x\xc0")};
    begin(steps, 1);
    hear(1);
    expect(ear.deaf);
    ear.rest_ms = 0;
    ear_tend(&ear, rig_module(), &seen, 1);
    expect_number(0, ear.asked);
    expect(!ear_is_awaited(&ear, 1));
    end();
}

static void who_never_answers_is_reported(void)
{
    static const struct step steps[] = {{0}};
    begin(steps, 1);
    rig_module()->helper = HELPER;
    atomic_store(&rig_module()->patience[PATIENCE_SHORT], TICK_MS);
    rig_hung = 0;
    while (!ear.greeted)
        go_on(1);
    while (ear.channel)
        go_on(1);
    expect_number(HELPER, rig_hung);
    expect_number(0, atomic_load(&rig_module()->generation));
    end();
}

static const struct test tests[] = {
    TEST(a_state_and_what_follows, "A state is no event; with its number all that follows is told, each event once."),
    TEST(the_same_token_pulled_and_pushed, "What is there again was gone: each is an event, also where nothing is to be seen."),
    TEST(a_gap_is_compared, "Where not all can be told the state is compared, whatever its number."),
    TEST(what_was_told_before_is_compared, "What calls told is what the first state is compared with."),
    TEST(all_that_is_new_after_a_list, "Who was told of all slots hears of those that are new."),
    TEST(a_quick_question_beside_one_that_waits, "Who does not want to wait asks beside a question that waits, once in a round."),
    TEST(another_helper_brings_its_tokens, "A token goes with its helper and comes with the next."),
    TEST(an_answer_that_is_cut_short, "What has come of an answer counts, and is not told again."),
    TEST(numbers_that_go_back, "An event whose number is known has been told."),
    TEST(events_without_a_state, "Who has no state asks for it, whatever it is told instead."),
    TEST(answers_at_once_that_say_nothing, "Who answers at once and says nothing is not asked again and again."),
    TEST(more_slots_than_there_can_be, "Slots of which there can be no more are nobody's; the others are heard of."),
    TEST(lies_end_the_channel, "What is no answer ends the channel, and the helper has a rest; nothing is left open."),
    TEST(who_knows_no_events_is_not_asked_again, "A helper without events is asked once."),
    TEST(who_never_answers_is_reported, "A helper that does not answer in time is of no more use, and reported."),
};

TEST_MAIN(tests)
