#include "view.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "arena.h"
#include "codec.h"
#include "tables.h"
#include "walk.h"

enum {
    SOURCES = 4,      /* functions of which conditions may want to know */
    FACT_BYTES = 512, /* the largest struct that one of them fills */
    RESERVE = 64 * LIMIT_VIEW,
    BY_ID = -1,
    NAP_MS = 10,
    HEAD_ROOM = 4096, /* what an arena needs for itself */
};

/* On the slot's id, or on a field of the struct that functions[sources[source]] fills. */
struct condition {
    int source; /* BY_ID, or its place in the view's sources */
    uint64_t id;
    const struct field *field;
    const uint8_t *text; /* without padding */
    size_t len;
};

struct selector {
    const struct condition *conditions; /* that all hold */
    size_t count;
};

struct selectors {
    const struct selector *list;
    size_t count;
};

struct view {
    struct arena arena; /* where all of this lies */
    unsigned sources[SOURCES];
    int n_sources;
    const struct selectors *shown; /* of each of these some selector fits; */
    size_t n_shown;
    struct selectors hidden; /* none of these does */
};

/* ---- decoding ---- */

struct decoding {
    struct reader r;
    struct view *view;
};

static void *memory(struct decoding *d, size_t count, size_t size)
{
    void *found = d->r.error ? NULL : arena_alloc(&d->view->arena, count * size);
    if (!found)
        reader_fail(&d->r, -ENOMEM);
    return found;
}

/* Of an array: an element has a byte at least, so no more of them than there are bytes. */
static size_t take_count(struct decoding *d)
{
    size_t count = read_array(&d->r);
    if (count > d->r.end - d->r.pos)
        reader_fail(&d->r, -EBADMSG);
    return d->r.error ? 0 : count;
}

/* The function of a slot, and of nothing else, whose output is this struct. FUNCTION_COUNT if there is none. */
static unsigned function_that_fills(const struct layout *layout)
{
    unsigned fn = 0;
    while (fn < FUNCTION_COUNT) {
        const struct function *f = &functions[fn];
        if (f->n_args == 2 && f->args[0].kind == ARG_SLOT && f->args[1].kind == ARG_OUT_STRUCT && &layouts[f->args[1].type] == layout)
            break;
        fn++;
    }
    return fn;
}

/* The place of a source, a new one if it is none yet. */
static int take_source(struct decoding *d, const struct layout *layout)
{
    struct view *view = d->view;
    unsigned fn = layout && layout->size <= FACT_BYTES ? function_that_fills(layout) : FUNCTION_COUNT;
    int place = 0;
    while (place < view->n_sources && view->sources[place] != fn)
        place++;
    if (fn == FUNCTION_COUNT || place == SOURCES) {
        reader_fail(&d->r, -EBADMSG);
        return BY_ID;
    }
    view->sources[place] = fn;
    view->n_sources = place == view->n_sources ? place + 1 : view->n_sources;
    return place;
}

static size_t unpadded(const uint8_t *text, size_t len)
{
    while (len && (text[len - 1] == ' ' || text[len - 1] == '\0'))
        len--;
    return len;
}

static const uint8_t *take_text(struct decoding *d, size_t most, size_t *ret_len)
{
    size_t len = read_bin(&d->r);
    if (len > most)
        reader_fail(&d->r, -EBADMSG);
    uint8_t *text = memory(d, len, 1);
    if (!text)
        return NULL;
    read_raw(&d->r, text, len);
    *ret_len = unpadded(text, len);
    return text;
}

/* `[struct, place of the field, text]`, or the slot's id */
static void take_condition(struct decoding *d, struct condition *ret)
{
    char name[LIMIT_NAME + 1];
    *ret = (struct condition){.source = BY_ID};
    if (read_peek(&d->r) != WIRE_ARRAY) {
        ret->id = read_uint(&d->r);
        return;
    }
    read_array_of(&d->r, 3);
    read_text(&d->r, name, sizeof name);
    uint64_t place = read_uint(&d->r);
    const struct layout *layout = d->r.error ? NULL : tables_layout(&standard_tables, name);
    ret->source = take_source(d, layout);
    ret->field = !d->r.error && place < layout->n_fields ? &layout->fields[place] : NULL;
    if (ret->field && ret->field->kind == FIELD_FIXED)
        ret->text = take_text(d, ret->field->length, &ret->len);
    else
        reader_fail(&d->r, -EBADMSG);
}

static void take_selector(struct decoding *d, struct selector *ret)
{
    size_t count = take_count(d);
    struct condition *conditions = memory(d, count, sizeof *conditions);
    for (size_t i = 0; i < count && !d->r.error; i++)
        take_condition(d, &conditions[i]);
    *ret = (struct selector){conditions, count};
}

static void take_selectors(struct decoding *d, struct selectors *ret)
{
    size_t count = take_count(d);
    struct selector *list = memory(d, count, sizeof *list);
    for (size_t i = 0; i < count && !d->r.error; i++)
        take_selector(d, &list[i]);
    *ret = (struct selectors){list, count};
}

/* `[shown, hidden]` */
static void take_view(struct decoding *d)
{
    read_array_of(&d->r, 2);
    size_t count = take_count(d);
    struct selectors *shown = memory(d, count, sizeof *shown);
    for (size_t i = 0; i < count && !d->r.error; i++)
        take_selectors(d, &shown[i]);
    d->view->shown = shown;
    d->view->n_shown = count;
    take_selectors(d, &d->view->hidden);
    if (!d->r.error && d->r.pos != d->r.end)
        reader_fail(&d->r, -EBADMSG);
}

static long no_more(void *context, void *bytes, size_t max)
{
    (void)context, (void)bytes, (void)max;
    return -EBADMSG;
}

/* The reader works on a copy: what was packed stays as it came. */
static void begin(struct decoding *d, const uint8_t *packed, size_t len)
{
    struct arena arena;
    if (len > LIMIT_VIEW || arena_init(&arena, RESERVE) != 0) {
        reader_fail(&d->r, len > LIMIT_VIEW ? -EMSGSIZE : -ENOMEM);
        return;
    }
    struct view *view = arena_alloc(&arena, sizeof *view);
    uint8_t *copy = view ? arena_alloc(&arena, len) : NULL;
    if (!copy) {
        arena_finish(&arena);
        reader_fail(&d->r, -ENOMEM);
        return;
    }
    memcpy(copy, packed, len);
    *view = (struct view){.arena = arena};
    reader_init(&d->r, copy, no_more, NULL);
    d->r.left = d->r.end = len;
    d->view = view;
}

struct view *view_decode(const uint8_t *packed, size_t len, int *ret_error)
{
    struct decoding d = {0};
    begin(&d, packed, len);
    if (d.view)
        take_view(&d);
    *ret_error = d.r.error;
    if (!d.r.error)
        return d.view;
    view_free(d.view);
    return NULL;
}

void view_free(struct view *view)
{
    if (!view)
        return;
    struct arena arena = view->arena; /* it lies in itself */
    arena_finish(&arena);
}

/* ---- a slot ---- */

/* What a provider said of a slot, as far as it has been asked. */
struct facts {
    struct provider *provider;
    CK_SLOT_ID slot;
    struct {
        bool asked;
        CK_RV rv;
        _Alignas(CK_ULONG) uint8_t bytes[FACT_BYTES];
    } of[SOURCES];
};

static CK_RV look(struct facts *facts, int source)
{
    if (!facts->of[source].asked) {
        uintptr_t words[] = {facts->slot, (uintptr_t)facts->of[source].bytes};
        facts->of[source].rv = provider_call(facts->provider, facts->provider->view->sources[source], words);
        facts->of[source].asked = true;
    }
    return facts->of[source].rv;
}

/* Where there is no token nothing of one is wrong yet, nor anything known; what cannot be told is not to be shown. */
static bool holds(const struct condition *condition, struct facts *facts, bool to_show)
{
    if (condition->source == BY_ID)
        return condition->id == wide(facts->slot);
    CK_RV rv = look(facts, condition->source);
    if (rv != CKR_OK)
        return (rv == CKR_TOKEN_NOT_PRESENT) == to_show;
    const uint8_t *text = facts->of[condition->source].bytes + condition->field->offset;
    size_t len = unpadded(text, condition->field->length);
    return len == condition->len && !memcmp(text, condition->text, len);
}

static bool fits(const struct selector *selector, struct facts *facts, bool to_show)
{
    size_t i = 0;
    while (i < selector->count && holds(&selector->conditions[i], facts, to_show))
        i++;
    return i == selector->count;
}

static bool some_fit(const struct selectors *selectors, struct facts *facts, bool to_show)
{
    size_t i = 0;
    while (i < selectors->count && !fits(&selectors->list[i], facts, to_show))
        i++;
    return i < selectors->count;
}

bool view_shows(struct provider *provider, CK_SLOT_ID slot)
{
    const struct view *view = provider->view;
    struct facts facts = {.provider = provider, .slot = slot};
    if (!view)
        return true;
    for (size_t i = 0; i < view->n_shown; i++)
        if (!some_fit(&view->shown[i], &facts, true))
            return false;
    return !some_fit(&view->hidden, &facts, false);
}

/* ---- calls ---- */

/* All the provider has, those that are shown first. What it says there is, is believed as far as there is room. */
static CK_RV list_shown(struct provider *provider, unsigned fn, CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *ret_count)
{
    CK_ULONG count = LIMIT_ELEMENTS, shown = 0;
    uintptr_t words[] = {present, (uintptr_t)slots, (uintptr_t)&count};
    CK_RV rv = provider_call(provider, fn, words);
    if (rv != CKR_OK)
        return rv;
    if (count > LIMIT_ELEMENTS)
        return CKR_DEVICE_ERROR;
    for (CK_ULONG i = 0; i < count; i++)
        if (view_shows(provider, slots[i]))
            slots[shown++] = slots[i];
    *ret_count = shown;
    return CKR_OK;
}

/* As section 5.2 of the standard has it for a caller with so much room. */
static CK_RV tell_slots(const CK_SLOT_ID *shown, CK_ULONG count, CK_SLOT_ID *slots, CK_ULONG *room)
{
    bool fit = !slots || count <= *room;
    *room = count;
    if (slots && fit && count)
        memcpy(slots, shown, count * sizeof *slots);
    return fit ? CKR_OK : CKR_BUFFER_TOO_SMALL;
}

/* New slots may come only when somebody asks how many there are (section 5.5): so that is asked where the caller does. */
static CK_RV list_slots(struct provider *provider, unsigned fn, const uintptr_t *words)
{
    struct arena arena;
    CK_SLOT_ID *slots = (CK_SLOT_ID *)words[1];
    CK_ULONG *room = (CK_ULONG *)words[2], count = 0;
    uintptr_t how_many[] = {words[0], 0, (uintptr_t)&count};
    if (!room)
        return CKR_ARGUMENTS_BAD;
    CK_RV rv = slots ? CKR_OK : provider_call(provider, fn, how_many);
    if (rv != CKR_OK)
        return rv;
    if (arena_init(&arena, LIMIT_ELEMENTS * sizeof *slots + HEAD_ROOM) != 0)
        return CKR_HOST_MEMORY;
    CK_SLOT_ID *all = arena_alloc(&arena, LIMIT_ELEMENTS * sizeof *all);
    rv = all ? list_shown(provider, fn, (CK_BBOOL)words[0], all, &count) : CKR_HOST_MEMORY;
    if (rv == CKR_OK)
        rv = tell_slots(all, count, slots, room);
    arena_finish(&arena);
    return rv;
}

/* Events of slots that are not shown are none. A provider that has no others is not asked all the time. */
static CK_RV wait_for_event(struct provider *provider, unsigned fn, uintptr_t *words, unsigned cell, uint32_t owner)
{
    CK_SLOT_ID *slot = (CK_SLOT_ID *)words[cell], unwritten = slot ? *slot : 0;
    bool blocking = !(words[0] & CKF_DONT_BLOCK);
    for (unsigned looks = 0; blocking || looks < LIMIT_MODULE_SLOTS; looks++) {
        CK_RV rv = share_call(provider, fn, words, owner);
        if (rv != CKR_OK || !slot || view_shows(provider, *slot))
            return rv;
        *slot = unwritten;
        if (blocking)
            poll(NULL, 0, NAP_MS);
    }
    return CKR_NO_EVENT;
}

static const struct arg *argument_of(unsigned fn, enum arg_kind kind)
{
    for (unsigned i = 0; i < functions[fn].n_args; i++)
        if (functions[fn].args[i].kind == kind)
            return &functions[fn].args[i];
    return NULL;
}

CK_RV view_call_narrowed(struct provider *provider, unsigned fn, uintptr_t *words, uint32_t owner)
{
    const struct arg *event = argument_of(fn, ARG_OUT_SLOT);
    if (functions[fn].args[0].kind == ARG_SLOT && !view_shows(provider, (CK_SLOT_ID)words[0]))
        return CKR_SLOT_ID_INVALID;
    if (argument_of(fn, ARG_OUT_SLOTS))
        return list_slots(provider, fn, words);
    return event ? wait_for_event(provider, fn, words, event->pos, owner) : share_call(provider, fn, words, owner);
}
