/*
 * What a provider has changed in structs: said by the helper, written to the caller's memory by the shim (section 4.4 of the protocol).
 */
#include "walk_fields.h"

#include <errno.h>
#include <string.h>

/* ---- helper: what the provider changed ---- */

static const uint8_t *image_at(const struct walk *walk, const uint8_t *live)
{
    return walk->image + ((size_t)(live - walk->arena->base) - walk->image_from);
}

static bool changed(const struct walk *walk, const uint8_t *live, size_t size)
{
    return memcmp(live, image_at(walk, live), size) != 0;
}

static void put_changed_structs(struct walk *walk, const struct field *field, const uint8_t *live, const uint8_t *parent, uint8_t dir)
{
    const struct layout *layout = layout_of(walk, field->type);
    size_t count = arena_size(live) / layout->size;
    write_array(walk->w, count);
    for (size_t i = 0; i < count; i++)
        put_changes(walk, layout, live + i * layout->size, parent, dir);
}

/* `live` is where the provider was told to write: the pointer as it was before the call. */
static void put_changed_pointed(struct walk *walk, const struct field *field, const uint8_t *live, const uint8_t *base, uint8_t dir)
{
    if (field->kind == FIELD_STRUCTS)
        put_changed_structs(walk, field, live, base, dir);
    else if (!changed(walk, live, arena_size(live)))
        write_nil(walk->w);
    else if (field->kind == FIELD_BYTES)
        write_bin(walk->w, live, arena_size(live));
    else if (field->kind == FIELD_NUMBER_PTR || field->kind == FIELD_OBJECT_PTR)
        write_number(walk->w, number_at(live));
    else
        write_nil(walk->w);
}

static void put_changed_inline(struct walk *walk, const struct field *field, const uint8_t *at)
{
    size_t size = field->kind == FIELD_FIXED ? field->length : field->kind == FIELD_BYTE ? 1 : sizeof(CK_ULONG);
    if (!changed(walk, at, size))
        write_nil(walk->w);
    else if (field->kind == FIELD_FIXED)
        write_bin(walk->w, at, size);
    else if (field->kind == FIELD_BYTE)
        write_uint(walk->w, *at);
    else
        write_number(walk->w, number_at(at));
}

static void put_field_changes(struct walk *walk, const struct field *field, const uint8_t *live, uint8_t dir)
{
    const uint8_t *at = live + field->offset;
    const uint8_t *target = is_pointer(field) ? pointer_at(image_at(walk, at)) : NULL;
    if (field->kind == FIELD_STRUCT)
        put_changes(walk, layout_of(walk, field->type), at, live, dir);
    else if (!(dir & DIR_OUT) || (is_pointer(field) && !target))
        write_nil(walk->w);
    else if (is_pointer(field))
        put_changed_pointed(walk, field, target, live, dir);
    else
        put_changed_inline(walk, field, at);
}

void put_changes(struct walk *walk, const struct layout *layout, const uint8_t *live, const uint8_t *parent, uint8_t dir)
{
    (void)parent;
    write_array(walk->w, layout->n_fields);
    for (unsigned i = 0; i < layout->n_fields; i++)
        put_field_changes(walk, &layout->fields[i], live, effective(&layout->fields[i], dir));
}

/* ---- shim: into the caller's memory ---- */

static void get_changed_structs(struct walk *walk, const struct field *field, uint8_t *first, CK_ULONG count, const uint8_t *parent, uint8_t dir)
{
    const struct layout *layout = layout_of(walk, field->type);
    if (read_array(walk->r) != count)
        reader_fail(walk->r, -EBADMSG);
    for (CK_ULONG i = 0; i < count && !walk->r->error; i++)
        get_changes(walk, layout, first + i * layout->size, parent, dir);
}

static void get_changed_pointed(struct walk *walk, const struct field *field, uint8_t *base, CK_ULONG count, uint8_t dir)
{
    uint8_t *target = pointer_at(base + field->offset);
    if (!target)
        reader_fail(walk->r, -EBADMSG);
    else if (field->kind == FIELD_STRUCTS)
        get_changed_structs(walk, field, target, count, base, dir);
    else if (field->kind == FIELD_NUMBER_PTR || field->kind == FIELD_OBJECT_PTR)
        get_number(walk, field, target);
    else if (field->kind != FIELD_BYTES || read_bin(walk->r) != count)
        reader_fail(walk->r, -EBADMSG);
    else
        read_raw(walk->r, target, count);
}

static void get_field_changes(struct walk *walk, const struct field *field, uint8_t *base, CK_ULONG count, uint8_t dir)
{
    if (field->kind == FIELD_STRUCT)
        get_changes(walk, layout_of(walk, field->type), base + field->offset, base, dir);
    else if (read_peek(walk->r) == WIRE_NIL)
        read_nil(walk->r);
    else if (!(dir & DIR_OUT)) /* the caller may have it in memory that cannot be written */
        reader_fail(walk->r, -EBADMSG);
    else if (is_pointer(field))
        get_changed_pointed(walk, field, base, count, dir);
    else
        get_field(walk, field, base, dir);
}

/* How long everything is must be known before any length is overwritten. */
void get_changes(struct walk *walk, const struct layout *layout, uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    CK_ULONG counts[LIMIT_FIELDS];
    for (unsigned i = 0; i < layout->n_fields; i++) {
        const struct field *field = &layout->fields[i];
        counts[i] = 1;
        if (is_pointer(field) && pointer_at(base + field->offset) && field->unit != UNIT_NONE)
            field_extent(field, base, parent, &counts[i]);
    }
    if (read_array(walk->r) != layout->n_fields)
        reader_fail(walk->r, -EBADMSG);
    for (unsigned i = 0; i < layout->n_fields && !walk->r->error; i++)
        get_field_changes(walk, &layout->fields[i], base, counts[i], effective(&layout->fields[i], dir));
}
