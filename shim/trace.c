#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "slate.h"

enum { ENTERED = 1, LEFT = 2 };

_Atomic uint32_t trace_watcher;

static int out = -1; /* the same number for ever, whoever is behind it */
static _Atomic uint64_t dropped; /* since somebody was last told */

/* ---- who watches ---- */

bool trace_init(int control)
{
    out = fcntl(control, F_DUPFD_CLOEXEC, 3);
    return out >= 0 && fcntl(control, F_SETFD, FD_CLOEXEC) == 0;
}

static int descriptor_in(struct msghdr *message)
{
    int fd = -1;
    const struct cmsghdr *c = CMSG_FIRSTHDR(message);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof fd))
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

/* `[0]`: calls that begin from now on are told. */
static void begin_watch(uint32_t watcher)
{
    static const uint8_t begun[] = {0x91, 0x00};
    atomic_store(&trace_watcher, watcher);
    send(out, begun, sizeof begun, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool trace_hear(int control, bool *ret_look)
{
    static uint32_t came;
    static const uint8_t look[] = "\x93\x02\xa4look\x90";
    char body[sizeof look], room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec span = {body, sizeof body};
    struct msghdr message = {.msg_iov = &span, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    ssize_t n = recvmsg(control, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    *ret_look = n == sizeof look - 1 && !memcmp(body, look, sizeof look - 1);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    int fd = descriptor_in(&message);
    if (fd < 0)
        return true;
    bool taken = dup3(fd, out, O_CLOEXEC) == out;
    close(fd);
    atomic_store(&dropped, 0);
    came = came == UINT32_MAX ? 1 : came + 1;
    if (taken)
        begin_watch(came);
    return true;
}

/* ---- what is told ---- */

static bool has_more_than_bytes(const struct function *f)
{
    for (unsigned i = 0; i < f->n_args; i++)
        if (f->args[i].kind == ARG_TEMPLATE || f->args[i].kind == ARG_TEMPLATE_IO || f->args[i].kind == ARG_MECHANISM)
            return true;
    return false;
}

/* How long a PIN is, is a secret too. How much is encrypted is none. */
static enum discretion discretion_of(const struct function *f)
{
    return f->secret && f->role == ROLE_NONE && !has_more_than_bytes(f) ? DISCREET_ALL : DISCREET_CONTENTS;
}

static bool object_as_it_is(void *context, CK_ULONG handle, CK_ULONG *ret_handle)
{
    (void)context;
    *ret_handle = handle;
    return true;
}

static const struct names as_they_are = {.object_to_wire = object_as_it_is};

/* `[kind, place, ns, dropped, name`; the arguments or the answer follow. */
static void write_head(struct trace *trace, unsigned kind, uint64_t lost, const struct function *f)
{
    struct writer *w = &trace->writer;
    writer_reset(w);
    w->discreet = discretion_of(f);
    write_array(w, 6);
    write_uint(w, kind);
    write_uint(w, trace->place);
    write_uint(w, slate_clock());
    write_uint(w, lost);
    write_str(w, f->name, f->name_len);
}

static bool is_ready(struct trace *trace)
{
    if (!trace->made)
        trace->made = writer_init(&trace->writer) == 0;
    return trace->made;
}

/* One datagram, now or never. Who has gone is forgotten, unless another has come. */
static void tell(struct trace *trace, uint32_t watcher, uint64_t lost)
{
    struct writer *w = &trace->writer;
    bool whole = writer_seal(w) == 1;
    if (whole && send(out, w->spans[0].iov_base, w->spans[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return;
    if (!whole || errno == EAGAIN || errno == ENOBUFS || errno == EINTR || errno == EMSGSIZE)
        atomic_fetch_add(&dropped, lost + 1);
    else
        atomic_compare_exchange_strong(&trace_watcher, &watcher, 0);
}

static void tell_call(struct trace *trace, uint32_t watcher, unsigned kind, struct walk *walk, CK_RV rv)
{
    uint64_t lost = atomic_exchange(&dropped, 0);
    struct writer *w = &trace->writer;
    walk->w = w;
    walk->theirs = 0;
    write_head(trace, kind, lost, walk->function);
    if (kind == ENTERED)
        put_request(walk);
    else
        put_response_again(walk, rv);
    if (walk->refusal != CKR_OK || w->error || w->buffer.used > LIMIT_TOLD) {
        write_head(trace, kind, lost, walk->function);
        write_array(w, kind == LEFT); /* the answer without what came with it */
        if (kind == LEFT)
            write_number(w, rv);
    }
    tell(trace, watcher, lost);
    writer_reset(w);
}

void trace_enter(struct trace *trace, uint32_t watcher, const struct walk *walk)
{
    struct walk told = *walk;
    struct recall recall;
    if (!is_ready(trace))
        return;
    if (walk->recall) {
        recall = *walk->recall;
        told.recall = &recall;
    }
    told.names = &as_they_are;
    told.slot = told.session = told.words[0];
    tell_call(trace, watcher, ENTERED, &told, CKR_OK);
}

void trace_leave(struct trace *trace, uint32_t watcher, const struct walk *walk, CK_RV rv)
{
    struct walk told = *walk;
    if (!trace->made)
        return;
    tell_call(trace, watcher, LEFT, &told, rv);
}

void trace_finish(struct trace *trace)
{
    if (trace->made)
        writer_finish(&trace->writer);
}
