#include "door.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tables.h"

struct hello hello_ours(void)
{
    return (struct hello){
        .protocol = PROTOCOL_VERSION,
        .ulong = sizeof(CK_ULONG),
        .tables = tables_digest,
    };
}

/* ---- hello ---- */

static void write_key(struct writer *w, const char *key)
{
    write_str(w, key, strlen(key));
}

static void write_number_key(struct writer *w, const char *key, uint64_t value)
{
    write_key(w, key);
    write_uint(w, value);
}

static void write_text_key(struct writer *w, const char *key, const char *text)
{
    write_key(w, key);
    write_str(w, text, strlen(text));
}

void write_hello(struct writer *w, const struct hello *hello)
{
    unsigned n = 3U + (hello->pid != 0) + (hello->rv != 0) + (hello->cryptoki[0] != 0) + (hello->program[0] != 0) +
                 (hello->module[0] != 0) + (hello->error[0] != 0);
    write_array(w, 3);
    write_uint(w, 2);
    write_key(w, "hello");
    write_array(w, 1);
    write_map(w, n);
    write_number_key(w, "protocol", hello->protocol);
    write_number_key(w, "ulong", hello->ulong);
    write_number_key(w, "tables", hello->tables);
    if (hello->pid)
        write_number_key(w, "pid", hello->pid);
    if (hello->rv)
        write_number_key(w, "rv", hello->rv);
    if (hello->cryptoki[0]) {
        write_key(w, "cryptoki");
        write_array(w, 2);
        write_uint(w, hello->cryptoki[0]);
        write_uint(w, hello->cryptoki[1]);
    }
    if (hello->program[0])
        write_text_key(w, "program", hello->program);
    if (hello->module[0])
        write_text_key(w, "module", hello->module);
    if (hello->error[0])
        write_text_key(w, "error", hello->error);
}

static void read_version(struct reader *r, uint64_t version[2])
{
    if (read_array(r) != 2)
        reader_fail(r, -EBADMSG);
    version[0] = read_uint(r);
    version[1] = read_uint(r);
}

static void read_hello_entry(struct reader *r, struct hello *hello)
{
    char key[LIMIT_NAME + 1];
    read_text(r, key, sizeof key);
    if (!strcmp(key, "protocol"))
        hello->protocol = read_uint(r);
    else if (!strcmp(key, "ulong"))
        hello->ulong = read_uint(r);
    else if (!strcmp(key, "tables"))
        hello->tables = read_uint(r);
    else if (!strcmp(key, "pid"))
        hello->pid = read_uint(r);
    else if (!strcmp(key, "rv"))
        hello->rv = read_uint(r);
    else if (!strcmp(key, "cryptoki"))
        read_version(r, hello->cryptoki);
    else if (!strcmp(key, "program"))
        read_text(r, hello->program, sizeof hello->program);
    else if (!strcmp(key, "module"))
        read_text(r, hello->module, sizeof hello->module);
    else if (!strcmp(key, "error"))
        read_text(r, hello->error, sizeof hello->error);
    else
        read_skip(r);
}

void read_hello(struct reader *r, struct hello *ret_hello)
{
    char method[LIMIT_NAME + 1];
    *ret_hello = (struct hello){0};
    if (read_array(r) != 3 || read_uint(r) != 2)
        reader_fail(r, -EBADMSG);
    read_text(r, method, sizeof method);
    if (!r->error && strcmp(method, "hello") != 0)
        reader_fail(r, -EBADMSG);
    if (read_array(r) != 1)
        reader_fail(r, -EBADMSG);
    for (size_t n = read_map(r); n && !r->error; n--)
        read_hello_entry(r, ret_hello);
    if (!r->error && ret_hello->protocol == 0)
        reader_fail(r, -EBADMSG);
}

/* ---- the caller's side ---- */

static int send_end(int door, int end, struct writer *body)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {
        .msg_iov = body->spans,
        .msg_iovlen = writer_seal(body),
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof end);
    memcpy(CMSG_DATA(c), &end, sizeof end);
    while (sendmsg(door, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return errno == ECONNRESET ? -EPIPE : -errno;
    return 0;
}

struct channel *door_open(int door, const struct hello *hello, int *ret_error)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        *ret_error = -errno;
        return NULL;
    }
    struct channel *channel = channel_new(ends[0]);
    *ret_error = channel ? 0 : -ENOMEM;
    if (channel) {
        write_hello(&channel->out, hello);
        *ret_error = send_end(door, ends[1], &channel->out);
        writer_reset(&channel->out);
    }
    close(ends[1]);
    return *ret_error ? channel_free(channel) : channel;
}

/* ---- the receiver's side ---- */

/* What came along: the sender's pid, and exactly one descriptor or -1. All others are closed. */
static int take_control(struct msghdr *message, pid_t *ret_pid)
{
    int taken = -1;
    unsigned count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(c), sizeof sender);
            *ret_pid = sender.pid;
        }
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int), count++) {
            int fd;
            memcpy(&fd, (uint8_t *)c + at, sizeof fd);
            if (count == 0)
                taken = fd;
            else
                close(fd);
        }
    }
    if (count > 1 || (message->msg_flags & (MSG_CTRUNC | MSG_TRUNC))) {
        if (taken >= 0)
            close(taken);
        return -1;
    }
    return taken;
}

static long no_more(void *context, void *bytes, size_t max)
{
    (void)context, (void)bytes, (void)max;
    return 0;
}

static bool parse_hello(uint8_t *body, size_t len, struct hello *ret_hello)
{
    struct reader r;
    reader_init(&r, body, no_more, NULL);
    r.end = len;
    read_hello(&r, ret_hello);
    return r.error == 0 && r.pos == r.end;
}

static bool is_stream(int fd)
{
    int type = 0;
    socklen_t len = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM;
}

struct channel *door_receive(int door, struct hello *ret_hello, pid_t *ret_pid, int *ret_error)
{
    uint8_t body[LIMIT_HELLO];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec span = {.iov_base = body, .iov_len = sizeof body};
    struct msghdr message = {
        .msg_iov = &span,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    *ret_pid = 0;
    *ret_error = 0;
    ssize_t n = recvmsg(door, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return NULL;
    if (n < 0) {
        *ret_error = -errno;
        return NULL;
    }
    int fd = take_control(&message, ret_pid);
    if (n == 0 && fd < 0) {
        *ret_error = -ENODATA;
        return NULL;
    }
    if (fd >= 0 && is_stream(fd) && parse_hello(body, (size_t)n, ret_hello))
        return channel_new(fd);
    if (fd >= 0)
        close(fd);
    return NULL;
}
