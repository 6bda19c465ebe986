#include "ear.h"

#include <errno.h>
#include <string.h>

#include "log.h"

enum { SWIFT_MS = 10 }; /* an answer that says nothing and comes sooner than that */

static void rest(struct ear *ear)
{
    ear->pause_ms = ear->pause_ms == 0 ? DEADLINE_REST : ear->pause_ms < DEADLINE_REST_MOST / 2 ? ear->pause_ms * 2 : DEADLINE_REST_MOST;
    ear->rest_ms = channel_now_ms() + ear->pause_ms;
}

/* ---- slots of a module ---- */

static void for_slots(const struct module *module, struct seen *seen, void (*act)(struct seen *, CK_ULONG))
{
    for (CK_ULONG id = FIRST_SLOT_ID; id < FIRST_SLOT_ID + slot_count(); id++) {
        unsigned number;
        CK_ULONG server;
        if (slot_to_server(id, &number, &server) && number == module->number)
            act(seen, id);
    }
}

/* What the application knows is of another helper's life: that one's tokens are gone, whatever comes. */
static void begin_life(struct ear *ear, const struct module *module, struct seen *seen, uint32_t generation)
{
    uint32_t of = atomic_exchange(&ear->of, generation);
    atomic_store(&ear->hears, true);
    if (of == 0 || of == generation)
        return;
    for_slots(module, seen, seen_lose);
    ear->subscribed = false;
    ear->deaf = false;
}

/* ---- the channel ---- */

static void forget_channel(struct ear *ear)
{
    ear->channel = NULL;
    ear->greeted = ear->quick = ear->hangs = false;
    ear->asked = 0;
}

/* Ends the module's generation, if its helper has gone. */
static void drop(struct ear *ear, struct module *module)
{
    struct channel *channel = ear->channel;
    forget_channel(ear);
    module_drop(module, channel);
}

static void give_up(struct ear *ear, struct module *module)
{
    struct channel *channel = ear->channel;
    forget_channel(ear);
    module_give_up(module, channel, CKR_OK);
}

static uint32_t patience(const struct module *module)
{
    uint32_t ms = module->patience[PATIENCE_SHORT];
    return ms ? ms : DEADLINE_SHORT;
}

/* How long a look may take: it may have to wait for any call of the application's. */
static uint32_t patience_with_looks(const struct module *module)
{
    uint32_t ms = module->patience[PATIENCE_LONG];
    return ms ? ms : DEADLINE_LONG;
}

static void open_channel(struct ear *ear, struct module *module, uint32_t generation)
{
    ear->channel = module_open(module, generation);
    ear->due_ms = channel_now_ms() + (patience(module) < module->start_ms ? patience(module) : module->start_ms);
    if (!ear->channel)
        rest(ear);
}

/* ---- asking ---- */

static void write_question(struct ear *ear, uint32_t wait_ms)
{
    struct channel *channel = ear->channel;
    struct writer *w = &channel->out;
    write_array(w, 4);
    write_uint(w, 0);
    write_uint(w, ++channel->next_id);
    write_str(w, "watch", 5);
    write_array(w, 1);
    write_map(w, ear->subscribed ? 2 : 1);
    write_str(w, "wait", 4);
    write_uint(w, wait_ms);
    if (ear->subscribed) {
        write_str(w, "after", 5);
        write_uint(w, ear->number);
    }
}

static void ask(struct ear *ear, struct module *module, uint64_t round)
{
    uint32_t most = patience_with_looks(module);
    uint32_t wait_ms = round ? 0 : most < DEADLINE_WATCH ? most : DEADLINE_WATCH;
    write_question(ear, wait_ms);
    ear->asked_ms = channel_now_ms();
    ear->due_ms = ear->asked_ms + wait_ms + patience(module);
    channel_set_deadline(ear->channel, DEADLINE_EVENTS_ANSWER);
    if (channel_send(ear->channel) != 0) {
        drop(ear, module);
        return;
    }
    ear->asked++;
    ear->quick = round != 0;
    ear->round = round ? round : ear->round;
}

static bool may_ask(const struct ear *ear, uint64_t round)
{
    if (!ear->greeted || ear->deaf)
        return false;
    return round ? ear->round != round && !ear->quick : ear->asked == 0 && channel_now_ms() >= ear->rest_ms;
}

void ear_tend(struct ear *ear, struct module *module, struct seen *seen, uint64_t round)
{
    uint32_t generation = atomic_load(&module->generation);
    if (ear->channel && ear->channel->generation != generation)
        drop(ear, module);
    if (!ear->channel && atomic_load(&ear->of) != generation && atomic_load(&ear->of) != 0)
        begin_life(ear, module, seen, generation);
    if (!ear->channel && channel_now_ms() < ear->rest_ms)
        return;
    if (!generation) {
        atomic_store(&ear->listed, true);
        enum readiness readiness = module_try(module);
        generation = readiness == MODULE_READY ? atomic_load(&module->generation) : 0;
        if (readiness == MODULE_ABSENT)
            rest(ear);
    }
    if (generation && !ear->channel)
        open_channel(ear, module, generation);
    if (ear->channel && may_ask(ear, round))
        ask(ear, module, round);
}

int ear_descriptor(const struct ear *ear)
{
    return ear->channel ? ear->channel->from : -1;
}

uint64_t ear_until(const struct ear *ear, const struct module *module)
{
    uint64_t now = channel_now_ms();
    if (ear->channel && (ear->asked || !ear->greeted))
        return ear->due_ms;
    if (ear->deaf)
        return now + DEADLINE_REST_MOST;
    if (ear->rest_ms > now)
        return ear->rest_ms;
    return atomic_load(&module->generation) ? now : now + EAR_TICK_MS; /* it may be starting */
}

/* ---- hearing ---- */

static void read_field(struct reader *r, uint8_t *field, size_t len)
{
    if (read_bin(r) != len)
        reader_fail(r, -EBADMSG);
    if (!r->error)
        read_raw(r, field, len);
}

static uint64_t read_face(struct reader *r)
{
    struct token_face face;
    read_array_of(r, 5);
    read_field(r, face.label, sizeof face.label);
    read_field(r, face.manufacturer, sizeof face.manufacturer);
    read_field(r, face.model, sizeof face.model);
    read_field(r, face.serial, sizeof face.serial);
    face.flags = read_uint(r);
    return r->error ? 0 : seen_face(&face);
}

static enum seen_state read_state(struct reader *r, uint64_t *ret_face)
{
    enum wire_type type = read_peek(r);
    *ret_face = 0;
    if (type == WIRE_NIL) {
        read_nil(r);
        return SEEN_EMPTY;
    }
    if (type == WIRE_BOOL)
        return read_bool(r) ? SEEN_TOKEN : SEEN_EMPTY;
    *ret_face = read_face(r);
    return SEEN_TOKEN;
}

struct entry {
    CK_ULONG id; /* CK_UNAVAILABLE_INFORMATION: there can be no more slots */
    enum seen_state state;
    uint64_t face;
};

static bool read_entry(struct reader *r, const struct module *module, struct entry *ret)
{
    uint64_t server = read_uint(r);
    ret->state = read_state(r, &ret->face);
    ret->id = r->error ? CK_UNAVAILABLE_INFORMATION : slot_to_client(module->number, (CK_ULONG)server);
    return ret->id != CK_UNAVAILABLE_INFORMATION;
}

/* What was known once is compared; after that all slots are. */
static void read_slots(struct ear *ear, struct reader *r, const struct module *module, struct seen *seen)
{
    struct entry entry;
    bool knew_all = ear->subscribed || atomic_load(&ear->listed);
    for_slots(module, seen, seen_unmark);
    for (size_t n = read_array(r); n && !r->error; n--) {
        read_array_of(r, 2);
        if (read_entry(r, module, &entry))
            seen_compare(seen, entry.id, entry.state, entry.face, knew_all);
    }
    if (!r->error)
        for_slots(module, seen, seen_sweep);
}

/* Each by its number: of an answer that is cut short the rest is asked for again. True if any was new. */
static bool read_events(struct ear *ear, struct reader *r, const struct module *module, struct seen *seen)
{
    struct entry entry;
    uint64_t before = ear->number;
    for (size_t n = read_array(r); n && !r->error; n--) {
        read_array_of(r, 3);
        uint64_t number = read_uint(r);
        bool known = read_entry(r, module, &entry);
        if (r->error || number <= ear->number)
            continue;
        ear->number = number;
        if (known)
            seen_event(seen, entry.id, entry.state, entry.face);
    }
    return ear->number != before;
}

/* The first that says nothing, or a state, may be the last for a while. No helper of ours gives two at once. */
static void judge(struct ear *ear, bool events)
{
    uint64_t now = channel_now_ms();
    bool swift = !ear->quick && now - ear->asked_ms < SWIFT_MS;
    ear->vain = swift && !events ? ear->vain + 1 : 0;
    if (ear->vain > 1)
        ear->rest_ms = now + EAR_TICK_MS;
}

static void read_news(struct ear *ear, struct reader *r, const struct module *module, struct seen *seen)
{
    bool state = false, events = false;
    uint64_t number = 0;
    char key[LIMIT_NAME + 1];
    for (size_t n = read_map(r); n && !r->error; n--) {
        read_text(r, key, sizeof key);
        if (!strcmp(key, "number")) {
            number = read_uint(r);
        } else if (!strcmp(key, "slots")) {
            read_slots(ear, r, module, seen);
            state = true;
        } else if (!strcmp(key, "events")) {
            events = read_events(ear, r, module, seen);
        } else if (!strcmp(key, "looking")) {
            ear->hangs = read_uint(r) >= patience_with_looks(module);
        } else {
            read_skip(r);
        }
    }
    if (r->error)
        return;
    if (state) {
        ear->number = number;
        ear->subscribed = true;
    }
    judge(ear, events);
}

static void read_refusal(struct ear *ear, struct reader *r)
{
    char code[LIMIT_NAME + 1], text[256];
    read_array_of(r, 2);
    read_text(r, code, sizeof code);
    read_text(r, text, sizeof text);
    read_skip(r);
    ear->deaf = !strcmp(code, "unknown");
    rest(ear);
}

static int read_answer(struct ear *ear, const struct module *module, struct seen *seen)
{
    struct reader *r = &ear->channel->in;
    channel_set_deadline(ear->channel, DEADLINE_EVENTS_ANSWER);
    channel_begin(ear->channel, 0);
    if (!read_array_of(r, 4) || read_uint(r) != 1 || read_uint(r) != ear->channel->next_id - ear->asked + 1)
        reader_fail(r, -EBADMSG);
    if (r->error)
        return r->error;
    if (read_nil_if(r))
        read_news(ear, r, module, seen);
    else
        read_refusal(ear, r);
    reader_wipe(r);
    return r->error;
}

static void hear_answer(struct ear *ear, struct module *module, struct seen *seen)
{
    do {
        int error = ear->asked ? read_answer(ear, module, seen) : -EBADMSG;
        if (error) {
            log_event("events.failed module=%s error=\"%s\"", module->name, strerror(-error));
            drop(ear, module);
            if (atomic_load(&module->generation)) /* else there is another helper to be had at once */
                rest(ear);
            return;
        }
        ear->asked--;
        ear->quick = ear->quick && ear->asked;
    } while (ear->channel->in.pos != ear->channel->in.end);
    ear->pause_ms = 0;
    if (ear->hangs)
        give_up(ear, module);
}

static void hear_hello(struct ear *ear, struct module *module, struct seen *seen)
{
    if (module_hear(module, ear->channel) != CKR_OK) {
        drop(ear, module);
        rest(ear);
        return;
    }
    ear->greeted = true;
    channel_set_ticks(ear->channel, DEADLINE_EVENTS_ANSWER, DEADLINE_EVENTS_ANSWER);
    begin_life(ear, module, seen, ear->channel->generation);
}

void ear_hear(struct ear *ear, struct module *module, struct seen *seen, bool readable)
{
    if (!ear->channel)
        return;
    if (readable && !ear->greeted)
        hear_hello(ear, module, seen);
    else if (readable)
        hear_answer(ear, module, seen);
    else if ((ear->asked || !ear->greeted) && channel_now_ms() >= ear->due_ms)
        give_up(ear, module);
}

bool ear_is_awaited(const struct ear *ear, uint64_t round)
{
    return ear->channel && !ear->deaf && (ear->quick || ear->round != round);
}

bool ear_may_tell(struct ear *ear, const struct module *module)
{
    uint32_t none = 0, generation = atomic_load(&module->generation);
    if (atomic_load(&ear->hears) || generation == 0)
        return false;
    return atomic_compare_exchange_strong(&ear->of, &none, generation) || none == generation;
}

/* Who hears by now may know of none. */
void ear_tell_all(struct ear *ear)
{
    if (!atomic_load(&ear->hears))
        atomic_store(&ear->listed, true);
}

void ear_close(struct ear *ear, struct module *module)
{
    if (ear->channel)
        module_give(module, ear->channel); /* which closes it with all that are idle */
}
