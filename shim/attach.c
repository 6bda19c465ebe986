#include "attach.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "broker.h"
#include "descriptors.h"
#include "door.h"
#include "log.h"
#include "root.h"
#include "selection.h"

/*
 * The door to the broker is kept in ordinary memory, so that a child that has since changed its user, root directory or
 * environment still has it. Changed under root_attach_lock.
 */
static int door = -1;
static bool ended; /* by C_Finalize: a call that comes late begins nothing */
static struct identity door_identity;

static int known_door(void)
{
    return door >= 0 && descriptor_is(door, &door_identity) ? door : -1;
}

static int new_door(void)
{
    if (known_door() >= 0)
        close(door);
    door = broker_connect();
    if (door >= 0 && !descriptor_identify(door, &door_identity)) {
        close(door);
        door = -1;
    }
    return door;
}

void attach_close(void)
{
    pthread_mutex_lock(root_attach_lock());
    if (known_door() >= 0)
        close(door);
    door = -1;
    ended = true;
    pthread_mutex_unlock(root_attach_lock());
}

/* ---- a channel that also receives descriptors ---- */

struct control {
    struct channel *channel;
    int fds[LIMIT_MODULES];
    unsigned n_fds, used;
};

static void keep_descriptors(struct control *control, struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
            int fd;
            memcpy(&fd, (uint8_t *)c + at, sizeof fd);
            if (control->n_fds < LIMIT_MODULES)
                control->fds[control->n_fds++] = fd;
            else
                close(fd);
        }
    }
}

static long control_receive(void *context, void *bytes, size_t max)
{
    struct control *control = context;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(LIMIT_MODULES * sizeof(int))];
    } ancillary;
    struct iovec span = {.iov_base = bytes, .iov_len = max};
    struct msghdr message = {
        .msg_iov = &span,
        .msg_iovlen = 1,
        .msg_control = ancillary.bytes,
        .msg_controllen = sizeof ancillary.bytes,
    };
    ssize_t n;
    do {
        if (owner_is_another(&control->channel->owner))
            return -EOWNERDEAD;
        n = recvmsg(control->channel->from, &message, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    keep_descriptors(control, &message);
    return n;
}

static int take_descriptor(struct control *control)
{
    return control->used < control->n_fds ? descriptor_raise(control->fds[control->used++]) : -1;
}

static void close_unused(struct control *control)
{
    while (control->used < control->n_fds)
        close(control->fds[control->used++]);
}

/* ---- attach and open ---- */

/* Of all modules, or of the one that was chosen, the helpers are asked for at once: then `module` is NULL. */
static void write_request(struct writer *w, const char *module, bool resume)
{
    const char *method = module ? "open" : "attach";
    if (!module)
        module = selection_module();
    write_array(w, 4);
    write_uint(w, 0);
    write_uint(w, 1);
    write_str(w, method, strlen(method));
    write_array(w, 1);
    write_map(w, (module ? 1U : 0U) + (resume ? 1U : 0U));
    if (module) {
        write_str(w, "module", 6);
        write_str(w, module, strlen(module));
    }
    if (resume) {
        write_str(w, "resume", 6);
        write_bool(w, true);
    }
}

static void read_fork(struct reader *r, struct offer *offer)
{
    char mode[LIMIT_NAME + 1];
    read_text(r, mode, sizeof mode);
    offer->strict = !strcmp(mode, "strict");
    offer->inherited = !strcmp(mode, "inherit");
}

static void read_rows(struct reader *r, struct offer *offer)
{
    size_t len = read_bin(r);
    int error = 0;
    if (len > LIMIT_ROWS)
        reader_fail(r, -EMSGSIZE);
    uint8_t *packed = r->error ? NULL : malloc(len + 1);
    if (!packed) {
        reader_fail(r, -ENOMEM);
        return;
    }
    read_raw(r, packed, len);
    if (!r->error && !(offer->rows = rows_decode(packed, len, &error)))
        snprintf(offer->error, sizeof offer->error, "its rows cannot be used: %s", strerror(-error));
    free(packed);
}

static void read_broken(struct reader *r, struct offer *offer)
{
    size_t count = read_array(r);
    if (count > LIMIT_BROKEN)
        reader_fail(r, -EMSGSIZE);
    for (size_t i = 0; i < count && !r->error; i++)
        offer->broken[i] = (uint32_t)read_uint(r);
}

/* Nobody waits for ever for a helper to start, nor for another's slots. */
static uint64_t read_deadline(struct reader *r, uint64_t otherwise)
{
    uint64_t ms = read_uint(r);
    return ms == 0 || ms > INT32_MAX ? otherwise : ms;
}

static void read_entry(struct reader *r, struct control *control, struct offer *offer)
{
    char key[LIMIT_NAME + 1];
    read_text(r, key, sizeof key);
    if (!strcmp(key, "name"))
        read_text(r, offer->name, sizeof offer->name);
    else if (!strcmp(key, "error") && read_peek(r) == WIRE_STR)
        read_text(r, offer->error, sizeof offer->error);
    else if (!strcmp(key, "short"))
        offer->short_ms = read_uint(r);
    else if (!strcmp(key, "long"))
        offer->long_ms = read_uint(r);
    else if (!strcmp(key, "start"))
        offer->start_ms = read_deadline(r, DEADLINE_START);
    else if (!strcmp(key, "list"))
        offer->list_ms = read_deadline(r, DEADLINE_LIST);
    else if (!strcmp(key, "pid"))
        offer->helper = read_uint(r);
    else if (!strcmp(key, "fork"))
        read_fork(r, offer);
    else if (!strcmp(key, "resume"))
        offer->resumes = read_bool(r);
    else if (!strcmp(key, "broken"))
        read_broken(r, offer);
    else if (!strcmp(key, "broken_pause"))
        offer->broken_pause_ms = (uint32_t)read_uint(r);
    else if (!strcmp(key, "rows") && !offer->rows)
        read_rows(r, offer);
    else if (!strcmp(key, "door") && offer->door < 0)
        offer->door = read_bool(r) ? take_descriptor(control) : -1;
    else
        read_skip(r);
}

static void close_offer(struct offer *offer)
{
    if (offer->door >= 0)
        close(offer->door);
    offer->door = -1;
    rows_free(offer->rows);
    offer->rows = NULL;
}

static void read_offer(struct reader *r, struct control *control, struct offer *ret_offer)
{
    *ret_offer = (struct offer){
        .door = -1, .short_ms = DEADLINE_SHORT, .long_ms = DEADLINE_LONG, .start_ms = DEADLINE_START, .list_ms = DEADLINE_LIST,
    };
    for (size_t n = read_map(r); n && !r->error; n--)
        read_entry(r, control, ret_offer);
    if (!r->error && !ret_offer->name[0])
        reader_fail(r, -EBADMSG);
    if (ret_offer->error[0])
        close_offer(ret_offer);
}

/* Those that have been counted are the caller's to close, whatever comes after them. */
static void read_offers(struct reader *r, struct control *control, struct offer *ret_offers, unsigned *ret_count)
{
    char key[LIMIT_NAME + 1];
    for (size_t n = read_map(r); n && !r->error; n--) {
        read_text(r, key, sizeof key);
        if (strcmp(key, "modules") != 0) {
            read_skip(r);
            continue;
        }
        size_t count = read_array(r);
        if (count > LIMIT_MODULES || *ret_count)
            reader_fail(r, -EMSGSIZE);
        for (; *ret_count < count && !r->error; ++*ret_count)
            read_offer(r, control, &ret_offers[*ret_count]);
    }
}

static void read_refusal(struct reader *r)
{
    char code[LIMIT_NAME + 1], text[LIMIT_TEXT + 1];
    if (read_array(r) != 2)
        reader_fail(r, -EBADMSG);
    read_text(r, code, sizeof code);
    read_text(r, text, sizeof text);
    if (!r->error)
        log_event("broker.refused code=%s reason=\"%s\"", code, text);
    reader_fail(r, -EACCES);
}

static void read_answer(struct reader *r, struct control *control, struct offer *ret_offers, unsigned *ret_count)
{
    struct hello hello;
    read_hello(r, &hello);
    if (hello.error[0]) {
        log_event("broker.refused reason=\"%s\"", hello.error);
        reader_fail(r, -EPROTO);
    }
    reader_begin(r);
    if (read_array(r) != 4 || read_uint(r) != 1 || read_uint(r) != 1)
        reader_fail(r, -EBADMSG);
    if (read_peek(r) == WIRE_NIL)
        read_nil(r);
    else
        read_refusal(r);
    read_offers(r, control, ret_offers, ret_count);
}

static int ask(struct control *control, const char *module, bool resume, struct offer *ret_offers, unsigned *ret_count)
{
    struct channel *channel = control->channel;
    channel_set_ticks(channel, DEADLINE_BROKER, DEADLINE_BROKER);
    channel_set_deadline(channel, DEADLINE_BROKER);
    channel->in.source = control_receive;
    channel->in.context = control;
    write_request(&channel->out, module, resume);
    int error = channel_send(channel);
    if (error)
        return error;
    read_answer(&channel->in, control, ret_offers, ret_count);
    return channel->in.error;
}

static void set_program(struct hello *hello)
{
    strncpy(hello->program, program_invocation_short_name, LIMIT_NAME);
}

/* The kept door first; a new one if nobody is behind it any more. -ENOTCONN if there is none at all, which has been said. */
static struct channel *open_control(int *ret_error)
{
    struct hello hello = hello_ours();
    struct owner owner = root_owner();
    struct channel *channel = NULL;
    set_program(&hello);
    int to = known_door();
    *ret_error = -EPIPE;
    if (to >= 0)
        channel = door_open(to, &hello, DOOR_OF_BROKER, &owner, ret_error);
    if (channel || *ret_error != -EPIPE)
        return channel;
    if ((to = new_door()) >= 0)
        channel = door_open(to, &hello, DOOR_OF_BROKER, &owner, ret_error);
    else
        *ret_error = -ENOTCONN;
    return channel;
}

/* A new life may begin any time; a module of one that has ended does not. */
static struct channel *open_control_for(const char *module, int *ret_error)
{
    struct channel *channel = NULL;
    *ret_error = -ESHUTDOWN;
    pthread_mutex_lock(root_attach_lock());
    ended = ended && module;
    if (!ended)
        channel = open_control(ret_error);
    pthread_mutex_unlock(root_attach_lock());
    return channel;
}

static int ask_once(const char *module, bool resume, struct offer *ret_offers, unsigned *ret_count)
{
    int error;
    struct control control = {.channel = open_control_for(module, &error)};
    *ret_count = 0;
    if (control.channel)
        error = ask(&control, module, resume, ret_offers, ret_count);
    for (unsigned i = 0; error && i < *ret_count; i++)
        close_offer(&ret_offers[i]);
    close_unused(&control);
    channel_free(control.channel);
    return error;
}

/* It ended while it was asked. A helper that it may have started has no application, and ends too. */
static bool has_ended(int error)
{
    return error == -ENODATA || error == -EPIPE || error == -ECONNRESET;
}

CK_RV attach(const char *module, bool resume, struct offer *ret_offers, unsigned *ret_count)
{
    enum { BROKERS = 3 };
    int error = ask_once(module, resume, ret_offers, ret_count);
    for (int tried = 1; tried < BROKERS && has_ended(error); tried++)
        error = ask_once(module, resume, ret_offers, ret_count);
    if (error && error != -ENOTCONN && error != -ESHUTDOWN)
        log_event("broker.failed error=\"%s\"", strerror(-error));
    return error ? CKR_GENERAL_ERROR : CKR_OK;
}

/* ---- a report through the door, without a channel ---- */

static void write_report(struct writer *w, const char *module, uint64_t helper, CK_RV rv)
{
    const char *method = rv ? "broken" : "hung";
    write_array(w, 3);
    write_uint(w, 2);
    write_str(w, method, strlen(method));
    write_array(w, 1);
    write_map(w, rv ? 3 : 2);
    write_str(w, "module", 6);
    write_str(w, module, strlen(module));
    write_str(w, "pid", 3);
    write_uint(w, helper);
    if (rv) {
        write_str(w, "rv", 2);
        write_uint(w, rv);
    }
}

/* Not while a thread is looking for a broker: that may take long. */
void attach_report(const char *module, uint64_t helper, CK_RV rv)
{
    struct writer w;
    if (writer_init(&w) < 0)
        return;
    write_report(&w, module, helper, rv);
    struct msghdr message = {.msg_iov = w.spans, .msg_iovlen = writer_seal(&w)};
    if (pthread_mutex_trylock(root_attach_lock()) == 0) {
        bool sent = known_door() >= 0 && sendmsg(door, &message, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
        pthread_mutex_unlock(root_attach_lock());
        log_event("module.%s module=%s", sent ? "reported" : "unreported", module);
    }
    writer_finish(&w);
}
