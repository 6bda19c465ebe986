#include "watch_news.h"

#include <string.h>

static void write_text(struct writer *w, const char *text)
{
    write_str(w, text, strlen(text));
}

static void write_face(struct writer *w, const struct token_face *face)
{
    write_array(w, 5);
    write_bin(w, face->label, sizeof face->label);
    write_bin(w, face->manufacturer, sizeof face->manufacturer);
    write_bin(w, face->model, sizeof face->model);
    write_bin(w, face->serial, sizeof face->serial);
    write_uint(w, face->flags);
}

static void write_slot(struct writer *w, CK_SLOT_ID slot)
{
    if (slot == CK_UNAVAILABLE_INFORMATION)
        write_minus_one(w);
    else
        write_uint(w, slot);
}

static void write_state(struct writer *w, const struct slot_look *look)
{
    if (look->state == SLOT_NONE)
        write_nil(w);
    else if (look->state == SLOT_EMPTY || look->unclear)
        write_bool(w, look->state != SLOT_EMPTY);
    else
        write_face(w, &look->token);
}

static void write_kind(struct writer *w, const char *kind, uint64_t number, const char *what)
{
    write_text(w, "kind");
    write_text(w, kind);
    write_text(w, "number");
    write_uint(w, number);
    write_text(w, what);
}

static void write_snapshot(struct writer *w, const struct watch_log *log)
{
    write_kind(w, "state", log->number, "slots");
    write_array(w, log->n_slots);
    for (unsigned i = 0; i < log->n_slots; i++) {
        write_array(w, 2);
        write_slot(w, log->slots[i].told.slot);
        write_state(w, &log->slots[i].told);
    }
}

static void write_events(struct writer *w, const struct watch_log *log, uint64_t after)
{
    write_kind(w, "events", log->number, "events");
    write_array(w, (size_t)(log->number - after));
    while (after != log->number) {
        const struct slot_event *event = watch_log_event(log, ++after);
        write_array(w, 3);
        write_uint(w, event->number);
        write_slot(w, event->after.slot);
        write_state(w, &event->after);
    }
}

void write_news(struct writer *w, const struct watch_log *log, const uint64_t *after, uint64_t looking_ms)
{
    write_map(w, (log ? 3u : 1u) + (looking_ms ? 1u : 0u));
    if (looking_ms) {
        write_text(w, "looking");
        write_uint(w, looking_ms);
    }
    if (log && after && watch_log_has(log, *after)) {
        write_events(w, log, *after);
    } else if (log) {
        write_snapshot(w, log);
    } else {
        write_text(w, "kind");
        write_text(w, "none");
    }
}

static void read_entry(struct reader *r, bool *ret_has_after, uint64_t *ret_after, uint32_t *ret_wait_ms)
{
    char key[LIMIT_NAME + 1];
    read_text(r, key, sizeof key);
    if (!strcmp(key, "after") && read_peek(r) == WIRE_UINT) {
        *ret_after = read_uint(r);
        *ret_has_after = true;
    } else if (!strcmp(key, "wait")) {
        uint64_t wait = read_uint(r);
        *ret_wait_ms = (uint32_t)(wait < DEADLINE_WATCH ? wait : DEADLINE_WATCH);
    } else {
        read_skip(r);
    }
}

void read_watch(struct reader *r, bool *ret_has_after, uint64_t *ret_after, uint32_t *ret_wait_ms)
{
    *ret_has_after = false;
    *ret_wait_ms = 0;
    read_array_of(r, 1);
    for (size_t n = r->error ? 0 : read_map(r); n && !r->error; n--)
        read_entry(r, ret_has_after, ret_after, ret_wait_ms);
}
