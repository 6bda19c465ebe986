/* Doors: how a channel is opened, what else may come through, and the hello. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd_count.h"
#include "door.h"
#include "tables.h"
#include "test.h"

static int outside = -1, inside = -1; /* the caller's end of the door, the receiver's */
static unsigned descriptors;          /* open before a test */

static const struct owner nobody;

static void end(void)
{
    if (outside >= 0)
        close(outside);
    if (inside >= 0)
        close(inside);
    outside = inside = -1;
}

static void begin(void)
{
    int ends[2], on = 1;
    end();
    descriptors = open_descriptors();
    make_pair(SOCK_SEQPACKET, ends);
    outside = ends[0];
    inside = ends[1];
    expect_number(0, setsockopt(inside, SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
}

static void finish(void)
{
    end();
    expect_number(descriptors, open_descriptors());
}

static struct channel *receive(struct hello *ret_hello, int *ret_error)
{
    pid_t pid;
    struct channel *channel = door_receive(inside, ret_hello, &pid, ret_error);
    if (channel)
        expect_number(getpid(), pid);
    return channel;
}

/* ---- what should come through ---- */

static struct hello some_hello(void)
{
    struct hello hello = hello_ours();
    strcpy(hello.program, "test_door");
    return hello;
}

static void expect_words(struct channel *from, struct channel *to)
{
    write_uint(&from->out, 42);
    expect_number(0, channel_send(from));
    channel_begin(to, 0);
    expect_number(42, read_uint(&to->in));
    expect_number(0, to->in.error);
}

static void pass(enum door_kind kind)
{
    bool with_bell = kind == DOOR_OF_HELPER;
    int error;
    struct hello hello = some_hello(), heard;
    struct channel *ours = door_open(outside, &hello, kind, &nobody, &error);
    expect_number(0, error);
    struct channel *theirs = receive(&heard, &error);
    expect(ours && theirs);
    expect_number(0, error);
    expect_text("test_door", heard.program);
    expect_number(PROTOCOL_VERSION, heard.protocol);
    expect_number(sizeof(CK_ULONG), heard.ulong);
    expect_number(tables_digest, heard.tables);
    expect(is_closed_on_exec(ours->from) && is_closed_on_exec(theirs->from));
    expect(is_closed_on_exec(ours->to) && is_closed_on_exec(theirs->to));
    expect_number(with_bell, ours->from != ours->to);
    expect_number(with_bell, theirs->from != theirs->to);
    expect_number(with_bell, ours->bell.page != NULL);
    expect_number(with_bell, theirs->bell.page != NULL);
    expect_words(ours, theirs);
    expect_words(theirs, ours);
    channel_free(ours);
    channel_free(theirs);
}

static void a_channel_comes_through(void)
{
    begin();
    for (unsigned i = 0; i < 3; i++)
        pass(i % 2 ? DOOR_OF_HELPER : DOOR_OF_BROKER);
    finish();
}

static void many_come_through_in_order(void)
{
    enum { MANY = 5 };
    struct channel *ours[MANY];
    struct hello heard;
    int error;
    begin();
    for (unsigned i = 0; i < MANY; i++) {
        struct hello hello = some_hello();
        hello.program[0] = (char)('a' + i);
        ours[i] = door_open(outside, &hello, DOOR_OF_HELPER, &nobody, &error);
        expect(ours[i] != NULL);
    }
    for (unsigned i = 0; i < MANY; i++) {
        struct channel *theirs = receive(&heard, &error);
        expect_number('a' + i, heard.program[0]);
        expect_words(ours[i], theirs);
        channel_free(theirs);
        channel_free(ours[i]);
    }
    expect(receive(&heard, &error) == NULL);
    expect_number(0, error);
    finish();
}

static void nobody_behind_the_door(void)
{
    int error;
    struct hello hello = some_hello();
    begin();
    close(inside);
    inside = -1;
    expect(door_open(outside, &hello, DOOR_OF_HELPER, &nobody, &error) == NULL);
    expect_number(-EPIPE, error);
    finish();
}

static void the_last_caller_has_gone(void)
{
    struct hello heard;
    int error;
    begin();
    close(outside);
    outside = -1;
    expect(receive(&heard, &error) == NULL);
    expect_number(-ENODATA, error);
    finish();
}

static void no_door_at_all(void)
{
    struct hello hello = some_hello(), heard;
    pid_t pid;
    int error;
    expect(door_open(-1, &hello, DOOR_OF_HELPER, &nobody, &error) == NULL);
    expect_number(-EBADF, error);
    expect(door_receive(-1, &heard, &pid, &error) == NULL);
    expect_number(-EBADF, error);
}

/* A signal handler has forked while the ends were being made: they are the parent's to hand over. */
static void another_process_opens_nothing(void)
{
    static const _Atomic uint32_t life = 2;
    const struct owner parent = {.life = 1, .page = &life};
    struct hello hello = some_hello(), heard;
    int error;
    begin();
    expect(door_open(outside, &hello, DOOR_OF_HELPER, &parent, &error) == NULL);
    expect_number(-EOWNERDEAD, error);
    expect(receive(&heard, &error) == NULL);
    expect_number(0, error);
    finish();
}

/* ---- what should not ---- */

static const char good_hello[] = "\x93\x02\xa5hello\x91\x82\xa8protocol\x01\xa5ulong\x08";

static void push(const void *body, size_t len, const int *fds, unsigned n_fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(16 * sizeof(int))];
    } control = {0};
    struct iovec span = {(void *)(uintptr_t)body, len};
    struct msghdr message = {.msg_iov = &span, .msg_iovlen = 1};
    if (n_fds) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(n_fds * sizeof *fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(n_fds * sizeof *fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof *fds);
    }
    expect_number(len, sendmsg(outside, &message, 0));
}

/* A message that is dropped: nothing of it stays open, and the door still works. */
static void expect_dropped(const void *body, size_t len, const int *fds, unsigned n_fds)
{
    struct hello heard;
    int error;
    unsigned before = open_descriptors();
    push(body, len, fds, n_fds);
    expect(receive(&heard, &error) == NULL);
    expect_number(0, error);
    expect_number(before, open_descriptors());
    pass(true);
}

static void a_message_without_a_channel_is_dropped(void)
{
    begin();
    expect_dropped(good_hello, sizeof good_hello - 1, NULL, 0);
    expect_dropped("x", 1, NULL, 0);
    finish();
}

static void an_empty_message_is_dropped(void)
{
    int ends[2];
    begin();
    make_pair(SOCK_STREAM, ends);
    expect_dropped("", 0, ends, 1);
    expect_dropped("", 0, ends, 2);
    expect_dropped("", 0, NULL, 0);
    close(ends[0]);
    close(ends[1]);
    finish();
}

static void a_message_with_too_much_is_dropped(void)
{
    int fds[16];
    begin();
    for (unsigned i = 0; i < 16; i += 2)
        make_pair(SOCK_STREAM, fds + i);
    for (unsigned n = 4; n <= 16; n++) {
        test_case("%u descriptors", n);
        expect_dropped(good_hello, sizeof good_hello - 1, fds, n);
    }
    for (unsigned i = 0; i < 16; i++)
        close(fds[i]);
    finish();
}

static void what_is_no_stream_is_dropped(void)
{
    int datagrams[2], packets[2], pipes[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    begin();
    make_pair(SOCK_DGRAM, datagrams);
    make_pair(SOCK_SEQPACKET, packets);
    expect_number(0, pipe2(pipes, O_CLOEXEC));
    const int fds[] = {datagrams[0], packets[0], pipes[0], pipes[1], file};
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++) {
        test_case("descriptor %u", i);
        expect_dropped(good_hello, sizeof good_hello - 1, fds + i, 1);
    }
    for (unsigned i = 0; i < 2; i++)
        close(datagrams[i]), close(packets[i]), close(pipes[i]);
    close(file);
    end();
}

/* Something that is neither a way back nor a bell comes along: the channel is good without. */
static void what_else_comes_along_is_ignored(void)
{
    int streams[2], more[2], datagrams[2], pipes[2], error;
    struct hello heard;
    begin();
    make_pair(SOCK_STREAM, streams);
    make_pair(SOCK_STREAM, more);
    make_pair(SOCK_DGRAM, datagrams);
    expect_number(0, pipe2(pipes, O_CLOEXEC));
    const int rows[][3] = {
        {streams[0], pipes[0], pipes[1]}, {streams[0], datagrams[0], pipes[0]}, {streams[0], pipes[0], streams[1]},
        {streams[0], streams[1], pipes[0]}, {streams[0], streams[1], more[0]},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (unsigned n = 1; n <= 3; n++) {
            unsigned before = open_descriptors();
            bool way_back = n > 1 && rows[i][1] == streams[1];
            way_back = way_back || (n > 2 && rows[i][2] == streams[1]);
            test_case("row %zu, %u descriptors", i, n);
            push(good_hello, sizeof good_hello - 1, rows[i], n);
            struct channel *channel = receive(&heard, &error);
            expect(channel && !channel->bell.page && !channel->in.shelf.base);
            expect_number(way_back, channel->to != channel->from);
            channel_free(channel);
            expect_number(before, open_descriptors());
        }
    for (unsigned i = 0; i < 2; i++)
        close(streams[i]), close(more[i]), close(datagrams[i]), close(pipes[i]);
    finish();
}

static const struct {
    const char *what, *body;
    size_t len;
} bad_hellos[] = {
#define BAD(what, body) {what, body, sizeof(body) - 1}
    BAD("no MessagePack", "GET / HTTP/1.1\r\n\r\n"),
    BAD("a request", "\x94\x00\x01\xa6" "attach\x90"),
    BAD("another notification", "\x93\x02\xa5" "hullo\x91\x81\xa8protocol\x01"),
    BAD("no map", "\x93\x02\xa5hello\x91\xc0"),
    BAD("two maps", "\x93\x02\xa5hello\x92\x81\xa8protocol\x01\x80"),
    BAD("no protocol", "\x93\x02\xa5hello\x91\x80"),
    BAD("protocol 0", "\x93\x02\xa5hello\x91\x81\xa8protocol\x00"),
    BAD("a protocol that is text", "\x93\x02\xa5hello\x91\x81\xa8protocol\xa1" "1"),
    BAD("something behind it", "\x93\x02\xa5hello\x91\x81\xa8protocol\x01\xc0"),
    BAD("a key that is a number", "\x93\x02\xa5hello\x91\x82\xa8protocol\x01\x05\x06"),
    BAD("a map that claims more", "\x93\x02\xa5hello\x91\x8f\xa8protocol\x01"),
    BAD("a map without end", "\x93\x02\xa5hello\x91\xdf\xff\xff\xff\xff\xa8protocol\x01"),
    BAD("a version of three", "\x93\x02\xa5hello\x91\x82\xa8protocol\x01\xa8" "cryptoki\x93\x01\x02\x03"),
    BAD("a float", "\x93\x02\xa5hello\x91\x82\xa8protocol\x01\xa1x\xca\0\0\0\0"),
    BAD("a byte string on a shelf", "\x93\x02\xa5hello\x91\x82\xa8protocol\x01\xa1x\xd8\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"),
};

static void a_bad_hello_is_dropped(void)
{
    int ends[2];
    begin();
    make_pair(SOCK_STREAM, ends);
    for (unsigned i = 0; i < sizeof bad_hellos / sizeof *bad_hellos; i++) {
        test_case("%s", bad_hellos[i].what);
        expect_dropped(bad_hellos[i].body, bad_hellos[i].len, ends, 1);
    }
    for (size_t len = 1; len < sizeof good_hello - 1; len++) {
        test_case("%zu bytes of a good one", len);
        expect_dropped(good_hello, len, ends, 1);
    }
    close(ends[0]);
    close(ends[1]);
    finish();
}

static void a_hello_over_the_limit_is_dropped(void)
{
    static char body[LIMIT_HELLO + 1];
    int ends[2];
    begin();
    make_pair(SOCK_STREAM, ends);
    memcpy(body, good_hello, sizeof good_hello - 1);
    expect_dropped(body, sizeof body, ends, 2);
    close(ends[0]);
    close(ends[1]);
    finish();
}

static const struct test tests[] = {
    TEST(a_channel_comes_through, "what goes through the door is a channel, with the hello and the caller's pid"),
    TEST(many_come_through_in_order, "channels come through in the order they were sent, each its own"),
    TEST(nobody_behind_the_door, "a door with nobody behind it is -EPIPE and no SIGPIPE"),
    TEST(the_last_caller_has_gone, "a receiver learns that nobody can come any more"),
    TEST(no_door_at_all, "a door that is none is an error"),
    TEST(another_process_opens_nothing, "a call of the process we were forked from says nothing through its door"),
    TEST(a_message_without_a_channel_is_dropped, "a message without a descriptor is dropped"),
    TEST(an_empty_message_is_dropped, "an empty message is dropped, and is not taken for the end"),
    TEST(a_message_with_too_much_is_dropped, "a message with too many descriptors is dropped and they are closed"),
    TEST(what_is_no_stream_is_dropped, "a descriptor that is no stream socket is dropped and closed"),
    TEST(what_else_comes_along_is_ignored, "what comes along and is neither a way back nor a bell is closed, and the channel is good"),
    TEST(a_bad_hello_is_dropped, "a message whose body is no hello is dropped and its channel closed"),
    TEST(a_hello_over_the_limit_is_dropped, "a body over the limit is dropped"),
};

TEST_MAIN(tests)
