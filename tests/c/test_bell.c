/* Bells, trays and shelves: memory both ends share, which saves time and which a peer can write what it likes to. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel.h"
#include "fd_count.h"
#include "test.h"

enum { BIG = 3 * 1024 * 1024 };

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

static void hang_bells(void)
{
    int fd = bell_make(&near_end->bell);
    expect(fd >= 0);
    expect(is_closed_on_exec(fd));
    bell_hang(&far_end->bell, fd);
    close(fd);
    expect(near_end->bell.page && far_end->bell.page);
    channel_use_shelf(near_end);
    channel_use_shelf(far_end);
}

static void *echo(void *argument)
{
    struct channel *c = argument;
    for (;;) {
        channel_begin(c, 0);
        size_t len = read_bin(&c->in);
        void *bytes = c->in.error ? NULL : malloc(len);
        if (!bytes)
            return NULL;
        read_raw(&c->in, bytes, len);
        write_bin(&c->out, bytes, len);
        int error = channel_send(c);
        free(bytes);
        if (error)
            return NULL;
    }
}

static void expect_echo(size_t len)
{
    write_bin(&near_end->out, big, len);
    expect_number(0, channel_send(near_end));
    channel_begin(near_end, near_end->sent);
    expect_number(len, read_bin(&near_end->in));
    read_raw(&near_end->in, got, len);
    expect_bytes(big, got, len);
    expect_number(0, near_end->in.error);
}

static _Atomic unsigned crowds[2];

static void converse_with_bells(void (*between)(unsigned round))
{
    static const size_t sizes[] = {0, 1, WRITER_BY_REFERENCE - 1, WRITER_BY_REFERENCE, 100000, LIMIT_SHELF, LIMIT_SHELF + 1};
    pthread_t thread;
    begin();
    hang_bells();
    bell_heed(&near_end->bell, &crowds[0], false);
    bell_heed(&far_end->bell, &crowds[1], true);
    expect_number(0, pthread_create(&thread, NULL, echo, far_end));
    for (unsigned i = 0; i < 70; i++) {
        test_case("%zu bytes", sizes[i % 7]);
        if (between)
            between(i);
        expect_echo(sizes[i % 7]);
    }
    shutdown(near_end->from, SHUT_RDWR);
    expect_number(0, pthread_join(thread, NULL));
    end();
}

static void bells_and_shelves_change_nothing(void)
{
    converse_with_bells(NULL);
}

static void lie(unsigned round)
{
    static const uint32_t numbers[] = {0, 1, 1000, UINT32_MAX, 0x80000000U};
    atomic_store(&near_end->bell.theirs->rung, numbers[round % 5]);
    atomic_store(&near_end->bell.ours->rung, numbers[(round + 2) % 5]);
}

static void a_bell_that_lies_costs_time_only(void)
{
    converse_with_bells(lie);
}

static bool is_doze(uint32_t state)
{
    return state == TRAY_DOZED_AT || state == TRAY_DOZED_AT_TOO;
}

/* What the far end would see: at the tray and at the socket. */
static void expect_way(size_t len, uint32_t state, bool on_tray)
{
    struct bell_side *side = near_end->bell.theirs;
    uint8_t byte;
    test_case("%zu bytes, state %u", len, state);
    atomic_store(&side->state, state);
    write_bin(&near_end->out, big, len);
    expect_number(0, channel_send(near_end));
    uint32_t after = is_doze(state) ? TRAY_OPEN : state;
    expect_number(on_tray ? TRAY_LAID : after, atomic_load(&side->state));
    ssize_t sent = recv(far_end->from, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    expect_number(on_tray ? -1 : 1, sent);
    if (on_tray) {
        expect_number(len + 2 + (len > UINT8_MAX), side->len);
        expect_bytes(big, side->tray + side->len - len, len);
    }
}

static void expect_way_anew(size_t len, uint32_t state, bool on_tray)
{
    begin();
    hang_bells();
    expect_way(len, state, on_tray);
    end();
}

/* What lies on the tray is read before what is in the socket. */
static void nothing_overtakes_a_notification(void)
{
    uint8_t byte = 0;
    begin();
    hang_bells();
    atomic_store(&near_end->bell.theirs->state, TRAY_SHUT);
    write_bin(&near_end->out, big, 10);
    expect_number(0, channel_post(near_end));
    expect_way(10, TRAY_OPEN, false);
    expect_way(10, TRAY_OPEN, false);
    write_bin(&far_end->out, &byte, 1); /* the answer to the second */
    expect_number(0, channel_send(far_end));
    channel_begin(near_end, 0);
    expect_number(1, read_bin(&near_end->in));
    read_raw(&near_end->in, &byte, 1);
    while (recv(far_end->from, got, sizeof got, MSG_DONTWAIT) > 0)
        continue;
    expect_way(10, TRAY_OPEN, true);
    end();
}

static void a_tray_is_used_unless_its_owner_is_asleep_elsewhere(void)
{
    expect_way_anew(0, TRAY_OPEN, true);
    expect_way_anew(BELL_TRAY - 3, TRAY_OPEN, true);
    expect_way_anew(BELL_TRAY - 2, TRAY_OPEN, false);
    expect_way_anew(10, TRAY_DOZED_AT, true);
    expect_way_anew(BELL_TRAY, TRAY_DOZED_AT, false);
    expect_way_anew(10, TRAY_DOZED_AT_TOO, true);
    expect_way_anew(BELL_TRAY, TRAY_DOZED_AT_TOO, false);
    expect_way_anew(10, TRAY_SHUT, false);
    expect_way_anew(10, TRAY_LAID, false); /* nobody took the last one */
    expect_way_anew(10, 17, false);
}

static _Atomic unsigned heard;

static void *listen_to_all(void *argument)
{
    struct channel *c = argument;
    for (;;) {
        channel_begin(c, 0);
        size_t len = read_bin(&c->in);
        if (c->in.error)
            return NULL;
        read_raw(&c->in, got, len);
        atomic_fetch_add(&heard, 1);
    }
}

static pthread_t begin_to_listen(void)
{
    pthread_t thread;
    begin();
    hang_bells();
    atomic_store(&heard, 0);
    expect_number(0, pthread_create(&thread, NULL, listen_to_all, far_end));
    return thread;
}

static bool is_asleep(void)
{
    uint32_t state = atomic_load(&near_end->bell.theirs->state);
    return is_doze(state) || state == TRAY_SHUT;
}

/* Some before it dozes, some while it does, some sent faster than they are heard. */
static void whoever_dozes_is_woken_both_ways(void)
{
    enum { ROUNDS = 300 };
    pthread_t thread = begin_to_listen();
    for (unsigned i = 0; i < ROUNDS; i++) {
        while (i % 3 && (atomic_load(&heard) < i || (i % 3 == 2 && !is_asleep())))
            sched_yield();
        write_bin(&near_end->out, big, i % 2 ? 10 : BELL_TRAY);
        expect_number(0, channel_send(near_end));
    }
    while (atomic_load(&heard) < ROUNDS)
        sched_yield();
    shutdown(near_end->from, SHUT_RDWR);
    expect_number(0, pthread_join(thread, NULL));
    end();
}

static void whoever_dozes_notices_the_end(void)
{
    for (unsigned i = 0; i < 10; i++) {
        pthread_t thread = begin_to_listen();
        write_bin(&near_end->out, big, 1);
        expect_number(0, channel_send(near_end));
        while (atomic_load(&heard) < 1 || !is_asleep())
            sched_yield();
        near_end = channel_free(near_end);
        expect_number(0, pthread_join(thread, NULL));
        end();
    }
}

/* Whoever sends ahead has messages that arrive together: each must be counted, or there is no looking ever after. */
static void messages_that_come_together_are_counted(void)
{
    begin();
    hang_bells();
    for (unsigned i = 0; i < 5; i++) {
        write_bin(&near_end->out, big, i);
        expect_number(0, channel_send(near_end));
    }
    for (unsigned i = 0; i < 5; i++) {
        channel_begin(far_end, 0);
        expect_number(i, read_bin(&far_end->in));
        read_raw(&far_end->in, got, i);
    }
    channel_begin(far_end, 0);
    expect_number(5, far_end->bell.received);
    end();
}

/* ---- a peer that writes what it likes to the memory both share ---- */

static _Atomic bool is_over;

static void *scribble(void *argument)
{
    static const uint32_t lengths[] = {0, 1, 100, BELL_TRAY, BELL_TRAY + 1, 4096, 65536, 0x7fffffff, UINT32_MAX};
    struct bell *bell = argument;
    for (unsigned i = 0; !atomic_load(&is_over); i++) {
        volatile uint32_t *len = &bell->theirs->len;
        *len = lengths[i % (sizeof lengths / sizeof *lengths)];
        atomic_store(&bell->theirs->state, i % 5 ? TRAY_LAID : i);
        atomic_store(&bell->theirs->rung, i % 3 ? i : 0);
    }
    return NULL;
}

static void a_tray_is_never_longer_than_it_is(void)
{
    static const size_t rooms[] = {1, 99, 100, 101, BELL_TRAY, READER_BUFFER};
    struct bell ours, theirs;
    pthread_t thread;
    int fd = bell_make(&ours);
    bell_hang(&theirs, fd);
    close(fd);
    expect(ours.page && theirs.page);
    atomic_store(&is_over, false);
    bell_heed(&ours, &crowds[0], false);
    expect_number(0, pthread_create(&thread, NULL, scribble, &theirs));
    for (unsigned i = 0; i < 3000; i++) {
        size_t room = rooms[i % 6];
        uint8_t *bytes = malloc(room);
        expect(bytes != NULL);
        bell_await(&ours, 0);
        long got_now = bell_take(&ours, bytes, room);
        free(bytes);
        expect(got_now >= 0 && (size_t)got_now <= room && got_now <= BELL_TRAY);
        ours.rest = 0;
    }
    atomic_store(&is_over, true);
    expect_number(0, pthread_join(thread, NULL));
    bell_finish(&theirs);
    bell_finish(&ours);
}

/* ---- a child that a signal handler has forked, within its parent's call ---- */

static _Atomic uint32_t life = 1;

/* Both ends of a bell; `ours` is that of life 1. */
static void hang_owned(struct bell *ours, struct bell *theirs, const struct owner *owner)
{
    int fd = bell_make(ours);
    ours->owner = owner;
    bell_hang(theirs, fd);
    close(fd);
    expect(ours->page && theirs->page);
    atomic_store(&life, 1);
}

static void a_child_takes_nothing_of_its_parents(void)
{
    static const uint8_t answer[] = "answer";
    const struct owner owner = {.life = 1, .page = &life};
    const struct iovec span = {(void *)(uintptr_t)answer, sizeof answer};
    uint8_t bytes[BELL_TRAY];
    struct bell ours, theirs;
    hang_owned(&ours, &theirs, &owner);
    atomic_store(&ours.ours->state, TRAY_OPEN);
    expect_number(1, bell_lay(&theirs, &span, 1, sizeof answer));
    atomic_store(&life, 2);
    expect_number(-EOWNERDEAD, bell_take(&ours, bytes, sizeof bytes));
    atomic_store(&life, 1);
    expect_number(sizeof answer, bell_take(&ours, bytes, sizeof bytes));
    expect_bytes(answer, bytes, sizeof answer);
    atomic_store(&life, 2);
    expect_number(-EOWNERDEAD, bell_take(&ours, bytes, sizeof bytes));
    expect_number(TRAY_OPEN, atomic_load(&ours.ours->state));
    bell_finish(&theirs);
    bell_finish(&ours);
}

static void a_child_lays_nothing_for_its_parent(void)
{
    static const uint8_t request[] = "request";
    const struct owner owner = {.life = 1, .page = &life};
    const struct iovec span = {(void *)(uintptr_t)request, sizeof request};
    struct bell ours, theirs;
    hang_owned(&ours, &theirs, &owner);
    atomic_store(&theirs.ours->state, TRAY_OPEN);
    atomic_store(&life, 2);
    expect_number(-EOWNERDEAD, bell_lay(&ours, &span, 1, sizeof request));
    expect_number(TRAY_OPEN, atomic_load(&theirs.ours->state));
    bell_finish(&theirs);
    bell_finish(&ours);
}

/* ---- */

static void expect_no_bell(int fd)
{
    struct bell bell;
    uint8_t nothing[1];
    expect(fd >= 0);
    bell_hang(&bell, fd);
    expect(bell.page == NULL && bell.shelf.base == NULL);
    bell_ring(&bell);
    bell_await(&bell, 0);
    expect_number(0, bell_take(&bell, nothing, sizeof nothing));
    bell_finish(&bell);
    close(fd);
}

static void a_child_shuts_nothing_of_its_parents(void)
{
    struct bell ours, theirs;
    struct owner owner = {.life = 1, .page = &life};
    hang_owned(&ours, &theirs, &owner);
    atomic_store(&ours.ours->state, TRAY_OPEN);
    atomic_store(&life, 0);
    expect(bell_shut(&ours));
    expect_number(TRAY_OPEN, atomic_load(&ours.ours->state));
    bell_finish(&theirs);
    bell_finish(&ours);
}

/* A file that can shrink would kill whoever looks at it. */
static void a_bell_that_could_be_pulled_away_is_not_hung(void)
{
    int loose = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING), tiny = memfd_create("tiny", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int ends[2];
    expect_number(0, ftruncate(loose, 2 * LIMIT_SHELF));
    expect_no_bell(loose);
    expect_number(0, ftruncate(tiny, 4096));
    expect_number(0, fcntl(tiny, F_ADD_SEALS, F_SEAL_SHRINK));
    expect_no_bell(tiny);
    make_pair(SOCK_STREAM, ends);
    expect_no_bell(ends[0]);
    expect_no_bell(ends[1]);
    expect_no_bell(open("/dev/zero", O_RDWR | O_CLOEXEC));
    expect_no_bell(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
}

static void a_bell_cannot_be_pulled_away(void)
{
    struct bell bell;
    int fd = bell_make(&bell);
    expect(fd >= 0);
    expect(ftruncate(fd, 0) != 0);
    bell_finish(&bell);
    close(fd);
}

/* ---- who looks, and then waits elsewhere ---- */

static void expect_message(uint64_t number)
{
    expect_number(number, read_uint(&near_end->in));
    expect_number(0, near_end->in.error);
}

static void say(uint64_t number)
{
    write_uint(&far_end->out, number);
    expect_number(0, channel_send(far_end));
}

static void who_has_looked_is_told_by_the_socket(void)
{
    uint8_t byte;
    for (unsigned waits = 0; waits < 2; waits++) {
        begin();
        hang_bells();
        channel_begin(near_end, 0);
        expect(!channel_look(near_end, waits));
        say(7);
        expect_number(1, recv(near_end->from, &byte, 1, MSG_DONTWAIT | MSG_PEEK));
        expect(channel_look(near_end, waits));
        expect_message(7);
        end();
    }
}

static void what_was_laid_is_found(void)
{
    begin();
    hang_bells();
    atomic_store(&near_end->bell.ours->state, TRAY_OPEN);
    say(8);
    expect_number(TRAY_LAID, atomic_load(&near_end->bell.ours->state));
    channel_begin(near_end, 0);
    expect(channel_look(near_end, false));
    expect_message(8);
    end();
}

/* Something that is different everywhere. */
__attribute__((constructor)) static void fill(void)
{
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 7 >> 4);
}

static const struct test tests[] = {
    TEST(bells_and_shelves_change_nothing, "with a bell and a shelf the same messages arrive"),
    TEST(a_bell_that_lies_costs_time_only, "whatever a bell says, the messages arrive"),
    TEST(nothing_overtakes_a_notification, "no call overtakes a notification that was sent before it"),
    TEST(a_tray_is_used_unless_its_owner_is_asleep_elsewhere, "a small message is laid on the tray, and sent if its owner would not look there"),
    TEST(whoever_dozes_is_woken_both_ways, "no message is slept through, on the tray or through the socket"),
    TEST(whoever_dozes_notices_the_end, "a peer that has gone is noticed while dozing"),
    TEST(messages_that_come_together_are_counted, "messages that were sent ahead are counted one by one"),
    TEST(a_tray_is_never_longer_than_it_is, "whatever a peer writes to the page, no more is taken than there is room for"),
    TEST(a_child_takes_nothing_of_its_parents, "a child that comes back into its parent's call leaves the answer on the tray"),
    TEST(a_child_lays_nothing_for_its_parent, "a child that comes back into its parent's call asks nothing"),
    TEST(a_child_shuts_nothing_of_its_parents, "a child that comes back into its parent's call leaves the tray open"),
    TEST(who_has_looked_is_told_by_the_socket, "to who has looked in vain all comes through the socket"),
    TEST(what_was_laid_is_found, "who looks finds what was laid, and reads it"),
    TEST(a_bell_that_could_be_pulled_away_is_not_hung, "only memory that cannot shrink is looked at"),
    TEST(a_bell_cannot_be_pulled_away, "our own bell cannot shrink either"),
};

TEST_MAIN(tests)
