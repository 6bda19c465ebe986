#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "slate.h"
#include "watch.h"
#include "watch_news.h"

enum { DEAF_MS = 100 }; /* between two looks for news of one who has no ear */

struct listener {
    struct channel *channel;
    const uint64_t *after; /* NULL if it knows of nothing */
    uint64_t until;        /* when it does not want to wait any more */
    int ear;
};

/* It has sent something else, or will never send anything again. */
static bool is_interrupted(const struct listener *listener)
{
    const struct channel *channel = listener->channel;
    struct pollfd p = {.fd = channel->from, .events = POLLIN | POLLRDHUP};
    return channel->in.pos != channel->in.end || poll(&p, 1, 0) != 0;
}

static void await_anything(const struct listener *listener, uint64_t ms)
{
    struct pollfd all[] = {
        {.fd = listener->channel->from, .events = POLLIN | POLLRDHUP},
        {.fd = listener->ear, .events = POLLIN},
    };
    uint64_t heard;
    if (listener->ear < 0 && ms > DEAF_MS)
        ms = DEAF_MS;
    if (poll(all, 2, (int)ms) > 0 && all[1].revents && read(listener->ear, &heard, sizeof heard) < 0)
        return; /* nothing after all */
}

/* The ear was lent before the first look at the news: what comes after that is heard. */
static void await_news(const struct listener *listener)
{
    while (!watch_has_news(listener->after) && !is_interrupted(listener)) {
        uint64_t now = slate_clock();
        if (now >= listener->until)
            return;
        await_anything(listener, (listener->until - now) / 1000000 + 1);
    }
}

static void listen_for_news(struct channel *channel, const uint64_t *after, uint32_t wait_ms)
{
    struct listener listener = {channel, after, slate_clock() + wait_ms * UINT64_C(1000000), -1};
    if (wait_ms == 0)
        return;
    listener.ear = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watch_lend_ear(listener.ear);
    await_news(&listener);
    watch_take_ear(listener.ear);
    if (listener.ear >= 0)
        close(listener.ear);
}

static void write_failure(struct writer *w, const char *text)
{
    write_array(w, 2);
    write_str(w, "failed", 6);
    write_str(w, text, strlen(text));
    write_nil(w);
}

bool watch_answer(struct channel *channel, struct provider *provider, uint64_t id)
{
    bool has_after;
    uint64_t number;
    uint32_t wait_ms;
    read_watch(&channel->in, &has_after, &number, &wait_ms);
    if (channel->in.error)
        return false;
    const uint64_t *after = has_after ? &number : NULL;
    bool watched = watch_join(provider, wait_ms == 0);
    if (watched)
        listen_for_news(channel, after, wait_ms);
    write_array(&channel->out, 4);
    write_uint(&channel->out, 1);
    write_uint(&channel->out, id);
    if (watched) {
        write_nil(&channel->out);
        watch_write_news(&channel->out, after);
    } else {
        write_failure(&channel->out, "no thread to watch with");
    }
    return true;
}
