/* The walker over a response: what the provider answered, to the caller. */
#include "walk.h"

#include <errno.h>
#include <string.h>

static bool carries_output(const struct arg *arg)
{
    return arg->kind == ARG_TEMPLATE_IO || arg->kind == ARG_MECHANISM || arg->kind == ARG_MESSAGE ||
           (arg->kind >= ARG_OUT_BYTES && arg->kind <= ARG_OUT_STRUCT);
}

/* ---- helper: what the provider answered onto the wire ---- */

static bool is_written(const CK_ULONG *cell)
{
    CK_ULONG unwritten;
    memset(&unwritten, UNWRITTEN, sizeof unwritten);
    return cell && *cell != unwritten;
}

/* Keys that a parameter asks for come in it: then what the call gives need be none (CKM_SSL3_KEY_AND_MAC_DERIVE). */
static bool lacks_handle(const struct walk *walk, enum arg_kind kind, CK_RV rv, const CK_ULONG *handles, CK_ULONG count)
{
    bool is_handle = kind == ARG_OUT_SESSION || kind == ARG_OUT_OBJECTS || (kind == ARG_OUT_OBJECT && !walk->parameter_len);
    for (CK_ULONG i = 0; is_handle && rv == CKR_OK && handles && i < count; i++)
        if (handles[i] == 0 || !is_written(&handles[i]))
            return true;
    return false;
}

static void put_cell(struct walk *walk, enum arg_kind kind, const CK_ULONG *cell, CK_RV rv)
{
    if (lacks_handle(walk, kind, rv, cell, 1))
        walk->reason = gives_no_handle;
    if (is_written(cell))
        write_number(walk->w, *cell);
    else
        write_nil(walk->w);
}

static void put_numbers(struct writer *w, const CK_ULONG *numbers, CK_ULONG count)
{
    write_array(w, count);
    for (CK_ULONG i = 0; i < count; i++)
        write_number(w, numbers[i]);
}

/*
 * `[length, data]` of a buffer. A provider that says CKR_OK and a length its buffer never had gets no data here, and
 * the shim does not believe it. A length that it left alone is the caller's own, also if the provider was told less.
 */
static void put_filled(struct walk *walk, const struct arg *arg, CK_RV rv, size_t size)
{
    const void *buffer = pointer(walk, arg->pos);
    const struct room *cell = pointer(walk, arg->len);
    bool filled = rv == CKR_OK && buffer && cell && cell->length <= cell->room;
    if (filled && size == 1 && walk->signature)
        filled = signature_is_whole(walk, buffer, cell->length);
    if (walk->unnamed)
        filled = false; /* it has pointers */
    if (rv == CKR_OK && buffer && cell && !filled)
        walk->reason = provider_lies;
    uint64_t told = !cell ? 0 : walk->signature && size == 1 ? extent_there(walk, cell->length) : wide(cell->length);
    write_array(walk->w, 2);
    if (cell)
        write_wide(walk->w, !filled && cell->length == cell->room ? cell->said : told);
    else
        write_nil(walk->w);
    if (!filled)
        write_nil(walk->w);
    else if (size == 1 && walk->signature)
        put_signature(walk, buffer);
    else if (size == 1)
        write_bin(walk->w, buffer, cell->length);
    else
        put_numbers(walk->w, buffer, cell->length);
}

static void put_objects(struct walk *walk, const struct arg *arg, CK_RV rv)
{
    const CK_ULONG *cell = pointer(walk, arg->count);
    const CK_ULONG *objects = pointer(walk, arg->pos);
    write_array(walk->w, 2);
    if (rv != CKR_OK || !is_written(cell)) {
        write_nil(walk->w);
        write_nil(walk->w);
        return;
    }
    write_number(walk->w, *cell);
    if (!objects || *cell > walk->words[arg->len]) {
        walk->reason = objects ? provider_lies : walk->reason;
        write_nil(walk->w);
        return;
    }
    bool lacks = lacks_handle(walk, arg->kind, rv, objects, *cell);
    if (lacks || walk->goes_round) {
        walk->reason = lacks ? gives_no_handle : goes_round;
        write_nil(walk->w);
        return;
    }
    put_numbers(walk->w, objects, *cell);
}

/* UTF-8 has no such bytes. NULs where blanks belong are common, and harm nobody who knows the length. */
static bool is_text(const uint8_t *text, size_t len)
{
    while (len && (text[len - 1] == '\0' || text[len - 1] == ' '))
        len--;
    for (size_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] == 0x7f || text[i] == 0xc0 || text[i] == 0xc1 || text[i] > 0xf4)
            return false;
    return true;
}

/* In these structs all that lies inline as bytes is text. It is told as it is: nobody can know what it should be. */
static void put_struct(struct walk *walk, const struct layout *layout, const uint8_t *base)
{
    for (unsigned i = 0; i < layout->n_fields; i++)
        if (layout->fields[i].kind == FIELD_FIXED && !is_text(base + layout->fields[i].offset, layout->fields[i].length))
            walk->reason = "the provider tells what is no text";
    enum discretion before = walk->w->discreet;
    if (!walk->function->secret) /* names of libraries, slots and tokens */
        walk->w->discreet = DISCREET_NONE;
    put_fields(walk, layout, base, NULL, DIR_WHOLE);
    walk->w->discreet = before;
}

static bool carries_template(CK_RV rv)
{
    return rv == CKR_OK || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID ||
           rv == CKR_BUFFER_TOO_SMALL;
}

static void put_response_arg(struct walk *walk, const struct arg *arg, CK_RV rv)
{
    struct writer *w = walk->w;
    const void *p = pointer(walk, arg->pos);

    switch ((enum arg_kind)arg->kind) {
    case ARG_TEMPLATE_IO:
        if (!p)
            write_nil(w);
        else if (carries_template(rv))
            put_template_answer(walk, p, walk->words[arg->len]);
        else
            put_template_lengths(walk, p, walk->words[arg->len]);
        break;
    case ARG_MECHANISM:
    case ARG_MESSAGE: put_mechanism_changes(walk); break;
    case ARG_OUT_BYTES: put_filled(walk, arg, rv, 1); break;
    case ARG_OUT_NUMBERS:
    case ARG_OUT_SLOTS: put_filled(walk, arg, rv, sizeof(CK_ULONG)); break;
    case ARG_OUT_EXACT:
        if (rv == CKR_OK && p)
            write_bin(w, p, walk->words[arg->len]);
        else
            write_nil(w);
        break;
    case ARG_OUT_NUMBER:
    case ARG_OUT_SLOT:
    case ARG_OUT_SESSION:
    case ARG_OUT_OBJECT: put_cell(walk, arg->kind, p, rv); break;
    case ARG_OUT_OBJECTS: put_objects(walk, arg, rv); break;
    case ARG_OUT_STRUCT:
        if (rv == CKR_OK && p)
            put_struct(walk, layout_of(walk, arg->type), p);
        else
            write_nil(w);
        break;
    default: break;
    }
}

static unsigned count_outputs(const struct function *f)
{
    unsigned n = 0;
    for (unsigned i = 0; i < f->n_args; i++)
        n += carries_output(&f->args[i]);
    return n;
}

static void put_result(struct walk *walk, CK_RV rv, bool late)
{
    const struct function *f = walk->function;
    walk->rv = rv;
    write_array(walk->w, 1 + count_outputs(f) + late);
    write_number(walk->w, rv);
    for (unsigned i = 0; i < f->n_args; i++)
        if (carries_output(&f->args[i]))
            put_response_arg(walk, &f->args[i], rv);
    if (late)
        put_late(walk);
}

void put_response(struct walk *walk, CK_RV rv)
{
    put_result(walk, rv, walk->recall && late_refresh(walk->recall, walk->function->role == ROLE_BEGIN));
}

void put_response_again(struct walk *walk, CK_RV rv)
{
    put_result(walk, rv, walk->recall && late_found(walk->recall));
}

/* ---- shim: the answer into the caller's memory ---- */

static CK_ULONG rename(const struct walk *walk, enum arg_kind kind, CK_ULONG server)
{
    const struct names *n = walk->names;
    switch (kind) {
    case ARG_OUT_SLOT:
    case ARG_OUT_SLOTS: return n->slot_from_wire(n->context, server);
    case ARG_OUT_SESSION: return n->session_from_wire(n->context, server);
    case ARG_OUT_OBJECT:
    case ARG_OUT_OBJECTS: return n->object_from_wire(n->context, server);
    default: return server;
    }
}

static void get_number_list(struct walk *walk, enum arg_kind kind, CK_ULONG *list, CK_ULONG count)
{
    if (read_array(walk->r) != count)
        reader_fail(walk->r, -EBADMSG);
    for (CK_ULONG i = 0; i < count && !walk->r->error; i++) {
        CK_ULONG server = read_number(walk->r);
        if (kind == ARG_OUT_OBJECTS && server == 0)
            reader_fail(walk->r, -EBADMSG);
        list[i] = rename(walk, kind, server);
    }
}

/* Without data although there should be: the helper itself did not believe the provider. NULL if it has no reason not to. */
static const char *why_without_data(const struct walk *walk, enum arg_kind kind, CK_ULONG length, CK_ULONG room)
{
    if (length > room || (kind == ARG_OUT_BYTES && walk->signature))
        return provider_lies; /* or points elsewhere */
    return kind == ARG_OUT_OBJECTS ? gives_no_objects : NULL;
}

/* `[length, data]` into a buffer that has room for `room`. Nothing is written past it, whatever the other side says. */
static void get_filled(struct walk *walk, enum arg_kind kind, void *buffer, CK_ULONG room, CK_ULONG *cell, CK_RV rv)
{
    struct reader *r = walk->r;
    if (!read_array_of(r, 2))
        return;
    bool has_length = !read_nil_if(r);
    CK_ULONG length = has_length ? read_number(r) : 0;
    if (has_length && !cell)
        reader_fail(r, -EBADMSG);
    bool must_have_data = rv == CKR_OK && buffer && has_length;
    if (read_nil_if(r)) {
        const char *why = must_have_data ? why_without_data(walk, kind, length, room) : NULL;
        if (why)
            refuse(walk, CKR_DEVICE_ERROR, why);
        else if (must_have_data)
            reader_fail(r, -EBADMSG);
        else if (has_length && cell)
            *cell = length;
        return;
    }
    if (!buffer || !has_length || length > room || r->error) {
        reader_fail(r, -EBADMSG);
        return;
    }
    if (kind == ARG_OUT_BYTES && walk->signature)
        get_signature(walk, buffer, length);
    else if (kind != ARG_OUT_BYTES)
        get_number_list(walk, kind, buffer, length);
    else if (read_bin(r) != length)
        reader_fail(r, -EBADMSG);
    else
        read_raw(r, buffer, length);
    if (!r->error)
        *cell = length;
}

static void get_exactly(struct walk *walk, void *buffer, CK_ULONG len, CK_RV rv)
{
    bool must_have_data = rv == CKR_OK && buffer;
    if (read_nil_if(walk->r) != !must_have_data)
        reader_fail(walk->r, -EBADMSG);
    else if (!must_have_data)
        return;
    else if (read_bin(walk->r) != len)
        reader_fail(walk->r, -EBADMSG);
    else
        read_raw(walk->r, buffer, len);
}

/* A session that is none cannot be used, nor closed. */
static void get_written(struct walk *walk, enum arg_kind kind, CK_ULONG *cell, CK_RV rv)
{
    bool written = !read_nil_if(walk->r);
    CK_ULONG value = written ? read_number(walk->r) : 0;
    if (written && !cell)
        reader_fail(walk->r, -EBADMSG);
    else if (kind == ARG_OUT_SESSION && cell && rv == CKR_OK && value == 0)
        refuse(walk, CKR_DEVICE_ERROR, gives_no_handle);
    else if (!written)
        return;
    else if (!walk->r->error)
        *cell = rename(walk, kind, value);
}

static void get_struct(struct walk *walk, const struct layout *layout, uint8_t *base, CK_RV rv)
{
    bool must_have_data = rv == CKR_OK && base;
    if (read_nil_if(walk->r) != !must_have_data)
        reader_fail(walk->r, -EBADMSG);
    else if (must_have_data)
        get_fields(walk, layout, base, DIR_WHOLE);
}

static void get_response_arg(struct walk *walk, const struct arg *arg, CK_RV rv)
{
    void *p = pointer(walk, arg->pos);
    CK_ULONG *cell;

    switch ((enum arg_kind)arg->kind) {
    case ARG_TEMPLATE_IO:
        if (read_nil_if(walk->r))
            break;
        if (carries_template(rv))
            get_template_answer(walk, p, p ? walk->words[arg->len] : 0);
        else
            get_template_lengths(walk, p, p ? walk->words[arg->len] : 0);
        break;
    case ARG_MECHANISM: get_mechanism_changes(walk, p); break;
    case ARG_MESSAGE: get_message_changes(walk, p, walk->words[arg->len]); break;
    case ARG_OUT_BYTES:
    case ARG_OUT_NUMBERS:
    case ARG_OUT_SLOTS:
        cell = pointer(walk, arg->len);
        get_filled(walk, arg->kind, p, cell ? *cell : 0, cell, rv);
        break;
    case ARG_OUT_EXACT: get_exactly(walk, p, walk->words[arg->len], rv); break;
    case ARG_OUT_NUMBER:
    case ARG_OUT_SLOT:
    case ARG_OUT_SESSION:
    case ARG_OUT_OBJECT: get_written(walk, arg->kind, p, rv); break;
    case ARG_OUT_OBJECTS: get_filled(walk, arg->kind, p, walk->words[arg->len], pointer(walk, arg->count), rv); break;
    case ARG_OUT_STRUCT: get_struct(walk, layout_of(walk, arg->type), p, rv); break;
    default: break;
    }
}

CK_RV get_response(struct walk *walk)
{
    const struct function *f = walk->function;
    size_t count = read_array(walk->r), usual = 1 + count_outputs(f);
    bool late = walk->recall && count == usual + 1;
    if (count != usual && !late)
        reader_fail(walk->r, -EBADMSG);
    CK_RV rv = read_number(walk->r);
    walk->rv = rv;
    for (unsigned i = 0; i < f->n_args && !walk->r->error; i++)
        if (carries_output(&f->args[i]))
            get_response_arg(walk, &f->args[i], rv);
    if (walk->recall && f->role == ROLE_BEGIN)
        late_refresh(walk->recall, true);
    if (late && !walk->r->error)
        get_late(walk);
    return walk->refusal == CKR_OK ? rv : walk->refusal;
}
