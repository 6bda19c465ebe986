#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static bool keep_waiting(struct channel *channel, uint32_t tick)
{
    if (channel->deadline_ms == 0)
        return true;
    channel->waited_ms += tick;
    return channel->waited_ms < channel->deadline_ms;
}

uint64_t channel_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/*
 * Before each system call: whether a message that takes many has used up its deadline, counted from the second on. Ticks count
 * silence only, and neither a peer that sends byte by byte nor a thread that signals interrupt is ever silent for one. What
 * goes by the first costs no look at the clock.
 */
static bool is_too_slow(struct channel *channel)
{
    if (channel->deadline_ms == 0 || channel->steps++ == 0)
        return false;
    uint64_t now = channel_now_ms();
    if (channel->steps == 2)
        channel->slow_since = now;
    return now - channel->slow_since >= channel->deadline_ms;
}

void channel_belongs_to(struct channel *channel, const struct owner *owner)
{
    channel->owner = *owner;
    channel->bell.owner = &channel->owner;
    channel->bell.shelf.owner = &channel->owner;
}

/* A system call that times out is one tick of the deadline. */
static long receive(struct channel *channel, void *bytes, size_t max)
{
    bool in_time = !is_too_slow(channel);
    while (in_time) {
        if (owner_is_another(&channel->owner))
            return -EOWNERDEAD;
        ssize_t n = recv(channel->from, bytes, max, 0);
        if (n >= 0)
            return n;
        if (errno != EINTR && errno != EAGAIN)
            return -errno;
        in_time = errno == EAGAIN ? keep_waiting(channel, channel->receive_tick) : !is_too_slow(channel);
    }
    return -ETIMEDOUT;
}

/* Whoever answers has read all that was sent before. */
static long take_answer(struct channel *channel, long n)
{
    channel->ahead = channel->ahead && n <= 0;
    return n;
}

/* The reader's source. */
static long channel_receive(void *context, void *bytes, size_t max)
{
    struct channel *channel = context;
    if (!channel->between)
        return receive(channel, bytes, max);
    channel->between = false;
    if (owner_is_another(&channel->owner))
        return -EOWNERDEAD;
    if (!channel->looked)
        bell_await(&channel->bell, channel->asked);
    long n = bell_take(&channel->bell, bytes, max);
    if (n != 0)
        return take_answer(channel, n);
    bell_sleep(&channel->bell);
    n = receive(channel, bytes, max);
    bell_wake(&channel->bell);
    if (n > 0)
        bell_answered(&channel->bell);
    return take_answer(channel, n);
}

static void close_ends(int from, int to)
{
    close(from);
    if (to != from)
        close(to);
}

struct channel *channel_new(int from, int to)
{
    struct channel *channel = mmap(NULL, sizeof *channel, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (channel == MAP_FAILED) {
        close_ends(from, to);
        return NULL;
    }
    channel->from = from;
    channel->to = to;
    reader_init(&channel->in, channel->buffer, channel_receive, channel);
    if (writer_init(&channel->out) < 0)
        return channel_free(channel);
    return channel;
}

struct channel *channel_free(struct channel *channel)
{
    if (!channel)
        return NULL;
    close_ends(channel->from, channel->to);
    bell_finish(&channel->bell);
    writer_finish(&channel->out);
    munmap(channel, sizeof *channel);
    return NULL;
}

void channel_set_ticks(struct channel *channel, uint32_t receive_ms, uint32_t send_ms)
{
    struct timeval tick = {.tv_sec = (time_t)(receive_ms / 1000), .tv_usec = (suseconds_t)(receive_ms % 1000) * 1000};
    channel->receive_tick = receive_ms;
    channel->send_tick = send_ms;
    setsockopt(channel->from, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof tick);
}

void channel_set_deadline(struct channel *channel, uint32_t ms)
{
    channel->deadline_ms = ms;
    channel->waited_ms = 0;
    channel->steps = 0;
}

void channel_use_shelf(struct channel *channel)
{
    channel->out.shelf = channel->bell.shelf;
    channel->in.shelf = channel->bell.shelf;
}

void channel_begin(struct channel *channel, uint64_t asked)
{
    reader_begin(&channel->in);
    if (channel->between && !owner_is_another(&channel->owner)) /* the last message came together with the one before it */
        bell_answered(&channel->bell);
    channel->asked = asked;
    channel->between = true;
    channel->looked = false;
}

bool channel_look(struct channel *channel, bool waits)
{
    if (channel->in.pos != channel->in.end || owner_is_another(&channel->owner))
        return true;
    if (waits)
        bell_await(&channel->bell, channel->asked);
    channel->looked = true;
    return bell_shut(&channel->bell);
}

/* Takes `sent` bytes off the front of the pieces. */
static void advance(struct msghdr *message, size_t sent)
{
    while (message->msg_iovlen && sent >= message->msg_iov->iov_len) {
        sent -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (message->msg_iovlen) {
        message->msg_iov->iov_base = (uint8_t *)message->msg_iov->iov_base + sent;
        message->msg_iov->iov_len -= sent;
    }
}

/* What is in one piece is sent by the cheaper call. */
static ssize_t send_some(int fd, const struct msghdr *message)
{
    if (message->msg_iovlen == 1)
        return send(fd, message->msg_iov->iov_base, message->msg_iov->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sendmsg(fd, message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Not in send(): that would wait anew whenever the peer has taken a little. False when the deadline has passed. */
static bool wait_for_room(struct channel *channel)
{
    struct pollfd p = {.fd = channel->to, .events = POLLOUT};
    int n = poll(&p, 1, channel->send_tick ? (int)channel->send_tick : -1);
    return n != 0 || keep_waiting(channel, channel->send_tick);
}

static int send_all(struct channel *channel, struct msghdr *message)
{
    while (message->msg_iovlen) {
        if (is_too_slow(channel))
            return -ETIMEDOUT;
        if (owner_is_another(&channel->owner))
            return -EOWNERDEAD;
        ssize_t n = send_some(channel->to, message);
        int error = n < 0 ? errno : 0;
        if (!error)
            advance(message, (size_t)n);
        else if (error == EAGAIN && !wait_for_room(channel))
            return -ETIMEDOUT;
        else if (error != EINTR && error != EAGAIN)
            return error == ECONNRESET ? -EPIPE : -error;
    }
    return 0;
}

/* What lies on the tray is read first: nothing may still be on its way through the socket. */
static int lay(struct channel *channel, const struct msghdr *message)
{
    size_t total = channel->ahead ? SIZE_MAX : channel->out.total;
    return bell_lay(&channel->bell, message->msg_iov, message->msg_iovlen, total);
}

int channel_send(struct channel *channel)
{
    struct writer *out = &channel->out;
    struct msghdr message = {.msg_iov = out->spans, .msg_iovlen = writer_seal(out)};
    if (owner_is_another(&channel->owner))
        return -EOWNERDEAD;
    int laid = out->error ? out->error : lay(channel, &message);
    int error = laid == 0 ? send_all(channel, &message) : laid < 0 ? laid : 0;
    if (laid == 0 && error != -EOWNERDEAD)
        bell_ring(&channel->bell);
    channel->sent = out->total + out->shelved;
    writer_reset(out);
    return error;
}

/* One piece, which a socket takes whole or not at all. */
static int post_one(struct channel *channel, struct msghdr *message, size_t len)
{
    ssize_t n = send_some(channel->to, message);
    if (n == (ssize_t)len) {
        channel->ahead = true;
        bell_ring(&channel->bell);
        return 0;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    return n < 0 && errno != ECONNRESET ? -errno : -EPIPE;
}

int channel_post(struct channel *channel)
{
    struct writer *out = &channel->out;
    struct msghdr message = {.msg_iov = out->spans, .msg_iovlen = writer_seal(out)};
    if (owner_is_another(&channel->owner))
        return -EOWNERDEAD;
    int laid = out->error ? out->error : lay(channel, &message);
    int error = laid == 0 ? post_one(channel, &message, out->total) : laid < 0 ? laid : 0;
    writer_reset(out);
    return error;
}
