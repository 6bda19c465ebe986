/*
 * The walker over signatures that are structs, as those of one-time passwords: pointers in them lead to other parts of the
 * same buffer. On the wire they are fields (4.5 of the protocol), and the shim builds them anew in the caller's buffer.
 *
 * Neither end believes a pointer or a length that leads out of the buffer.
 */
#include "walk.h"

#include <errno.h>
#include <string.h>

const struct layout *signature_of(const struct tables *tables, CK_MECHANISM_TYPE type)
{
    const struct mechanism *row = tables_mechanism(tables, type);
    return row && row->output ? &tables->layouts[row->output - 1] : NULL;
}

/* ---- in the request: which struct ---- */

void put_signature_name(struct walk *walk)
{
    write_str(walk->w, walk->signature->name, walk->signature->name_len);
}

void get_signature_name(struct walk *walk)
{
    char name[LIMIT_NAME + 1];
    read_text(walk->r, name, sizeof name);
    walk->signature = walk->r->error ? NULL : tables_layout(walk->tables, name);
    if (!walk->signature || !walk->signature->signature)
        reader_fail(walk->r, -EBADMSG);
}

/* ---- does it lie in its buffer? ---- */

struct area {
    uintptr_t from, to;
};

static bool has_inside(const struct area *area, const uint8_t *at, CK_ULONG count, size_t size)
{
    uintptr_t from = (uintptr_t)at;
    return from >= area->from && from <= area->to && count <= (area->to - from) / size;
}

static bool is_inside(const struct walk *walk, const struct layout *layout, const uint8_t *base, const struct area *area);

static bool are_inside(const struct walk *walk, const struct field *field, const uint8_t *first, CK_ULONG count,
                       const struct area *area)
{
    const struct layout *layout = layout_of(walk, field->type);
    if (count > LIMIT_ELEMENTS || !has_inside(area, first, count, layout->size))
        return false;
    for (CK_ULONG i = 0; i < count; i++)
        if (!is_inside(walk, layout, first + i * layout->size, area))
            return false;
    return true;
}

/* Only what a signature may have: pointers to structs, to bytes and to what a tag describes. */
static bool leads_inside(const struct walk *walk, const struct field *field, const uint8_t *base, const struct area *area)
{
    CK_ULONG count;
    const uint8_t *p;
    memcpy(&p, base + field->offset, sizeof p);
    if (!p)
        return true;
    if (field->kind == FIELD_STRUCTS)
        return field_extent(field, base, NULL, &count) && are_inside(walk, field, p, count, area);
    if (field->kind == FIELD_BYTES || field->kind == FIELD_UNION)
        return field_extent(field, base, NULL, &count) && has_inside(area, p, count, 1);
    return false;
}

static bool is_inside(const struct walk *walk, const struct layout *layout, const uint8_t *base, const struct area *area)
{
    for (unsigned i = 0; i < layout->n_fields; i++)
        if (layout->fields[i].kind >= FIELD_BYTES && !leads_inside(walk, &layout->fields[i], base, area))
            return false;
    return true;
}

bool signature_is_whole(const struct walk *walk, const void *buffer, CK_ULONG size)
{
    const struct area area = {(uintptr_t)buffer, (uintptr_t)buffer + size};
    return size >= walk->signature->size && is_inside(walk, walk->signature, buffer, &area);
}

/* ---- there and back ---- */

/* It has been found whole. */
void put_signature(struct walk *walk, const void *buffer)
{
    put_fields(walk, walk->signature, buffer, NULL, DIR_WHOLE);
}

/* What is free of the caller's buffer: structs and numbers come from its beginning, bytes from its end, none padded. */
struct carving {
    uint8_t *free, *end;
};

void *carve(struct walk *walk, size_t size)
{
    struct carving *c = walk->carving;
    if (!walk->r->error && size > (size_t)(c->end - c->free))
        reader_fail(walk->r, -EBADMSG);
    if (walk->r->error)
        return NULL;
    c->free += size;
    return c->free - size;
}

void *carve_from_end(struct walk *walk, size_t size)
{
    struct carving *c = walk->carving;
    if (!walk->r->error && size > (size_t)(c->end - c->free))
        reader_fail(walk->r, -EBADMSG);
    if (walk->r->error)
        return NULL;
    c->end -= size;
    return c->end;
}

/* Into the first `length` bytes of the caller's buffer, which has them. */
void get_signature(struct walk *walk, void *buffer, CK_ULONG length)
{
    size_t head = walk->signature->size;
    struct carving carving = {.free = (uint8_t *)buffer + head, .end = (uint8_t *)buffer + length};
    if (length < head) {
        reader_fail(walk->r, -EBADMSG);
        return;
    }
    memset(buffer, 0, head);
    walk->carving = &carving;
    get_fields(walk, walk->signature, buffer, DIR_WHOLE);
    walk->carving = NULL;
    if (!walk->r->error && !signature_is_whole(walk, buffer, length))
        reader_fail(walk->r, -EBADMSG);
}
