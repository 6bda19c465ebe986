/* The walker over a function's arguments. */
#include "walk.h"

#include <errno.h>
#include <string.h>

/* ---- small things all parts of the walker share ---- */

void refuse(struct walk *walk, CK_RV why)
{
    if (walk->refusal == CKR_OK)
        walk->refusal = why;
}

bool nest(struct walk *walk)
{
    return ++walk->nesting <= LIMIT_NESTING;
}

void *take(struct walk *walk, size_t size)
{
    void *memory = walk->r->error ? NULL : arena_alloc(walk->arena, size);
    if (!memory)
        reader_fail(walk->r, -ENOMEM);
    return memory;
}

void *take_unwritten(struct walk *walk, size_t size)
{
    void *memory = take(walk, size);
    if (memory)
        memset(memory, UNWRITTEN, size);
    return memory;
}

void write_number(struct writer *w, CK_ULONG value)
{
    if (value == CK_UNAVAILABLE_INFORMATION)
        write_minus_one(w);
    else
        write_uint(w, value);
}

CK_ULONG read_number(struct reader *r)
{
    uint64_t value = read_uint(r);
    if (value == UINT64_MAX)
        return CK_UNAVAILABLE_INFORMATION;
    if (value > CK_UNAVAILABLE_INFORMATION)
        reader_fail(r, -EBADMSG);
    return (CK_ULONG)value;
}

void write_byte_bool(struct writer *w, uint8_t value)
{
    if (value <= 1)
        write_bool(w, value);
    else
        write_uint(w, value);
}

uint8_t read_byte_bool(struct reader *r)
{
    if (read_peek(r) == WIRE_BOOL)
        return read_bool(r);
    uint64_t value = read_uint(r);
    if (value > UINT8_MAX)
        reader_fail(r, -EBADMSG);
    return (uint8_t)value;
}

void *get_bytes(struct walk *walk, CK_ULONG *ret_len)
{
    struct reader *r = walk->r;
    *ret_len = 0;
    if (read_peek(r) != WIRE_BIN) {
        *ret_len = read_number(r);
        return NULL;
    }
    size_t len = read_bin(r);
    void *bytes = take(walk, len);
    if (bytes)
        read_raw(r, bytes, len);
    *ret_len = len;
    return bytes;
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

static bool expect_array(struct reader *r, size_t count)
{
    if (read_array(r) != count)
        reader_fail(r, -EBADMSG);
    return r->error == 0;
}

static void *pointer(const struct walk *walk, unsigned index)
{
    return (void *)walk->words[index];
}

static bool carries_output(const struct arg *arg)
{
    return arg->kind == ARG_TEMPLATE_IO || arg->kind == ARG_MECHANISM ||
           (arg->kind >= ARG_OUT_BYTES && arg->kind <= ARG_OUT_STRUCT);
}

/* ---- shim: the caller's arguments onto the wire ---- */

static void put_bytes(struct walk *walk, const void *bytes, CK_ULONG len)
{
    if (!bytes)
        write_number(walk->w, len);
    else if (len > LIMIT_BYTES)
        refuse(walk, CKR_ARGUMENTS_BAD);
    else
        write_bin(walk->w, bytes, len);
}

static void put_object(struct walk *walk, const struct arg *arg, CK_ULONG client)
{
    CK_ULONG server = 0;
    /* A handle that is not ours is no handle: the provider says so in its own words, unless 0 has a meaning here. */
    if (!walk->names->object_to_wire(walk->names->context, client, &server) && arg->optional)
        refuse(walk, CKR_KEY_HANDLE_INVALID);
    write_number(walk->w, server);
}

static void put_capacity(struct walk *walk, const void *buffer, const CK_ULONG *length)
{
    write_array(walk->w, 2);
    write_bool(walk->w, buffer != NULL);
    if (length)
        write_number(walk->w, *length);
    else
        write_nil(walk->w);
}

static void put_request_arg(struct walk *walk, const struct arg *arg)
{
    struct writer *w = walk->w;
    void *p = pointer(walk, arg->pos);
    CK_ULONG word = walk->words[arg->pos];
    CK_ULONG len = walk->words[arg->len];

    switch ((enum arg_kind)arg->kind) {
    case ARG_NUMBER: write_number(w, word); break;
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
    case ARG_MESSAGE: refuse(walk, CKR_FUNCTION_NOT_SUPPORTED); break;
    case ARG_OUT_BYTES:
    case ARG_OUT_NUMBERS:
    case ARG_OUT_SLOTS: put_capacity(walk, p, pointer(walk, arg->len)); break;
    case ARG_OUT_EXACT: put_capacity(walk, p, &len); break;
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

/* The length a caller gave for its buffer, for the provider to change, and behind it the room there really is. */
struct room {
    CK_ULONG length, room;
};

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
static void get_capacity(struct walk *walk, const struct arg *arg, size_t size, CK_ULONG limit)
{
    struct reader *r = walk->r;
    if (!expect_array(r, 2))
        return;
    bool buffer = read_bool(r);
    struct room *cell = NULL;
    if (read_peek(r) == WIRE_NIL) {
        read_nil(r);
    } else if ((cell = take(walk, sizeof *cell))) {
        cell->length = at_most(read_number(r), limit);
        cell->room = cell->length;
    }
    walk->words[arg->len] = (uintptr_t)cell;
    if (buffer)
        walk->words[arg->pos] = (uintptr_t)take_buffer(walk, cell ? cell->room * size : 0);
}

static void get_exact(struct walk *walk, const struct arg *arg)
{
    if (!expect_array(walk->r, 2))
        return;
    bool buffer = read_bool(walk->r);
    CK_ULONG len = read_number(walk->r);
    walk->words[arg->len] = buffer ? at_most(len, LIMIT_BYTES) : len;
    if (buffer)
        walk->words[arg->pos] = (uintptr_t)take(walk, walk->words[arg->len]);
}

static void get_objects(struct walk *walk, const struct arg *arg)
{
    struct reader *r = walk->r;
    if (!expect_array(r, 3))
        return;
    bool buffer = read_bool(r);
    CK_ULONG max = read_number(r);
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
    case ARG_MESSAGE: reader_fail(walk->r, -EBADMSG); break;
    case ARG_OUT_BYTES: get_capacity(walk, arg, 1, LIMIT_BYTES); break;
    case ARG_OUT_NUMBERS:
    case ARG_OUT_SLOTS: get_capacity(walk, arg, sizeof(CK_ULONG), LIMIT_ELEMENTS); break;
    case ARG_OUT_EXACT: get_exact(walk, arg); break;
    case ARG_OUT_NUMBER:
    case ARG_OUT_SLOT:
    case ARG_OUT_SESSION:
    case ARG_OUT_OBJECT: *word = (uintptr_t)get_cell(walk, sizeof(CK_ULONG)); break;
    case ARG_OUT_OBJECTS: get_objects(walk, arg); break;
    case ARG_OUT_STRUCT: *word = (uintptr_t)get_struct_cell(walk, layouts[arg->type].size); break;
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

/* ---- helper: what the provider answered onto the wire ---- */

static bool is_written(const CK_ULONG *cell)
{
    CK_ULONG unwritten;
    memset(&unwritten, UNWRITTEN, sizeof unwritten);
    return cell && *cell != unwritten;
}

static void put_cell(struct walk *walk, const CK_ULONG *cell)
{
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
 * the shim does not believe it.
 */
static void put_filled(struct walk *walk, const struct arg *arg, CK_RV rv, size_t size)
{
    const void *buffer = pointer(walk, arg->pos);
    const struct room *cell = pointer(walk, arg->len);
    write_array(walk->w, 2);
    if (cell)
        write_number(walk->w, cell->length);
    else
        write_nil(walk->w);
    if (rv != CKR_OK || !buffer || !cell || cell->length > cell->room)
        write_nil(walk->w);
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
    if (objects && *cell <= walk->words[arg->len])
        put_numbers(walk->w, objects, *cell);
    else
        write_nil(walk->w);
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
        if (p && carries_template(rv))
            put_template_answer(walk, p, walk->words[arg->len]);
        else
            write_nil(w);
        break;
    case ARG_MECHANISM: put_mechanism_changes(walk); break;
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
    case ARG_OUT_OBJECT: put_cell(walk, p); break;
    case ARG_OUT_OBJECTS: put_objects(walk, arg, rv); break;
    case ARG_OUT_STRUCT:
        if (rv == CKR_OK && p)
            put_fields(walk, &layouts[arg->type], p, NULL, DIR_WHOLE);
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

void put_response(struct walk *walk, CK_RV rv)
{
    const struct function *f = walk->function;
    write_array(walk->w, 1 + count_outputs(f));
    write_number(walk->w, rv);
    for (unsigned i = 0; i < f->n_args; i++)
        if (carries_output(&f->args[i]))
            put_response_arg(walk, &f->args[i], rv);
}

/* ---- shim: the answer into the caller's memory ---- */

static bool skip_nil(struct reader *r)
{
    if (read_peek(r) != WIRE_NIL)
        return false;
    read_nil(r);
    return true;
}

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
    for (CK_ULONG i = 0; i < count && !walk->r->error; i++)
        list[i] = rename(walk, kind, read_number(walk->r));
}

/* `[length, data]` into a buffer that has room for `room`. Nothing is written past it, whatever the other side says. */
static void get_filled(struct walk *walk, enum arg_kind kind, void *buffer, CK_ULONG room, CK_ULONG *cell, CK_RV rv)
{
    struct reader *r = walk->r;
    if (!expect_array(r, 2))
        return;
    bool has_length = !skip_nil(r);
    CK_ULONG length = has_length ? read_number(r) : 0;
    if (has_length && !cell)
        reader_fail(r, -EBADMSG);
    if (skip_nil(r)) {
        if (rv == CKR_OK && buffer && cell && length > room)
            refuse(walk, CKR_DEVICE_ERROR);
        else if (has_length && cell)
            *cell = length;
        return;
    }
    if (!buffer || !has_length || length > room || r->error) {
        reader_fail(r, -EBADMSG);
        return;
    }
    if (kind != ARG_OUT_BYTES)
        get_number_list(walk, kind, buffer, length);
    else if (read_bin(r) != length)
        reader_fail(r, -EBADMSG);
    else
        read_raw(r, buffer, length);
    if (!r->error)
        *cell = length;
}

static void get_exactly(struct walk *walk, void *buffer, CK_ULONG len)
{
    if (skip_nil(walk->r))
        return;
    if (!buffer || read_bin(walk->r) != len)
        reader_fail(walk->r, -EBADMSG);
    else
        read_raw(walk->r, buffer, len);
}

static void get_written(struct walk *walk, enum arg_kind kind, CK_ULONG *cell)
{
    if (skip_nil(walk->r))
        return;
    CK_ULONG value = read_number(walk->r);
    if (!cell)
        reader_fail(walk->r, -EBADMSG);
    else if (!walk->r->error)
        *cell = rename(walk, kind, value);
}

static void get_struct(struct walk *walk, const struct layout *layout, uint8_t *base)
{
    if (skip_nil(walk->r))
        return;
    if (!base)
        reader_fail(walk->r, -EBADMSG);
    else
        get_fields(walk, layout, base, DIR_WHOLE);
}

static void get_response_arg(struct walk *walk, const struct arg *arg, CK_RV rv)
{
    void *p = pointer(walk, arg->pos);
    CK_ULONG *cell;

    switch ((enum arg_kind)arg->kind) {
    case ARG_TEMPLATE_IO:
        if (!skip_nil(walk->r))
            get_template_answer(walk, p, p ? walk->words[arg->len] : 0);
        break;
    case ARG_MECHANISM: get_mechanism_changes(walk, p); break;
    case ARG_OUT_BYTES:
    case ARG_OUT_NUMBERS:
    case ARG_OUT_SLOTS:
        cell = pointer(walk, arg->len);
        get_filled(walk, arg->kind, p, cell ? *cell : 0, cell, rv);
        break;
    case ARG_OUT_EXACT: get_exactly(walk, p, walk->words[arg->len]); break;
    case ARG_OUT_NUMBER:
    case ARG_OUT_SLOT:
    case ARG_OUT_SESSION:
    case ARG_OUT_OBJECT: get_written(walk, arg->kind, p); break;
    case ARG_OUT_OBJECTS: get_filled(walk, arg->kind, p, walk->words[arg->len], pointer(walk, arg->count), rv); break;
    case ARG_OUT_STRUCT: get_struct(walk, &layouts[arg->type], p); break;
    default: break;
    }
}

CK_RV get_response(struct walk *walk)
{
    const struct function *f = walk->function;
    if (read_array(walk->r) != 1 + count_outputs(f))
        reader_fail(walk->r, -EBADMSG);
    CK_RV rv = read_number(walk->r);
    for (unsigned i = 0; i < f->n_args && !walk->r->error; i++)
        if (carries_output(&f->args[i]))
            get_response_arg(walk, &f->args[i], rv);
    return walk->refusal == CKR_OK ? rv : walk->refusal;
}
