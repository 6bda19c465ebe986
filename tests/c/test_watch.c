/* A helper's watch: its log, and threads that ask it while slots change. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve.h"
#include "slate.h"
#include "tables.h"
#include "test.h"
#include "watch.h"
#include "watch_log.h"

enum { SECOND = 1000000000, SLOTS = 3, SUBSCRIBERS = 4, CHANGES = 20, WAIT_MS = 5000 };

/* ---- the log alone ---- */

static struct watch_log log_;

static struct slot_look empty(CK_SLOT_ID slot)
{
    return (struct slot_look){.slot = slot, .state = SLOT_EMPTY};
}

static struct slot_look token(CK_SLOT_ID slot, uint8_t serial)
{
    return (struct slot_look){.slot = slot, .state = SLOT_TOKEN, .token.serial = {serial}};
}

static void begin_log(const struct slot_look *seen, unsigned count)
{
    memset(&log_, 0, sizeof log_);
    watch_log_begin(&log_, seen, count, SECOND);
}

static void what_is_first_is_no_event(void)
{
    struct slot_look seen[] = {empty(1), token(2, 7)};
    begin_log(seen, 2);
    expect_number(0, watch_log_compare(&log_, seen, 2, SECOND));
    expect_number(SECOND, log_.number);
    expect(watch_log_has(&log_, SECOND));
    expect(!watch_log_has(&log_, SECOND - 1));
    expect(!watch_log_has(&log_, SECOND + 1));
}

static void a_swap_is_two(void)
{
    struct slot_look before[] = {token(1, 1)}, after[] = {token(1, 2)};
    begin_log(before, 1);
    watch_log_compare(&log_, after, 1, SECOND);
    expect_number(SECOND + 2, log_.number);
    expect_number(SLOT_EMPTY, watch_log_event(&log_, SECOND + 1)->after.state);
    expect_number(2, watch_log_event(&log_, SECOND + 2)->after.token.serial[0]);
}

static void what_is_unclear_is_no_change(void)
{
    struct slot_look before[] = {token(1, 1)}, shallow[] = {token(1, 0)}, after[] = {token(1, 2)};
    shallow[0].unclear = true;
    begin_log(before, 1);
    expect_number(0, watch_log_compare(&log_, shallow, 1, SECOND));
    expect_number(1, watch_log_compare(&log_, after, 1, SECOND));
    expect_number(SECOND + 2, log_.number);
}

/* Whatever there was in between. */
static void the_last_state_is_told(void)
{
    struct slot_look seen[] = {empty(1)};
    uint64_t now = SECOND, told = 0;
    begin_log(seen, 1);
    for (unsigned i = 1; i <= 1000; i++, now += SECOND / 1000) {
        seen[0] = i % 2 ? token(1, 1) : empty(1);
        watch_log_compare(&log_, seen, 1, now);
    }
    told = log_.number - SECOND;
    expect(told >= LIMIT_SLOT_BURST && told <= LIMIT_SLOT_BURST + 2 * LIMIT_SLOT_RATE);
    seen[0] = token(1, 9);
    while (watch_log_due(&log_)) {
        now = watch_log_due(&log_) > now ? watch_log_due(&log_) : now;
        watch_log_compare(&log_, seen, 1, now);
    }
    if (log_.number == SECOND + told)
        watch_log_compare(&log_, seen, 1, now + SECOND);
    expect_number(9, watch_log_event(&log_, log_.number)->after.token.serial[0]);
    expect_number(0, watch_log_take_flapping(&log_));
    expect_number(1, watch_log_take_flapping(&log_));
}

static void slots_without_an_end(void)
{
    struct slot_look seen[] = {empty(1)};
    begin_log(seen, 0);
    for (CK_SLOT_ID slot = 1; slot <= 3 * LIMIT_MODULE_SLOTS; slot++) {
        seen[0] = token(slot, 1);
        watch_log_compare(&log_, seen, 1, SECOND);
    }
    expect(log_.n_slots <= LIMIT_MODULE_SLOTS);
    expect_number(SECOND + 6 * LIMIT_MODULE_SLOTS - 1, log_.number);
}

static void a_wait_echoes_a_look(void)
{
    struct slot_look before[] = {empty(1)}, after[] = {token(1, 1)};
    begin_log(before, 1);
    watch_log_compare(&log_, after, 1, SECOND);
    expect_number(STIR_KNOWN, watch_log_stir(&log_, 1, SECOND));
    expect_number(SECOND + 1, log_.number);
    expect_number(STIR_TOLD, watch_log_stir(&log_, 1, SECOND));
    expect_number(SECOND + 2, log_.number);
    expect_number(STIR_NO_SLOT, watch_log_stir(&log_, 2, SECOND));
}

/* ---- threads ---- */

static atomic_uint tokens[SLOTS];
static atomic_uint bell;

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    CK_ULONG n = 0;
    for (CK_SLOT_ID i = 0; i < SLOTS; i++) {
        if (present && !atomic_load(&tokens[i]))
            continue;
        if (slots)
            slots[n] = i;
        n++;
    }
    *count = n;
    return CKR_OK;
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    memset(info, 0, sizeof *info);
    memset(info->serialNumber, (int)atomic_load(&tokens[slot]), sizeof info->serialNumber);
    return CKR_OK;
}

static CK_RV wait_for_slot_event(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
    static unsigned heard;
    (void)reserved;
    for (;;) {
        unsigned rung = atomic_load(&bell);
        if (rung != heard) {
            heard = rung;
            *slot = 0;
            return CKR_OK;
        }
        if (flags & CKF_DONT_BLOCK)
            return CKR_NO_EVENT;
        usleep(1000);
    }
}

static struct provider provider = {.list = {
    .C_GetSlotList = get_slot_list, .C_GetTokenInfo = get_token_info, .C_WaitForSlotEvent = wait_for_slot_event,
}};

static void *run_helper(void *channel)
{
    serve(channel, &provider);
    channel_free(channel);
    return NULL;
}

static struct channel *open_channel(void)
{
    int ends[2];
    pthread_t thread;
    expect_number(0, socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    struct channel *caller = channel_new(ends[0], ends[0]), *helper = channel_new(ends[1], ends[1]);
    expect(caller && helper);
    expect_number(0, pthread_create(&thread, NULL, run_helper, helper));
    pthread_detach(thread);
    return caller;
}

static void ask(struct channel *c, const uint64_t *after)
{
    write_array(&c->out, 4);
    write_uint(&c->out, 0);
    write_uint(&c->out, 1);
    write_str(&c->out, "watch", 5);
    write_array(&c->out, 1);
    write_map(&c->out, after ? 2 : 1);
    write_str(&c->out, "wait", 4);
    write_uint(&c->out, WAIT_MS);
    if (after) {
        write_str(&c->out, "after", 5);
        write_uint(&c->out, *after);
    }
    expect_number(0, channel_send(c));
}

/* The number of an answer; how many events it has. */
static uint64_t hear(struct channel *c, size_t *ret_events)
{
    char text[16];
    channel_begin(c, 0);
    expect(read_array_of(&c->in, 4));
    read_uint(&c->in), read_uint(&c->in), read_nil(&c->in);
    expect_number(3, read_map(&c->in));
    read_text(&c->in, text, sizeof text), read_skip(&c->in); /* kind */
    read_text(&c->in, text, sizeof text);
    uint64_t number = read_uint(&c->in);
    read_text(&c->in, text, sizeof text);
    *ret_events = read_array(&c->in);
    for (size_t i = 0; i < *ret_events; i++)
        read_skip(&c->in);
    expect_number(0, c->in.error);
    return number;
}

static uint64_t last_number;

static void *subscribe(void *unused)
{
    size_t events;
    struct channel *c = open_channel();
    ask(c, NULL);
    uint64_t number = hear(c, &events), told = 0, begun = number;
    while (told < CHANGES) {
        ask(c, &number);
        uint64_t next = hear(c, &events);
        expect_number(next - number, events);
        number = next;
        told = number - begun;
    }
    channel_free(c);
    return unused;
}

static void everybody_hears_everything(void)
{
    pthread_t threads[SUBSCRIBERS];
    size_t events;
    expect(slate_make());
    watch_interval(10);
    struct channel *c = open_channel();
    ask(c, NULL);
    last_number = hear(c, &events);
    expect_number(SLOTS, events);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        expect_number(0, pthread_create(&threads[i], NULL, subscribe, NULL));
    /* More than each waits for, as some may come late. */
    for (unsigned i = 0; i < 4 * CHANGES; i++) {
        atomic_fetch_xor(&tokens[i % SLOTS], 1);
        atomic_fetch_add(&bell, 1);
        if (i % 8 == 0)
            watch_prompt();
        ask(c, &last_number);
        last_number = hear(c, &events);
    }
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        expect_number(0, pthread_join(threads[i], NULL));
    watch_end();
    expect(watch_is_ending());
    channel_free(c);
}

static const struct test tests[] = {
    TEST(what_is_first_is_no_event, "The first look is no event; its number is the first there is."),
    TEST(a_swap_is_two, "A token in the place of another is an empty slot, then that token."),
    TEST(what_is_unclear_is_no_change, "What could not be found out changes nothing that is known."),
    TEST(the_last_state_is_told, "A slot that changes without a pause is told of now and then, and its last state always."),
    TEST(slots_without_an_end, "However many slots a provider makes up, as many as it may have are remembered."),
    TEST(a_wait_echoes_a_look, "What a look has found the provider's wait tells again, once; more than that is an event."),
    TEST(everybody_hears_everything, "Whoever asks gets each event once, whoever else asks and whatever changes meanwhile."),
};

TEST_MAIN(tests)
