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

bool hello_fits(const struct hello *hello)
{
    return hello->protocol == PROTOCOL_VERSION && (hello->ulong == 4 || hello->ulong == 8);
}

uint8_t hello_width(const struct hello *hello)
{
    return hello->ulong == sizeof(CK_ULONG) ? 0 : (uint8_t)hello->ulong;
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

static void write_true_key(struct writer *w, const char *key)
{
    write_key(w, key);
    write_bool(w, true);
}

void write_hello(struct writer *w, const struct hello *hello)
{
    unsigned n = 3U + (hello->pid != 0) + (hello->rv != 0) + (hello->cryptoki[0] != 0) + (hello->program[0] != 0) +
                 (hello->module[0] != 0) + (hello->error[0] != 0) + hello->bell + hello->serial;
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
    if (hello->bell)
        write_true_key(w, "bell");
    if (hello->serial)
        write_true_key(w, "serial");
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
    else if (!strcmp(key, "bell"))
        hello->bell = read_bool(r);
    else if (!strcmp(key, "serial"))
        hello->serial = read_bool(r);
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

enum { MOST_FDS = 3 }; /* a channel, a way back, a bell */

union ancillary {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(4 * sizeof(int))];
};

static int send_ends(int door, const int *fds, size_t n_fds, struct writer *body, const struct owner *owner)
{
    union ancillary control = {0};
    struct msghdr message = {
        .msg_iov = body->spans,
        .msg_iovlen = writer_seal(body),
        .msg_control = control.bytes,
        .msg_controllen = CMSG_SPACE(n_fds * sizeof *fds),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n_fds * sizeof *fds);
    memcpy(CMSG_DATA(c), fds, n_fds * sizeof *fds);
    while (!owner_is_another(owner)) {
        if (sendmsg(door, &message, MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return errno == ECONNRESET ? -EPIPE : -errno;
    }
    return -EOWNERDEAD;
}

/*
 * A thread asleep in recv() on a stream socket is woken, in vain, whenever the peer has taken what was sent on the same
 * socket. So what a helper answers comes on a second one.
 */
struct ends {
    int channel[2], back[2]; /* near, far; the same socket if there is no way back */
};

static int make_ends(struct ends *ends, enum door_kind kind)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends->channel) < 0)
        return -errno;
    memcpy(ends->back, ends->channel, sizeof ends->back);
    if (kind != DOOR_OF_HELPER || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends->back) == 0)
        return 0;
    int error = -errno;
    close(ends->channel[0]);
    close(ends->channel[1]);
    return error;
}

static bool has_way_back(const struct ends *ends)
{
    return ends->back[0] != ends->channel[0];
}

/* Says hello through the door, with the far ends and a bell if there can be one. */
static int introduce(int door, struct channel *channel, const struct ends *ends, const struct hello *hello, const struct owner *owner)
{
    int fds[MOST_FDS] = {ends->channel[1], ends->back[1], -1};
    size_t n = has_way_back(ends) ? 2 : 1;
    if (has_way_back(ends) && (fds[n] = bell_make(&channel->bell)) >= 0)
        n++;
    channel_belongs_to(channel, owner);
    write_hello(&channel->out, hello);
    int error = send_ends(door, fds, n, &channel->out, owner);
    writer_reset(&channel->out);
    if (n == MOST_FDS)
        close(fds[n - 1]);
    return error;
}

struct channel *door_open(int door, const struct hello *hello, enum door_kind kind, const struct owner *owner, int *ret_error)
{
    struct ends ends;
    *ret_error = make_ends(&ends, kind);
    if (*ret_error)
        return NULL;
    struct channel *channel = channel_new(ends.back[0], ends.channel[0]);
    *ret_error = channel ? introduce(door, channel, &ends, hello, owner) : -ENOMEM;
    close(ends.channel[1]);
    if (has_way_back(&ends))
        close(ends.back[1]);
    return *ret_error ? channel_free(channel) : channel;
}

/* ---- the receiver's side ---- */

static unsigned take_descriptors(const struct cmsghdr *c, int *fds, unsigned taken)
{
    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int), taken++) {
        int fd;
        memcpy(&fd, (const uint8_t *)c + at, sizeof fd);
        if (taken < MOST_FDS)
            fds[taken] = fd;
        else
            close(fd);
    }
    return taken;
}

static void close_all(const int fds[MOST_FDS])
{
    for (unsigned i = 0; i < MOST_FDS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* What came along: the sender's pid, a channel, perhaps more. False, with all of it closed, if it is none or too much. */
static bool take_control(struct msghdr *message, pid_t *ret_pid, int fds[MOST_FDS])
{
    unsigned taken = 0;
    for (unsigned i = 0; i < MOST_FDS; i++)
        fds[i] = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(c), sizeof sender);
            *ret_pid = sender.pid;
        } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            taken = take_descriptors(c, fds, taken);
        }
    }
    if (taken > 0 && taken <= MOST_FDS && !(message->msg_flags & (MSG_CTRUNC | MSG_TRUNC)))
        return true;
    close_all(fds);
    return false;
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

/* The descriptors after the first say by what they are what they are for. */
static struct channel *channel_with(int fds[MOST_FDS])
{
    int back = fds[0], bell = -1;
    for (unsigned i = 1; i < MOST_FDS && fds[i] >= 0; i++) {
        if (is_stream(fds[i]) && back == fds[0])
            back = fds[i];
        else if (bell < 0)
            bell = fds[i];
        else
            close(fds[i]);
    }
    struct channel *channel = channel_new(fds[0], back);
    if (channel && bell >= 0) {
        bell_hang(&channel->bell, bell);
        channel_use_shelf(channel);
    }
    if (bell >= 0)
        close(bell);
    return channel;
}

struct channel *door_receive(int door, struct hello *ret_hello, pid_t *ret_pid, int *ret_error)
{
    uint8_t body[LIMIT_HELLO];
    union ancillary control;
    struct iovec span = {.iov_base = body, .iov_len = sizeof body};
    struct msghdr message = {
        .msg_iov = &span,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    int fds[MOST_FDS];
    *ret_pid = 0;
    *ret_error = 0;
    ssize_t n = recvmsg(door, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return NULL;
    if (n < 0) {
        *ret_error = -errno;
        return NULL;
    }
    if (n == 0 && message.msg_controllen == 0) { /* an empty message still has its sender's credentials */
        *ret_error = -ENODATA;
        return NULL;
    }
    if (!take_control(&message, ret_pid, fds))
        return NULL;
    if (is_stream(fds[0]) && parse_hello(body, (size_t)n, ret_hello))
        return channel_with(fds);
    close_all(fds);
    return NULL;
}
