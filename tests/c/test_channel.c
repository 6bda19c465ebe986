/* Channels: messages over a real socket, whatever the other end does. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel.h"
#include "fd_count.h"
#include "test.h"

enum { BIG = 3 * 1024 * 1024, TICK_MS = 5, DEADLINE_MS = 25 };

static struct channel *near_end, *far_end;
static uint8_t big[BIG], got[BIG];

static void end(void)
{
    near_end = channel_free(near_end);
    far_end = channel_free(far_end);
}

static void begin(void)
{
    int ends[2];
    end();
    make_pair(SOCK_STREAM, ends);
    near_end = channel_new(ends[0], ends[0]);
    far_end = channel_new(ends[1], ends[1]);
    expect(near_end && far_end);
}

static void write_small(struct channel *c)
{
    write_array(&c->out, 2);
    write_uint(&c->out, 1234567);
    write_str(&c->out, "hello", 5);
}

static void expect_small(struct channel *c)
{
    char text[8];
    channel_begin(c, 0);
    expect_number(2, read_array(&c->in));
    expect_number(1234567, read_uint(&c->in));
    read_text(&c->in, text, sizeof text);
    expect_text("hello", text);
    expect_number(0, c->in.error);
}

static void a_message_arrives(void)
{
    begin();
    for (unsigned i = 0; i < 3; i++) {
        write_small(near_end);
        expect_number(0, channel_send(near_end));
        expect_small(far_end);
        write_small(far_end);
        expect_number(0, channel_send(far_end));
        expect_small(near_end);
    }
    end();
}

static void messages_that_came_together_are_read_apart(void)
{
    begin();
    for (unsigned i = 0; i < 5; i++) {
        write_small(near_end);
        expect_number(0, channel_send(near_end));
    }
    for (unsigned i = 0; i < 5; i++)
        expect_small(far_end);
    end();
}

/* ---- partial sends and receives ---- */

static void *send_much(void *argument)
{
    struct channel *c = argument;
    write_array(&c->out, 3);
    write_bin(&c->out, big, sizeof big);
    write_uint(&c->out, 99);
    write_bin(&c->out, big, 10000);
    return (void *)(intptr_t)channel_send(c);
}

static void expect_much(struct channel *c)
{
    channel_begin(c, 0);
    expect_number(3, read_array(&c->in));
    expect_number(sizeof big, read_bin(&c->in));
    read_raw(&c->in, got, sizeof got);
    expect_bytes(big, got, sizeof big);
    expect_number(99, read_uint(&c->in));
    expect_number(10000, read_bin(&c->in));
    read_raw(&c->in, got, 10000);
    expect_bytes(big, got, 10000);
    expect_number(0, c->in.error);
}

static void narrow(int fd)
{
    int size = 4096;
    expect_number(0, setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
}

static void what_does_not_fit_at_once_is_sent_in_parts(void)
{
    pthread_t thread;
    void *error;
    begin();
    narrow(near_end->from);
    expect_number(0, pthread_create(&thread, NULL, send_much, near_end));
    expect_much(far_end);
    expect_number(0, pthread_join(thread, &error));
    expect_number(0, (intptr_t)error);
    end();
}

static _Atomic unsigned caught;

static void catch(int number)
{
    (void)number;
    atomic_fetch_add(&caught, 1);
}

/* A handler without SA_RESTART, the worst an application can have. */
static void disturb(pthread_t thread)
{
    unsigned before = atomic_load(&caught);
    for (unsigned i = 0; atomic_load(&caught) == before; i++, sched_yield())
        if (i % 1024 == 0) /* again: the thread sanitizer may keep one for itself for a while */
            expect_number(0, pthread_kill(thread, SIGUSR1));
}

static void heed_signals(void)
{
    struct sigaction action = {.sa_handler = catch};
    expect_number(0, sigaction(SIGUSR1, &action, NULL));
}

/* A system call that is interrupted has sent a part. */
static void what_is_interrupted_goes_on(void)
{
    enum { CHUNK = 32 * 1024 };
    pthread_t thread;
    void *error;
    begin();
    heed_signals();
    narrow(near_end->from);
    expect_number(0, pthread_create(&thread, NULL, send_much, near_end));
    channel_begin(far_end, 0);
    expect_number(3, read_array(&far_end->in));
    expect_number(BIG, read_bin(&far_end->in));
    for (size_t at = 0; at < BIG; at += CHUNK) {
        disturb(thread); /* which waits for room, as most of it is still to come */
        read_raw(&far_end->in, got + at, CHUNK);
    }
    expect_number(0, far_end->in.error);
    expect_bytes(big, got, BIG);
    expect_number(99, read_uint(&far_end->in));
    expect_number(10000, read_bin(&far_end->in));
    read_raw(&far_end->in, got, 10000);
    expect_number(0, pthread_join(thread, &error));
    expect_number(0, (intptr_t)error);
    end();
}

static void what_comes_in_parts_is_one_message(void)
{
    static const char bytes[] = "\x92\xce\x00\x12\xd6\x87\xa5hello";
    pthread_t thread;
    begin();
    int fd = near_end->from;
    expect_number(0, pthread_create(&thread, NULL, send_much, far_end)); /* the other way meanwhile, to mix things up */
    for (size_t i = 0; i < sizeof bytes - 1; i++)
        expect_number(1, send(fd, bytes + i, 1, 0));
    expect_much(near_end);
    expect_number(0, pthread_join(thread, NULL));
    expect_small(far_end);
    end();
}

/* ---- the other end has gone ---- */

static void a_peer_that_is_gone_is_no_signal(void)
{
    expect(signal(SIGPIPE, SIG_DFL) != SIG_ERR); /* which would end this program */
    begin();
    far_end = channel_free(far_end);
    write_small(near_end);
    expect_number(-EPIPE, channel_send(near_end));
    send_much(near_end);
    write_bin(&near_end->out, big, sizeof big);
    expect_number(-EPIPE, channel_send(near_end));
    end();
}

static void *close_after_a_part(void *argument)
{
    struct channel *c = argument;
    uint8_t part[1000];
    if (recv(c->from, part, sizeof part, MSG_WAITALL) != sizeof part)
        abort();
    shutdown(c->from, SHUT_RDWR);
    return NULL;
}

static void a_peer_that_goes_meanwhile_is_no_signal(void)
{
    pthread_t thread;
    begin();
    narrow(near_end->from);
    expect_number(0, pthread_create(&thread, NULL, close_after_a_part, far_end));
    expect_number(-EPIPE, (intptr_t)send_much(near_end));
    expect_number(0, pthread_join(thread, NULL));
    end();
}

static int error_of_reading(struct channel *c)
{
    channel_begin(c, 0);
    read_array(&c->in);
    read_uint(&c->in);
    read_skip(&c->in);
    return c->in.error;
}

static void the_end_is_told(void)
{
    begin();
    far_end = channel_free(far_end);
    expect_number(-ENODATA, error_of_reading(near_end));
    end();
}

static void the_end_inside_a_message_is_told(void)
{
    static const char bytes[] = "\x92\xce\x00\x12\xd6\x87\xa5hello";
    for (size_t len = 0; len < sizeof bytes - 1; len++) {
        begin();
        expect_number(len, send(far_end->from, bytes, len, 0));
        far_end = channel_free(far_end);
        test_case("after %zu bytes", len);
        expect_number(-ENODATA, error_of_reading(near_end));
    }
    end();
}

/* It closed without having read what was sent to it. */
static void a_reset_is_told(void)
{
    begin();
    write_small(near_end);
    expect_number(0, channel_send(near_end));
    far_end = channel_free(far_end);
    expect_number(-ECONNRESET, error_of_reading(near_end));
    end();
}

static void a_shut_down_channel_wakes_its_reader(void)
{
    begin();
    expect_number(0, shutdown(near_end->from, SHUT_RDWR));
    expect_number(-ENODATA, error_of_reading(near_end));
    write_small(near_end);
    expect_number(-EPIPE, channel_send(near_end));
    end();
}

/* ---- time ---- */

static void a_silent_peer_is_not_waited_for_for_ever(void)
{
    begin();
    channel_set_ticks(near_end, TICK_MS, TICK_MS);
    channel_set_deadline(near_end, DEADLINE_MS);
    expect_number(-ETIMEDOUT, error_of_reading(near_end));
    expect(near_end->waited_ms >= DEADLINE_MS);
    end();
}

static void half_a_message_is_not_waited_for_for_ever(void)
{
    begin();
    channel_set_ticks(near_end, TICK_MS, TICK_MS);
    channel_set_deadline(near_end, DEADLINE_MS);
    expect_number(3, send(far_end->from, "\x92\xce\x00", 3, 0));
    expect_number(-ETIMEDOUT, error_of_reading(near_end));
    end();
}

/* Sends or takes single bytes for ever, until the other end hangs up. */
static void *dribble(void *argument)
{
    const struct channel *c = argument;
    uint8_t byte = 1;
    while (send(c->from, &byte, 1, MSG_NOSIGNAL) == 1)
        continue;
    return NULL;
}

static void *sip(void *argument)
{
    const struct channel *c = argument;
    uint8_t byte;
    while (recv(c->from, &byte, 1, 0) == 1)
        continue;
    return NULL;
}

/* A tick is far away: only the clock can end this. */
static void expect_clock_to_end(void *(*peer)(void *), int (*wait)(struct channel *))
{
    pthread_t thread;
    begin();
    narrow(near_end->from);
    narrow(far_end->from);
    channel_set_ticks(near_end, 1000 * DEADLINE_MS, 1000 * DEADLINE_MS);
    channel_set_deadline(near_end, DEADLINE_MS);
    expect_number(0, pthread_create(&thread, NULL, peer, far_end));
    expect_number(-ETIMEDOUT, wait(near_end));
    expect_number(0, near_end->waited_ms);
    shutdown(near_end->from, SHUT_RDWR);
    expect_number(0, pthread_join(thread, NULL));
    end();
}

/* A message that would take all the bytes there may ever be. */
static int read_for_ever(struct channel *c)
{
    uint8_t byte;
    channel_begin(c, 0);
    while (!c->in.error) {
        c->in.left = LIMIT_MESSAGE;
        read_raw(&c->in, &byte, 1);
    }
    return c->in.error;
}

static int send_very_much(struct channel *c)
{
    static uint8_t very_big[64 * 1024 * 1024];
    write_bin(&c->out, very_big, sizeof very_big);
    return channel_send(c);
}

static void a_peer_that_sends_byte_by_byte_is_not_waited_for_for_ever(void)
{
    expect_clock_to_end(dribble, read_for_ever);
}

static void a_peer_that_reads_byte_by_byte_is_not_waited_for_for_ever(void)
{
    expect_clock_to_end(sip, send_very_much);
}

static void a_peer_that_does_not_read_is_not_waited_for_for_ever(void)
{
    begin();
    channel_set_ticks(near_end, TICK_MS, TICK_MS);
    channel_set_deadline(near_end, DEADLINE_MS);
    expect_number(-ETIMEDOUT, (intptr_t)send_much(near_end));
    end();
}

static void a_deadline_shorter_than_a_tick_ends_with_it(void)
{
    begin();
    channel_set_ticks(near_end, TICK_MS, TICK_MS);
    channel_set_deadline(near_end, 1);
    expect_number(-ETIMEDOUT, error_of_reading(near_end));
    end();
}

static void each_message_has_a_deadline_of_its_own(void)
{
    begin();
    channel_set_ticks(near_end, TICK_MS, TICK_MS);
    channel_set_deadline(near_end, DEADLINE_MS);
    expect_number(-ETIMEDOUT, error_of_reading(near_end));
    channel_set_deadline(near_end, DEADLINE_MS);
    expect_number(0, near_end->waited_ms);
    write_small(far_end);
    expect_number(0, channel_send(far_end));
    expect_small(near_end);
    end();
}

/* ---- signals ---- */

static _Atomic bool is_reading;

static void *read_small(void *argument)
{
    atomic_store(&is_reading, true);
    expect_small(argument);
    return NULL;
}

static void signals_do_not_disturb(void)
{
    pthread_t thread;
    begin();
    atomic_store(&is_reading, false);
    heed_signals();
    expect_number(0, pthread_create(&thread, NULL, read_small, near_end));
    while (!atomic_load(&is_reading))
        sched_yield();
    for (unsigned i = 0; i < 50; i++)
        disturb(thread);
    write_small(far_end);
    expect_number(0, channel_send(far_end));
    expect_number(0, pthread_join(thread, NULL));
    end();
}

static _Atomic bool is_over;
static pthread_t waiting;

static void *interrupt(void *argument)
{
    (void)argument;
    while (!atomic_load(&is_over)) {
        pthread_kill(waiting, SIGUSR1);
        sched_yield();
    }
    return NULL;
}

static void signals_do_not_prolong_a_wait(void)
{
    pthread_t thread;
    begin();
    heed_signals();
    waiting = pthread_self();
    atomic_store(&is_over, false);
    channel_set_ticks(near_end, 1000 * DEADLINE_MS, 1000 * DEADLINE_MS);
    channel_set_deadline(near_end, DEADLINE_MS);
    expect_number(0, pthread_create(&thread, NULL, interrupt, NULL));
    expect_number(-ETIMEDOUT, error_of_reading(near_end));
    atomic_store(&is_over, true);
    expect_number(0, pthread_join(thread, NULL));
    end();
}

/* ---- errors of the writer, ownership ---- */

static void what_cannot_be_written_is_not_sent(void)
{
    begin();
    write_bin(&near_end->out, big, (size_t)LIMIT_BYTES + 1);
    expect_number(-EMSGSIZE, channel_send(near_end));
    write_small(near_end);
    expect_number(0, channel_send(near_end));
    expect_small(far_end);
    end();
}

static void what_cannot_be_posted_is_forgotten(void)
{
    begin();
    narrow(near_end->to);
    while (send(near_end->to, big, 1000, MSG_DONTWAIT) > 0)
        continue;
    for (int i = 0; i < 3; i++) {
        write_small(near_end);
        expect_number(0, channel_post(near_end));
    }
    while (recv(far_end->from, got, sizeof got, MSG_DONTWAIT) > 0)
        continue;
    write_small(near_end);
    expect_number(0, channel_post(near_end));
    expect_small(far_end);
    far_end = channel_free(far_end);
    write_small(near_end);
    expect_number(-EPIPE, channel_post(near_end));
    end();
}

static void a_channel_owns_its_descriptor(void)
{
    unsigned before = open_descriptors();
    begin();
    int fd = near_end->from;
    end();
    expect(!is_open(fd));
    expect_number(before, open_descriptors());
    expect(channel_free(NULL) == NULL);
}

/* Something that is different everywhere. */
__attribute__((constructor)) static void fill(void)
{
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 7 >> 4);
}

static const struct test tests[] = {
    TEST(a_message_arrives, "what one end sends the other reads, both ways"),
    TEST(messages_that_came_together_are_read_apart, "messages that arrive in one piece are several"),
    TEST(what_does_not_fit_at_once_is_sent_in_parts, "a message larger than the socket's buffer arrives whole"),
    TEST(what_is_interrupted_goes_on, "so does one whose sending is interrupted again and again"),
    TEST(what_comes_in_parts_is_one_message, "a message that arrives byte by byte is one"),
    TEST(a_peer_that_is_gone_is_no_signal, "sending to nobody is -EPIPE and no SIGPIPE"),
    TEST(a_peer_that_goes_meanwhile_is_no_signal, "so it is when the peer goes in the middle of a message"),
    TEST(the_end_is_told, "an orderly end is told"),
    TEST(the_end_inside_a_message_is_told, "an end within a message is told, wherever it falls"),
    TEST(a_reset_is_told, "a peer that left without reading is told from one that said goodbye"),
    TEST(a_shut_down_channel_wakes_its_reader, "a channel that was shut down is at its end"),
    TEST(a_silent_peer_is_not_waited_for_for_ever, "waiting for an answer has an end"),
    TEST(half_a_message_is_not_waited_for_for_ever, "waiting for the rest of a message has an end"),
    TEST(a_peer_that_does_not_read_is_not_waited_for_for_ever, "waiting for room to send has an end"),
    TEST(a_peer_that_sends_byte_by_byte_is_not_waited_for_for_ever, "a message has a deadline as a whole, however busy its sender is"),
    TEST(a_peer_that_reads_byte_by_byte_is_not_waited_for_for_ever, "so has one that is read byte by byte"),
    TEST(a_deadline_shorter_than_a_tick_ends_with_it, "the shortest deadline ends with one tick"),
    TEST(each_message_has_a_deadline_of_its_own, "a deadline begins anew with every message"),
    TEST(signals_do_not_disturb, "signals the application handles do not end a call"),
    TEST(signals_do_not_prolong_a_wait, "a deadline holds for a thread that signals interrupt all the time"),
    TEST(what_cannot_be_written_is_not_sent, "a message over the limits is not sent, and the next one is"),
    TEST(what_cannot_be_posted_is_forgotten, "a notification waits for nobody, and one that cannot be sent leaves no trace"),
    TEST(a_channel_owns_its_descriptor, "a channel closes its descriptor"),
};

TEST_MAIN(tests)
