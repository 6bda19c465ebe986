#include "serve.h"

#include <errno.h>
#include <string.h>

#include "kept.h"
#include "pin.h"
#include "refusal.h"
#include "search.h"
#include "slate.h"
#include "trace.h"
#include "view.h"
#include "walk.h"
#include "watch.h"

enum {
    MAX_WORDS = 16,
    NAME_SLOTS = 512, /* a power of two, several times the number of functions */
};

/* ---- functions by name ---- */

static uint8_t by_name[NAME_SLOTS]; /* index + 1 */

static unsigned hash(const char *name)
{
    unsigned h = 2166136261U;
    while (*name)
        h = (h ^ (uint8_t)*name++) * 16777619U;
    return h % NAME_SLOTS;
}

void serve_init(void)
{
    kept_init();
    for (unsigned i = 0; i < FUNCTION_COUNT; i++) {
        unsigned at = hash(functions[i].name);
        while (by_name[at])
            at = (at + 1) % NAME_SLOTS;
        by_name[at] = (uint8_t)(i + 1);
    }
}

static const struct function *find_function(const char *name)
{
    for (unsigned at = hash(name); by_name[at]; at = (at + 1) % NAME_SLOTS) {
        const struct function *f = &functions[by_name[at] - 1];
        if (!strcmp(f->name, name))
            return f->local ? NULL : f;
    }
    return NULL;
}

/* ---- one request ---- */

static const struct tables *served = &standard_tables;

void serve_with(const struct tables *tables)
{
    served = tables;
}

static void write_head(struct writer *w, uint64_t id)
{
    write_array(w, 4);
    write_uint(w, 1);
    write_uint(w, id);
}

static void write_fault(struct writer *w, uint64_t id, const char *code, const char *text)
{
    write_head(w, id);
    write_array(w, 2);
    write_str(w, code, strlen(code));
    write_str(w, text, strlen(text));
    write_nil(w);
}

static void write_reader_fault(struct writer *w, uint64_t id, int error)
{
    if (error == -EMSGSIZE)
        write_fault(w, id, "limit", "over a limit of specs/limits.toml");
    else if (error == -ENOMEM)
        write_fault(w, id, "limit", "more than this helper has room for");
    else
        write_fault(w, id, "malformed", "the request does not fit the tables");
}

struct request {
    struct channel *channel;
    struct provider *provider;
    struct arena arena;
    struct trace trace;
    uint64_t id;
    bool is_notification;
    char method[LIMIT_NAME + 1];
};

static void read_head(struct request *request)
{
    struct reader *r = &request->channel->in;
    request->id = 0;
    size_t count = read_array(r);
    request->is_notification = count == 3;
    if ((count != 4 && count != 3) || read_uint(r) != (count == 3 ? 2 : 0))
        reader_fail(r, -EBADMSG); /* as soon as it can be said: nothing more may come */
    uint64_t id = request->is_notification ? 0 : read_uint(r);
    if (id <= UINT32_MAX)
        request->id = id; /* what is no msgid does not go back as one */
    else
        reader_fail(r, -EBADMSG);
    read_text(r, request->method, sizeof request->method);
}

/* What a provider claims, and is not believed by the caller. */
static void say_lie(const struct walk *walk, CK_RV rv)
{
    static _Atomic uint64_t lies;
    struct refusal refusal = {
        .function = walk->function->name, .rv = rv, .count = refusal_count(&lies),
        .mechanism = named_mechanism(walk), .length = walk->parameter_len,
    };
    strncpy(refusal.reason, walk->reason, sizeof refusal.reason - 1);
    if (refusal.count)
        refusal_say("call.disbelieved", &refusal);
}

/* A caller says why it refused a call itself. Other notifications are of a protocol to come. */
static bool hear(const struct request *request)
{
    struct reader *r = &request->channel->in;
    struct refusal refusal;
    char name[LIMIT_NAME + 1];
    if (strcmp(request->method, "refused") != 0) {
        read_skip(r);
        return r->error == 0;
    }
    read_refusal(r, &refusal, name);
    const struct function *function = r->error ? NULL : find_function(name);
    if (function)
        refusal_say("call.refused", &refusal);
    return r->error == 0;
}

static void respond(struct request *request, struct walk *walk, CK_RV rv)
{
    write_head(walk->w, request->id);
    write_nil(walk->w);
    put_response(walk, rv);
    if (walk->reason)
        say_lie(walk, rv);
    if (walk->w->error) {
        writer_reset(walk->w);
        write_fault(walk->w, request->id, "limit", "the response is over a limit of specs/limits.toml");
    }
}

static bool is_user_login(unsigned fn, const uintptr_t *words)
{
    const struct function *f = &functions[fn];
    return (f->effect == EFFECT_LOGIN || f->effect == EFFECT_LOGIN_BY_NAME) && words[f->subject] == CKU_USER;
}

/* If it dies in there, its mark tells the broker where. */
static CK_RV call_noted(const struct request *request, unsigned fn, uintptr_t *words)
{
    struct channel *channel = request->channel;
    struct slate_tally *tally = &channel->tallies[fn];
    slate_enter(channel->mark, fn);
    uint64_t began = slate_begin(tally);
    CK_RV rv = view_call(request->provider, fn, words, channel->opener);
    slate_count(tally, &slate->gauges[fn], began, rv != CKR_OK);
    slate_leave(channel->mark);
    if (rv == CKR_OK && is_user_login(fn, words))
        slate_note_user();
    return rv;
}

static CK_RV call_provider(const struct request *request, unsigned fn, uintptr_t *words)
{
    const struct channel *channel = request->channel;
    return channel->mark ? call_noted(request, fn, words) : view_call(request->provider, fn, words, channel->opener);
}

/* The caller's arguments to the provider, what it answers to the caller. False when the channel is of no more use. */
static bool perform(struct request *request, const struct function *function)
{
    uintptr_t words[MAX_WORDS] = {0};
    struct writer *w = &request->channel->out;
    struct walk walk = {
        .function = function, .tables = served, .words = words, .w = w, .r = &request->channel->in, .arena = &request->arena,
        .theirs = request->channel->theirs,
    };
    struct keeping keeping;
    if (function->role)
        kept_expect(&keeping, &walk);
    get_request(&walk);
    if (walk.recall && !walk.r->error)
        kept_prepare(&keeping, &walk);
    if (walk.r->error)
        return false;
    uint32_t watcher = trace_wanted();
    if (watcher)
        trace_enter(&request->trace, watcher, &walk);
    CK_RV rv = call_provider(request, (unsigned)(function - functions), words);
    walk.goes_round = search_goes_round(function, words, rv);
    respond(request, &walk, rv);
    if (watcher)
        trace_leave(&request->trace, watcher, &walk, rv);
    if (walk.recall)
        kept_follow(&keeping, &walk, rv);
    return true;
}

static CK_RV log_in_noted(const struct request *request, CK_ULONG session)
{
    struct slate_mark *mark = request->channel->mark;
    if (mark)
        slate_enter(mark, FN_C_Login);
    CK_RV rv = pin_log_in(request->provider, session, request->channel->opener);
    if (mark)
        slate_leave(mark);
    return rv;
}

/* Who had logged in in an earlier life is logged in again with the broker's PIN. */
static bool log_in_again(struct request *request)
{
    struct reader *r = &request->channel->in;
    struct writer *w = &request->channel->out;
    if (read_array(r) != 1)
        reader_fail(r, -EBADMSG);
    CK_ULONG session = read_number(r);
    if (r->error)
        return false;
    CK_RV rv = log_in_noted(request, session);
    write_head(w, request->id);
    write_nil(w);
    write_array(w, 1);
    write_number(w, rv);
    return true;
}

static bool answer(struct request *request)
{
    struct reader *r = &request->channel->in;
    read_head(request);
    if (request->is_notification && !r->error)
        return hear(request);
    const struct function *function = r->error ? NULL : find_function(request->method);
    if (function)
        return perform(request, function);
    if (!r->error && !strcmp(request->method, "login"))
        return log_in_again(request);
    if (!r->error && !strcmp(request->method, "watch"))
        return watch_answer(request->channel, request->provider, request->id);
    read_skip(r);
    if (!r->error)
        write_fault(&request->channel->out, request->id, "unknown", "no such function");
    return r->error == 0;
}

static bool is_secret(const struct request *request)
{
    const struct function *function = find_function(request->method);
    return function && function->secret;
}

static bool send_answer(struct request *request, bool understood)
{
    struct channel *channel = request->channel;
    int error = channel->in.error;
    if (!understood && (error == -ENODATA || error == -ECONNRESET))
        return false;
    if (understood && request->is_notification)
        return true;
    if (!understood)
        write_reader_fault(&channel->out, request->id, error);
    channel_set_deadline(channel, DEADLINE_SHORT);
    return channel_send(channel) == 0 && understood;
}

/* Threads that are not asleep. */
static _Atomic unsigned at_work;

void serve(struct channel *channel, struct provider *provider)
{
    struct request request = {.channel = channel, .provider = provider, .trace.place = slate_place(channel->mark)};
    bool usable = arena_init(&request.arena, (size_t)1 << CALL_ARENA_BITS) == 0;
    atomic_fetch_add(&at_work, 1);
    bell_heed(&channel->bell, &at_work, true);
    while (usable) {
        channel_set_deadline(channel, 0);
        channel_begin(channel, 0);
        bool understood = answer(&request);
        usable = send_answer(&request, understood);
        arena_reset(&request.arena, is_secret(&request));
        reader_wipe(&channel->in);
    }
    atomic_fetch_sub(&at_work, 1);
    trace_finish(&request.trace);
    arena_finish(&request.arena);
}
