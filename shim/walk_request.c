/* The walker over a request: the caller's arguments to the provider. */
#include "walk.h"

#include <errno.h>
#include <string.h>

/* ---- shim: the caller's arguments onto the wire ---- */

static void put_bytes(struct walk *walk, const void *bytes, CK_ULONG len)
{
    if (!bytes)
        put_number(walk, len, CKR_ARGUMENTS_BAD);
    else if (len > LIMIT_BYTES)
        refuse(walk, CKR_ARGUMENTS_BAD, "bytes longer than limits.bytes");
    else if (len > most_there(walk))
        refuse(walk, CKR_HOST_MEMORY, "bytes longer than a helper of 32 bits has room for");
    else
        write_bin(walk->w, bytes, len);
}

static void put_object(struct walk *walk, const struct arg *arg, CK_ULONG client)
{
    CK_ULONG server = 0;
    /* A handle that is not ours is no handle: the provider says so in its own words, unless 0 has a meaning here. */
    if (!walk->names->object_to_wire(walk->names->context, client, &server) && arg->optional)
        refuse(walk, CKR_KEY_HANDLE_INVALID, "the key is of another life");
    write_number(walk->w, server);
}

static void put_capacity(struct walk *walk, const void *buffer, const CK_ULONG *length, bool is_signature)
{
    write_array(walk->w, is_signature ? 3 : 2);
    write_bool(walk->w, buffer != NULL);
    if (length)
        write_number(walk->w, *length);
    else
        write_nil(walk->w);
    if (is_signature)
        put_signature_name(walk);
}

/* Filled whole or not at all: there is no asking for less. */
static void put_exact(struct walk *walk, const void *buffer, CK_ULONG len)
{
    if (buffer && len > LIMIT_BYTES)
        refuse(walk, CKR_ARGUMENTS_BAD, "a buffer longer than limits.bytes");
    else if (buffer && len > most_there(walk))
        refuse(walk, CKR_HOST_MEMORY, "a buffer longer than limits.narrow_bytes");
    else
        put_capacity(walk, buffer, &len, false);
}

static void put_request_arg(struct walk *walk, const struct arg *arg)
{
    struct writer *w = walk->w;
    void *p = pointer(walk, arg->pos);
    CK_ULONG word = walk->words[arg->pos];
    CK_ULONG len = walk->words[arg->len];

    switch ((enum arg_kind)arg->kind) {
    case ARG_NUMBER: put_number(walk, word, CKR_ARGUMENTS_BAD); break;
    case ARG_BOOL: write_byte_bool(w, (uint8_t)word); break;
    case ARG_SLOT: write_number(w, walk->slot); break;
    case ARG_SESSION: write_number(w, walk->session); break;
    case ARG_OBJECT: put_object(walk, arg, word); break;
    case ARG_BYTES: put_bytes(walk, p, len); break;
    case ARG_FIXED: put_bytes(walk, p, p ? arg->type : 0); break;
    case ARG_STRING: put_bytes(walk, p, p ? strlen(p) : 0); break;
    case ARG_TEMPLATE: put_template(walk, p, len); break;
    case ARG_TEMPLATE_IO: put_template_query(walk, p, len); break;
    case ARG_MECHANISM: put_mechanism(walk, p); break;
    case ARG_MESSAGE: put_message(walk, p, len); break;
    case ARG_OUT_BYTES: put_capacity(walk, p, pointer(walk, arg->len), walk->signature != NULL); break;
    case ARG_OUT_NUMBERS:
    case ARG_OUT_SLOTS: put_capacity(walk, p, pointer(walk, arg->len), false); break;
    case ARG_OUT_EXACT: put_exact(walk, p, len); break;
    case ARG_OUT_NUMBER:
    case ARG_OUT_SLOT:
    case ARG_OUT_SESSION:
    case ARG_OUT_OBJECT:
    case ARG_OUT_STRUCT: write_bool(w, p != NULL); break;
    case ARG_OUT_OBJECTS:
        write_array(w, 3);
        write_bool(w, p != NULL);
        write_number(w, len);
        write_bool(w, pointer(walk, arg->count) != NULL);
        break;
    case ARG_RESERVED: p ? write_bool(w, true) : write_nil(w); break;
    case ARG_LOCAL: break;
    }
}

void put_request(struct walk *walk)
{
    const struct function *f = walk->function;
    unsigned sent = 0;
    for (unsigned i = 0; i < f->n_args; i++)
        sent += f->args[i].kind != ARG_LOCAL;
    write_array(walk->w, sent);
    for (unsigned i = 0; i < f->n_args && walk->refusal == CKR_OK; i++)
        put_request_arg(walk, &f->args[i]);
}

/* ---- helper: the wire into arguments for the provider ---- */

static CK_ULONG at_most(CK_ULONG value, CK_ULONG limit)
{
    return value < limit ? value : limit;
}

/* A long byte string is given to the provider where the caller put it. */
static void *get_long_bytes(struct walk *walk, CK_ULONG *ret_len)
{
    struct reader *r = walk->r;
    *ret_len = 0;
    if (read_peek(r) != WIRE_BIN) {
        *ret_len = read_number(r);
        return NULL;
    }
    size_t len = read_bin(r);
    void *bytes = read_in_place(r);
    if (!bytes && (bytes = take(walk, len)))
        read_raw(r, bytes, len);
    *ret_len = len;
    return bytes;
}

/* From the end of the shelf, which the caller fills from the beginning; else from the arena. */
static void *take_buffer(struct walk *walk, size_t size)
{
    const struct shelf *shelf = &walk->r->shelf;
    bool is_long = size >= WRITER_BY_REFERENCE && shelf->base;
    if (is_long && size <= shelf->size - walk->r->shelved)
        return shelf->base + (shelf->size - size);
    return take(walk, size);
}

/* `[buffer, length]`: a length cell, unless nil, and a buffer of that many elements of `size` bytes. */
static void get_room(struct walk *walk, const struct arg *arg, size_t size, CK_ULONG limit)
{
    struct reader *r = walk->r;
    bool buffer = read_bool(r);
    struct room *cell = NULL;
    if (read_peek(r) == WIRE_NIL) {
        read_nil(r);
    } else if ((cell = take(walk, sizeof *cell))) {
        cell->said = read_uint(r);
        cell->room = buffer ? at_most(cut(cell->said), limit) : cut(cell->said);
        cell->length = cell->room;
    }
    walk->words[arg->len] = (uintptr_t)cell;
    if (buffer)
        walk->words[arg->pos] = (uintptr_t)take_buffer(walk, cell ? cell->room * size : 0);
}

static void get_array(struct walk *walk, const struct arg *arg)
{
    if (read_array_of(walk->r, 2))
        get_room(walk, arg, sizeof(CK_ULONG), LIMIT_ELEMENTS);
}

/* Perhaps with a third element: what is to fill the buffer. */
static void get_buffer(struct walk *walk, const struct arg *arg)
{
    size_t count = read_array(walk->r);
    if (count != 2 && count != 3)
        reader_fail(walk->r, -EBADMSG);
    get_room(walk, arg, 1, ROOM_BYTES);
    if (count == 3)
        get_signature_name(walk);
    struct room *cell = pointer(walk, arg->len);
    if (count != 3 || !cell || walk->r->error)
        return;
    cell->length = cell->room = extent_here(walk, cell->room);
    if (pointer(walk, arg->pos)) /* what an earlier call has left there is no signature of this one */
        memset(pointer(walk, arg->pos), 0, at_most(cell->room, walk->signature->size));
}

static void get_exact(struct walk *walk, const struct arg *arg)
{
    if (!read_array_of(walk->r, 2))
        return;
    bool buffer = read_bool(walk->r);
    CK_ULONG len = cut(read_uint(walk->r));
    walk->words[arg->len] = len;
    if (buffer && len > ROOM_BYTES)
        reader_fail(walk->r, -EMSGSIZE);
    else if (buffer)
        walk->words[arg->pos] = (uintptr_t)take(walk, walk->words[arg->len]);
}

static void get_objects(struct walk *walk, const struct arg *arg)
{
    struct reader *r = walk->r;
    if (!read_array_of(r, 3))
        return;
    bool buffer = read_bool(r);
    CK_ULONG max = cut(read_uint(r));
    if (buffer) {
        max = at_most(max, LIMIT_ELEMENTS);
        walk->words[arg->pos] = (uintptr_t)take(walk, max * sizeof(CK_ULONG));
    }
    walk->words[arg->len] = max;
    if (read_bool(r))
        walk->words[arg->count] = (uintptr_t)take_unwritten(walk, sizeof(CK_ULONG));
}

static void *get_fixed(struct walk *walk, size_t len)
{
    CK_ULONG got;
    void *bytes = get_bytes(walk, &got);
    if (bytes && got != len)
        reader_fail(walk->r, -EBADMSG);
    return bytes;
}

static void *get_string(struct walk *walk)
{
    CK_ULONG len;
    const char *bytes = get_bytes(walk, &len);
    char *text = bytes ? take(walk, len + 1) : NULL;
    if (text) {
        memcpy(text, bytes, len);
        text[len] = '\0';
    }
    return text;
}

static void *get_cell(struct walk *walk, size_t size)
{
    return read_bool(walk->r) ? take_unwritten(walk, size) : NULL;
}

static void *get_struct_cell(struct walk *walk, size_t size)
{
    void *cell = get_cell(walk, size);
    if (cell)
        memset(cell, 0, size);
    return cell;
}

static void *get_reserved(struct walk *walk)
{
    if (read_peek(walk->r) != WIRE_NIL)
        return read_bool(walk->r) ? take(walk, sizeof(CK_ULONG)) : NULL;
    read_nil(walk->r);
    return NULL;
}

static void get_request_arg(struct walk *walk, const struct arg *arg)
{
    uintptr_t *word = &walk->words[arg->pos];
    CK_ULONG len = 0;

    switch ((enum arg_kind)arg->kind) {
    case ARG_NUMBER:
    case ARG_SLOT:
    case ARG_SESSION:
    case ARG_OBJECT: *word = read_number(walk->r); break;
    case ARG_BOOL: *word = read_byte_bool(walk->r); break;
    case ARG_BYTES: *word = (uintptr_t)get_long_bytes(walk, &len), walk->words[arg->len] = len; break;
    case ARG_FIXED: *word = (uintptr_t)get_fixed(walk, arg->type); break;
    case ARG_STRING: *word = (uintptr_t)get_string(walk); break;
    case ARG_TEMPLATE: *word = (uintptr_t)get_template(walk, &len), walk->words[arg->len] = len; break;
    case ARG_TEMPLATE_IO: *word = (uintptr_t)get_template_query(walk, &len), walk->words[arg->len] = len; break;
    case ARG_MECHANISM: *word = (uintptr_t)get_mechanism(walk); break;
    case ARG_MESSAGE: *word = (uintptr_t)get_message(walk, &len), walk->words[arg->len] = len; break;
    case ARG_OUT_BYTES: get_buffer(walk, arg); break;
    case ARG_OUT_NUMBERS:
    case ARG_OUT_SLOTS: get_array(walk, arg); break;
    case ARG_OUT_EXACT: get_exact(walk, arg); break;
    case ARG_OUT_NUMBER:
    case ARG_OUT_SLOT:
    case ARG_OUT_SESSION:
    case ARG_OUT_OBJECT: *word = (uintptr_t)get_cell(walk, sizeof(CK_ULONG)); break;
    case ARG_OUT_OBJECTS: get_objects(walk, arg); break;
    case ARG_OUT_STRUCT: *word = (uintptr_t)get_struct_cell(walk, layout_of(walk, arg->type)->size); break;
    case ARG_RESERVED: *word = (uintptr_t)get_reserved(walk); break;
    case ARG_LOCAL: break;
    }
}

void get_request(struct walk *walk)
{
    const struct function *f = walk->function;
    size_t sent = read_array(walk->r), known = 0;
    memset(walk->words, 0, f->n_words * sizeof *walk->words);
    for (unsigned i = 0; i < f->n_args; i++)
        known += f->args[i].kind != ARG_LOCAL;
    if (sent != known)
        reader_fail(walk->r, -EBADMSG);
    for (unsigned i = 0; i < f->n_args && !walk->r->error; i++)
        get_request_arg(walk, &f->args[i]);
}
