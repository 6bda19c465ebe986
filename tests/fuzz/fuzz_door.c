/*
 * A helper's door. A byte that says which descriptors come along, then the body: whatever it is, nothing of it stays
 * open, and a channel comes only with a hello.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "door.h"
#include "fd_count.h"
#include "fuzz.h"

enum { KINDS = 5, MOST_FDS = 3 };

static int door[2], kinds[KINDS][2];

static void open_all(void)
{
    static const int types[] = {SOCK_STREAM, SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    struct bell bell;
    int on = 1;
    make_pair(SOCK_SEQPACKET, door);
    if (setsockopt(door[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
        found("no credentials");
    for (unsigned i = 0; i < sizeof types / sizeof *types; i++)
        make_pair(types[i], kinds[i]);
    kinds[KINDS - 1][0] = bell_make(&bell);
}

static void push(const uint8_t *body, size_t len, unsigned choice)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } control = {0};
    int fds[MOST_FDS];
    unsigned n = choice % (MOST_FDS + 1);
    for (unsigned i = 0; i < n; i++)
        fds[i] = kinds[(choice / (MOST_FDS + 1) + i) % KINDS][0];
    struct iovec span = {(void *)(uintptr_t)body, len};
    struct msghdr message = {.msg_iov = &span, .msg_iovlen = 1};
    if (n) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(n * sizeof *fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(n * sizeof *fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), fds, n * sizeof *fds);
    }
    if (sendmsg(door[0], &message, 0) < 0)
        found("the door is closed");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hello hello;
    pid_t pid;
    int error;
    if (size == 0 || size > 2 * LIMIT_HELLO)
        return 0;
    if (!door[0])
        open_all();
    unsigned before = count_descriptors();
    push(data + 1, size - 1, data[0]);
    struct channel *channel = door_receive(door[1], &hello, &pid, &error);
    if (error)
        found("a message was taken for the end of the door");
    if (channel && (hello.protocol == 0 || size - 1 > LIMIT_HELLO || pid != getpid()))
        found("a channel without a hello");
    channel_free(channel);
    if (count_descriptors() != before)
        found("a descriptor stayed open");
    return 0;
}
