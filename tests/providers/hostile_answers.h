/*
 * How the hostile provider fills what it is given to fill: as it should be, or as a lie. Both follow from the kind of each
 * argument; a row of `lies` is a lie's name, the kinds that it can be told of, and how it is told.
 *
 * Knows kinds. Must not know a function.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

enum { SLOT = 5, BYTES = 12, FILLED = 'h', WILD = 0xff };

static atomic_ulong last_handle;
static atomic_uint outcome; /* of an act: 0 none yet */

static void *at(const struct output *output, const uintptr_t *words, unsigned word)
{
    return (void *)words[output->at + word];
}

/* ---- as it should be ---- */

static CK_RV fill_room(void *buffer, CK_ULONG *count, CK_ULONG need, size_t size)
{
    CK_ULONG room = count ? *count : 0;
    if (!count)
        return CKR_ARGUMENTS_BAD;
    *count = need;
    if (buffer && room < need)
        return CKR_BUFFER_TOO_SMALL;
    if (buffer && size == 1)
        memset(buffer, FILLED, need);
    for (CK_ULONG i = 0; buffer && size > 1 && i < need; i++)
        ((CK_ULONG *)buffer)[i] = SLOT + i;
    return CKR_OK;
}

static CK_RV fill_struct(const struct output *output, uint8_t *to)
{
    if (!to)
        return CKR_ARGUMENTS_BAD;
    memset(to, 0, output->size);
    for (const struct text *text = output->texts; text->size; text++)
        memset(to + text->at, ' ', text->size);
    if (output->texts == texts_CK_SESSION_INFO)
        ((CK_SESSION_INFO *)(void *)to)->ulDeviceError = atomic_load(&outcome);
    /* Programs take no slot for empty, and no token for a blank one. */
    if (output->texts == texts_CK_SLOT_INFO)
        ((CK_SLOT_INFO *)(void *)to)->flags = CKF_TOKEN_PRESENT;
    if (output->texts == texts_CK_TOKEN_INFO)
        ((CK_TOKEN_INFO *)(void *)to)->flags = CKF_TOKEN_INITIALIZED;
    return CKR_OK;
}

static CK_RV fill_template(CK_ATTRIBUTE *template, CK_ULONG count)
{
    for (CK_ULONG i = 0; template && i < count; i++) {
        CK_ULONG room = template[i].ulValueLen;
        template[i].ulValueLen = template[i].pValue && room < BYTES ? CK_UNAVAILABLE_INFORMATION : BYTES;
        if (template[i].pValue && room >= BYTES)
            memset(template[i].pValue, FILLED, BYTES);
    }
    return CKR_OK;
}

static CK_RV fill_number(CK_ULONG *cell, CK_ULONG value)
{
    if (!cell)
        return CKR_ARGUMENTS_BAD;
    *cell = value;
    return CKR_OK;
}

static CK_RV fill(const struct output *o, const uintptr_t *words)
{
    void *first = at(o, words, 0);
    switch (o->kind) {
    case KIND_OUT_BYTES: return fill_room(first, at(o, words, 1), BYTES, 1);
    case KIND_OUT_ULONGS: return fill_room(first, at(o, words, 1), BYTES, sizeof(CK_ULONG));
    case KIND_OUT_SLOTS: return fill_room(first, at(o, words, 1), 1, sizeof(CK_ULONG));
    case KIND_OUT_EXACT: memset(first, FILLED, first ? words[o->at + 1] : 0); return CKR_OK;
    case KIND_OUT_OBJECTS: return fill_number(at(o, words, 2), 0);
    case KIND_OUT_SLOT: return CKR_NO_EVENT;
    case KIND_OUT_ULONG: return fill_number(first, BYTES);
    case KIND_OUT_SESSION:
    case KIND_OUT_OBJECT: return fill_number(first, atomic_fetch_add(&last_handle, 1) + 1);
    case KIND_OUT_STRUCT: return fill_struct(o, first);
    case KIND_INOUT_TEMPLATE: return fill_template(first, words[o->at + 1]);
    default: return CKR_OK;
    }
}

static CK_RV answer(const struct row *row, const uintptr_t *words)
{
    CK_RV rv = CKR_OK;
    for (unsigned i = 0; i < row->count && rv == CKR_OK; i++)
        rv = fill(&row->outputs[i], words);
    return rv;
}

/* ---- lies ---- */

/* How many elements an output has room for, and where it says how many there are; NULL where it has no such place. */
static CK_ULONG *count_of(const struct output *o, const uintptr_t *words, CK_ULONG *ret_room)
{
    bool is_pair = o->kind == KIND_OUT_BYTES || o->kind == KIND_OUT_ULONGS || o->kind == KIND_OUT_SLOTS;
    CK_ULONG *count = is_pair ? at(o, words, 1) : o->kind == KIND_OUT_OBJECTS ? at(o, words, 2) : NULL;
    *ret_room = o->kind == KIND_OUT_OBJECTS ? words[o->at + 1] : count ? *count : 0;
    return count;
}

static void lie_in_template(const struct output *o, const uintptr_t *words, bool just)
{
    CK_ATTRIBUTE *template = at(o, words, 0);
    for (CK_ULONG i = 0; template && i < words[o->at + 1]; i++)
        template[i].ulValueLen = just ? template[i].ulValueLen + 1 : (CK_ULONG)template;
}

static CK_RV lie_of_length(const struct row *row, const uintptr_t *words, bool just)
{
    for (unsigned i = 0; i < row->count; i++) {
        CK_ULONG room, *count = count_of(&row->outputs[i], words, &room);
        if (count)
            *count = just ? room + 1 : (CK_ULONG)count;
        if (row->outputs[i].kind == KIND_INOUT_TEMPLATE)
            lie_in_template(&row->outputs[i], words, just);
    }
    return CKR_OK;
}

/* One more than there is room for; and a number with which a copy would go anywhere. */
static CK_RV lie_one_more(const struct row *row, const uintptr_t *words)
{
    return lie_of_length(row, words, true);
}

static CK_RV lie_wild(const struct row *row, const uintptr_t *words)
{
    return lie_of_length(row, words, false);
}

/* Writes more than there is room for, too, in memory that is not its own. */
static CK_RV lie_overrun(const struct row *row, const uintptr_t *words)
{
    CK_RV rv = answer(row, words);
    for (unsigned i = 0; i < row->count; i++) {
        CK_ULONG room, *count = count_of(&row->outputs[i], words, &room);
        uint8_t *buffer = at(&row->outputs[i], words, 0);
        if (count && buffer)
            memset(buffer, WILD, room * sizeof(CK_ULONG) + 512);
    }
    return rv;
}

static CK_RV lie_zero(const struct row *row, const uintptr_t *words)
{
    CK_RV rv = answer(row, words);
    for (unsigned i = 0; i < row->count; i++) {
        const struct output *o = &row->outputs[i];
        CK_ULONG *handles = at(o, words, 0);
        if (handles && (o->kind == KIND_OUT_SESSION || o->kind == KIND_OUT_OBJECT))
            *handles = 0;
        if (handles && o->kind == KIND_OUT_OBJECTS && at(o, words, 2))
            memset(handles, 0, words[o->at + 1] * sizeof *handles), *(CK_ULONG *)at(o, words, 2) = words[o->at + 1];
    }
    return rv;
}

/* The same objects each time, as many as there is room for: who wants all of them never has them. */
static CK_RV lie_round(const struct row *row, const uintptr_t *words)
{
    CK_RV rv = answer(row, words);
    for (unsigned i = 0; i < row->count; i++) {
        const struct output *o = &row->outputs[i];
        CK_ULONG *handles = at(o, words, 0);
        if (o->kind != KIND_OUT_OBJECTS || !handles)
            continue;
        *(CK_ULONG *)at(o, words, 2) = words[o->at + 1];
        for (CK_ULONG k = 0; k < words[o->at + 1]; k++)
            handles[k] = 1 + k;
    }
    return rv;
}

static CK_RV lie_code(const struct row *row, const uintptr_t *words)
{
    (void)row, (void)words;
    return (CK_RV)0x123456789abcdefUL;
}

static CK_RV lie_not_initialized(const struct row *row, const uintptr_t *words)
{
    (void)row, (void)words;
    return CKR_CRYPTOKI_NOT_INITIALIZED;
}

static CK_RV lie_after_error(const struct row *row, const uintptr_t *words)
{
    answer(row, words);
    return CKR_FUNCTION_FAILED;
}

/* Neither a NUL nor a blank anywhere, and no text: all bits are set. */
static CK_RV lie_unpadded(const struct row *row, const uintptr_t *words)
{
    CK_RV rv = answer(row, words);
    for (unsigned i = 0; i < row->count; i++) {
        const struct output *o = &row->outputs[i];
        if (o->kind == KIND_OUT_STRUCT && at(o, words, 0))
            memset(at(o, words, 0), WILD, o->size);
    }
    return rv;
}

static CK_RV lie_silence(const struct row *row, const uintptr_t *words)
{
    (void)row, (void)words;
    return CKR_OK; /* and nothing is filled */
}

/* Of a slot that there never was, another each time. */
static CK_RV lie_of_event(const struct row *row, const uintptr_t *words)
{
    static atomic_ulong events;
    CK_RV rv = answer(row, words);
    for (unsigned i = 0; i < row->count; i++)
        if (row->outputs[i].kind == KIND_OUT_SLOT)
            rv = fill_number(at(&row->outputs[i], words, 0), SLOT + atomic_fetch_add(&events, 1));
    return rv;
}

static const struct lie {
    const char *name;
    CK_RV (*tell)(const struct row *row, const uintptr_t *words);
} lies[] = {
    {"length", lie_one_more}, {"wild", lie_wild},    {"overrun", lie_overrun},     {"zero", lie_zero},        {"code", lie_code},
    {"uninitialized", lie_not_initialized}, {"error", lie_after_error}, {"unpadded", lie_unpadded}, {"silence", lie_silence}, {"event", lie_of_event},
    {"round", lie_round},
};
