/* Calls to several modules at the same time: none waits for another's helper. */
#include <errno.h>
#include <limits.h>
#include <poll.h>

#include "exchange_steps.h"
#include "late.h"
#include "log.h"

/* Of two times to wait, where 0 is for ever. */
static uint32_t sooner(uint32_t a, uint32_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* How long the helper has, to say hello or to answer. */
static uint32_t deadline_of(const struct talk *talk)
{
    uint32_t most = exchange_patience(talk->call);
    return talk->greeting ? sooner(most, talk->call->module->start_ms) : most;
}

/* How long anybody waits for that. */
static uint32_t wait_of(const struct talk *talk)
{
    uint32_t most = deadline_of(talk);
    return talk->call->hasty ? sooner(most, late_patience(talk->call->module)) : most;
}

static uint64_t after(const struct talk *talk, uint32_t ms)
{
    return ms ? talk->since + ms : UINT64_MAX;
}

/* ---- the request ---- */

static void send_request(struct talk *talk)
{
    atomic_fetch_add(&talk->call->state->calls, 1);
    exchange_prepare(talk, talk->call, talk->channel);
    talk->sent = exchange_send(talk);
}

/* What is opened while C_Finalize shuts down what it finds would otherwise never be woken. */
static struct channel *take_channel(const struct call *call, bool *ret_greeting)
{
    struct channel *channel = module_take_now(call->module, call->generation, ret_greeting);
    if (!channel || !atomic_load(&call->state->ending))
        return channel;
    module_give(call->module, channel);
    return NULL;
}

static void go_without_channel(struct talk *talk, bool late)
{
    talk->channel = NULL;
    talk->greeting = false;
    talk->call->unsent = !late;
    talk->rv = exchange_no_channel(talk->call, late);
}

static CK_RV be_late(struct call *call)
{
    call->late = true;
    return CKR_FUNCTION_FAILED;
}

void exchange_begin(struct talk *talk, struct call *call)
{
    talk->call = call;
    talk->channel = NULL;
    talk->greeting = talk->sent = false;
    talk->rv = exchange_enter_life(call);
    if (talk->rv != CKR_OK)
        return;
    if (call->hasty && !late_may_ask(call->module)) {
        talk->rv = be_late(call);
        return;
    }
    talk->since = channel_now_ms();
    talk->channel = take_channel(call, &talk->greeting);
    if (!talk->channel)
        go_without_channel(talk, false);
    else if (!talk->greeting)
        send_request(talk);
}

/* Nobody waits any longer. What is not overdue is left to come. */
static void leave(struct talk *talk)
{
    uint64_t due = after(talk, deadline_of(talk));
    struct call *call = talk->call;
    if (talk->greeting && channel_now_ms() >= due) {
        module_give_up(call->module, talk->channel, CKR_OK);
        go_without_channel(talk, true);
        return;
    }
    log_event("module.late module=%s function=%s", call->module->name, call->function->name);
    late_leave(call->module, talk->channel, due);
    talk->channel = NULL;
    talk->greeting = false;
    talk->rv = be_late(call);
}

/* ---- hellos ---- */

/* One has begun to come: the rest of it, and the request. */
static void hear_hello(struct talk *talk)
{
    struct module *module = talk->call->module;
    if (module_hear(module, talk->channel) == CKR_OK) {
        talk->greeting = false;
        send_request(talk);
        return;
    }
    module_drop(module, talk->channel);
    go_without_channel(talk, false);
}

/* What there is to poll for, and how long; false if there is nothing. */
static bool gather(struct talk *const *talks, unsigned n, struct pollfd *polled, uint64_t *ret_until)
{
    bool any = false;
    *ret_until = UINT64_MAX;
    for (unsigned i = 0; i < n; i++) {
        const struct talk *talk = talks[i];
        polled[i] = (struct pollfd){.fd = talk->greeting ? talk->channel->from : -1, .events = POLLIN | POLLRDHUP};
        if (!talk->greeting)
            continue;
        uint64_t until = after(talk, wait_of(talk));
        *ret_until = until < *ret_until ? until : *ret_until;
        any = true;
    }
    return any;
}

static void poll_until(struct pollfd *polled, unsigned n, uint64_t until)
{
    uint64_t now = channel_now_ms(), ms = until > now ? until - now : 0;
    if (poll(polled, n, ms < INT_MAX ? (int)ms : INT_MAX) >= 0)
        return;
    for (unsigned i = 0; i < n; i++)
        polled[i].revents = 0;
}

void exchange_greet(struct talk *const *talks, unsigned n)
{
    struct pollfd polled[LIMIT_MODULES];
    uint64_t until;
    while (gather(talks, n, polled, &until)) {
        poll_until(polled, n, until);
        uint64_t now = channel_now_ms();
        for (unsigned i = 0; i < n; i++) {
            struct talk *talk = talks[i];
            if (!talk->greeting)
                continue;
            if (polled[i].revents || owner_is_another(&talk->channel->owner))
                hear_hello(talk);
            else if (now >= after(talk, wait_of(talk)))
                leave(talk);
        }
    }
}

/* ---- the answer ---- */

/* Is it left to come before it is overdue? */
static bool may_be_late(const struct talk *talk)
{
    return talk->call->hasty && wait_of(talk) != deadline_of(talk);
}

/* What was waited for others has been waited for this one too: if that was long, only the rest of its time is left. */
static void hear_at_all(struct talk *talk)
{
    struct channel *channel = talk->channel;
    uint32_t receive_ms = channel->receive_tick, send_ms = channel->send_tick;
    uint32_t patience = exchange_patience(talk->call);
    uint64_t spent = channel_now_ms() - talk->since;
    bool is_long = patience && spent >= patience / 16 + 1;
    if (is_long) {
        uint32_t left = spent < patience ? patience - (uint32_t)spent : 1;
        channel_set_ticks(channel, left < receive_ms ? left : receive_ms, send_ms);
        channel_set_deadline(channel, left);
    }
    exchange_hear(talk);
    if (is_long)
        channel_set_ticks(channel, receive_ms, send_ms);
}

/* False if it does not begin to come in time. One that has begun has as long again for the rest, or the helper hangs. */
static bool hear_if_in_time(struct talk *talk)
{
    uint32_t wait = wait_of(talk);
    if (!late_comes(talk->channel, talk->since + wait))
        return false;
    channel_set_deadline(talk->channel, wait);
    exchange_hear(talk);
    return true;
}

static void finish(struct talk *talk)
{
    struct call *call = talk->call;
    bool heard = true;
    if (!talk->channel)
        return;
    if (talk->sent && may_be_late(talk))
        heard = hear_if_in_time(talk);
    else if (talk->sent)
        hear_at_all(talk);
    atomic_fetch_sub(&call->state->calls, 1);
    if (heard)
        exchange_give_back(call, talk->channel, talk->usable, talk->rv);
    else
        leave(talk);
}

CK_RV exchange_end(struct talk *talk)
{
    enum { LIVES = 3 };
    struct talk *const alone[] = {talk};
    finish(talk);
    for (int life = 0; life < LIVES && exchange_is_for_the_next(talk->call); life++) {
        talk->call->unsent = false;
        exchange_begin(talk, talk->call);
        exchange_greet(alone, 1);
        finish(talk);
    }
    return talk->rv;
}
