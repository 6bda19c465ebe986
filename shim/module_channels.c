#include "module_channels.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "code.h"
#include "descriptors.h"
#include "door.h"
#include "late.h"
#include "log.h"
#include "root.h"
#include "shared.h"

struct channel *module_free_channel(struct channel *channel)
{
    if (channel) {
        descriptor_forget(channel->from);
        descriptor_forget(channel->to);
        shared_forget(channel->bell.page);
    }
    return channel_free(channel);
}

/*
 * The smallest of the deadlines, or such a part of it that no wait for a list is less: a longer one is that many ticks, and the socket need
 * not be told at each call.
 */
static uint32_t tick_of(const struct module *module)
{
    uint32_t a = module->patience[PATIENCE_SHORT], b = module->patience[PATIENCE_LONG], list = module->list_ms;
    uint32_t least = a == 0 || (b != 0 && b < a) ? b : a;
    if (list == 0 || least <= list)
        return least;
    uint32_t parts = (least - 1) / list + 1;
    return (least - 1) / parts + 1;
}

struct channel *module_open_channel(struct module *module, enum door_kind kind)
{
    struct hello hello = hello_ours();
    struct owner owner = root_owner();
    int error = -EPIPE;
    strncpy(hello.program, program_invocation_short_name, LIMIT_NAME);
    struct channel *channel = module->door >= 0 ? door_open(module->door, &hello, kind, &owner, &error) : NULL;
    if (channel) {
        channel->from = descriptor_raise(channel->from);
        channel->to = descriptor_raise(channel->to);
        descriptor_remember(channel->from);
        descriptor_remember(channel->to);
        shared_remember(channel->bell.page);
    } else if (error != -EPIPE) {
        log_event("channel.failed module=%s error=\"%s\"", module->name, strerror(-error));
    }
    return channel;
}

CK_RV module_hear_hello(struct module *module, struct channel *channel, uint32_t within_ms)
{
    struct hello hello;
    channel_set_ticks(channel, within_ms, within_ms);
    channel_set_deadline(channel, within_ms);
    channel_begin(channel, 0);
    read_hello(&channel->in, &hello);
    if (channel->in.error) {
        log_event("module.silent module=%s error=\"%s\"", module->name, strerror(-channel->in.error));
        return CKR_GENERAL_ERROR;
    }
    if (hello.error[0] || !hello_fits(&hello)) {
        log_event("module.failed module=%s rv=\"%s\" reason=\"%s\"", module->name, code_name((CK_RV)hello.rv, (char[CODE_ROOM]){0}), hello.error);
        return hello.rv ? (CK_RV)hello.rv : CKR_GENERAL_ERROR;
    }
    channel->theirs = hello_width(&hello);
    channel_set_ticks(channel, tick_of(module), tick_of(module));
    atomic_store(&module->serial, hello.serial);
    if (hello.bell) {
        bell_heed(&channel->bell, module->calls, false);
        channel_use_shelf(channel);
    }
    return CKR_OK;
}

bool module_has_come(const struct channel *channel, uint64_t by)
{
    struct pollfd p = {.fd = channel->from, .events = POLLIN | POLLRDHUP};
    int n;
    do {
        if (owner_is_another(&channel->owner))
            return true; /* nothing more will */
        uint64_t now = channel_now_ms();
        n = poll(&p, 1, now < by ? (int)(by - now) : 0);
    } while (n < 0 && errno == EINTR);
    return n != 0;
}

void module_drop_idle(struct module *module)
{
    late_drop(module);
    for (unsigned i = 0; i < IDLE_CHANNELS; i++)
        module_free_channel(atomic_exchange(&module->idle[i], NULL));
}

struct channel *module_take_idle(struct module *module, uint32_t generation)
{
    for (unsigned i = 0; i < IDLE_CHANNELS; i++) {
        if (!atomic_load_explicit(&module->idle[i], memory_order_relaxed))
            continue;
        struct channel *channel = atomic_exchange(&module->idle[i], NULL);
        if (channel && channel->generation == generation)
            return channel;
        module_free_channel(channel);
    }
    return NULL;
}

void module_give(struct module *module, struct channel *channel)
{
    bool clean = channel->in.pos == channel->in.end; /* more than one answer to a call is one too many */
    for (unsigned i = 0; clean && i < IDLE_CHANNELS; i++) {
        struct channel *none = NULL;
        if (!atomic_load_explicit(&module->idle[i], memory_order_relaxed) &&
            atomic_compare_exchange_strong(&module->idle[i], &none, channel))
            return;
    }
    if (!clean)
        log_event("answer.unasked module=%s", module->name);
    module_free_channel(channel);
}
