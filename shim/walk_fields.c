/*
 * The walker over structs: the fields of mechanism parameters and of the fixed structs the standard fills
 * (section 4.5 of the protocol).
 */
#include "walk_fields.h"

#include <errno.h>
#include <string.h>

enum {
    SURE = 8, /* so many bytes still UNWRITTEN are no coincidence: shorter outputs are sent, and compared with that */
};

/* Stands for a buffer that is output only, from get_fields until settle_fields knows its length. */
static uint8_t output_only[1];

static void set_pointer(uint8_t *at, const void *value)
{
    memcpy(at, &value, sizeof value);
}

static CK_ULONG bits_to_bytes(CK_ULONG bits)
{
    return bits / 8 + (bits % 8 != 0);
}

/* NSS counts the nonce of the Poly1305 structs in bytes (8, 12, 24), the standard in bits (64, 96, 192). */
static CK_ULONG bytes_or_bits(CK_ULONG value)
{
    return value <= 24 ? value : bits_to_bytes(value);
}

/* How many bytes, or elements of FIELD_STRUCTS and FIELD_TEMPLATE, lie behind a pointer. False if nothing says so. */
bool field_extent(const struct field *field, const uint8_t *base, const uint8_t *parent, CK_ULONG *ret_extent)
{
    const uint8_t *cell;
    switch ((enum unit)field->unit) {
    case UNIT_FIXED: *ret_extent = field->length; return true;
    case UNIT_FIELD: *ret_extent = number_at(base + field->length); return true;
    case UNIT_BITS: *ret_extent = bits_to_bytes(number_at(base + field->length)); return true;
    case UNIT_BYTES_OR_BITS: *ret_extent = bytes_or_bits(number_at(base + field->length)); return true;
    case UNIT_DEREF:
        cell = pointer_at(base + field->length);
        *ret_extent = cell ? number_at(cell) : 0;
        return true;
    case UNIT_PARENT_BITS:
        *ret_extent = parent ? bits_to_bytes(number_at(parent + field->length)) : 0;
        return parent != NULL;
    case UNIT_NUL: *ret_extent = strlen(pointer_at(base + field->offset)) + 1; return true;
    default: return false;
    }
}

/* What a provider is to fill is memory of the helper's, and that many bytes of it nobody has sent. */
static CK_ULONG most(uint8_t dir)
{
    return dir == DIR_OUT ? LIMIT_OUTPUT : LIMIT_BYTES;
}

static const struct variant *find_variant(const struct walk *walk, const struct field *field, const uint8_t *base)
{
    const struct tagged_union *u = &walk->tables->unions[field->type];
    CK_ULONG tag = number_at(base + u->tag);
    for (unsigned i = 0; i < u->n_variants; i++)
        if (u->variants[i].tag == tag)
            return &u->variants[i];
    return NULL;
}

/* ---- onto the wire ---- */

static void put_object(struct walk *walk, CK_ULONG handle)
{
    const struct names *n = walk->names;
    if (n && !n->object_to_wire(n->context, handle, &handle))
        refuse(walk, CKR_MECHANISM_PARAM_INVALID, "an object in the parameter is of another life");
    write_number(walk->w, handle);
}

static void put_structs(struct walk *walk, const struct field *field, const uint8_t *first, CK_ULONG count,
                        const uint8_t *parent, uint8_t dir)
{
    const struct layout *layout = layout_of(walk, field->type);
    if (count > LIMIT_ELEMENTS || !nest(walk)) {
        refuse(walk, CKR_MECHANISM_PARAM_INVALID, "too many structs in the parameter, or too deep");
        return;
    }
    write_array(walk->w, count);
    for (CK_ULONG i = 0; i < count && walk->refusal == CKR_OK; i++)
        put_fields(walk, layout, first + i * layout->size, parent, dir);
    walk->nesting--;
}

static void put_union(struct walk *walk, const struct field *field, const uint8_t *base, const uint8_t *value, CK_ULONG len)
{
    const struct variant *variant = find_variant(walk, field, base);
    enum value_kind kind = variant ? variant->kind : VALUE_BYTES;
    if (kind == VALUE_STRUCT && len == layout_of(walk, variant->type)->size)
        put_fields(walk, layout_of(walk, variant->type), value, base, DIR_IN);
    else if (kind == VALUE_STRUCT || has_odd_length(walk, kind, len))
        refuse(walk, CKR_MECHANISM_PARAM_INVALID, "a value in the parameter is not what its tag says");
    else if (kind == VALUE_NUMBER && len == sizeof(CK_ULONG))
        put_number(walk, number_at(value), CKR_MECHANISM_PARAM_INVALID);
    else if (kind == VALUE_OBJECT && len == sizeof(CK_ULONG))
        put_object(walk, number_at(value));
    else if (kind == VALUE_BOOL && len == 1 && *value <= 1)
        write_bool(walk->w, *value);
    else
        write_bin(walk->w, value, len);
}

/* A pointer that is not NULL. */
static void put_pointed(struct walk *walk, const struct field *field, const uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    const uint8_t *p = pointer_at(base + field->offset);
    bool leaf = field->kind == FIELD_BYTES || field->kind == FIELD_NUMBER_PTR || field->kind == FIELD_OBJECT_PTR;
    CK_ULONG count = 1;
    if (field->unit != UNIT_NONE && (!field_extent(field, base, parent, &count) || count > most(dir))) {
        refuse(walk, CKR_MECHANISM_PARAM_INVALID, "a length in the parameter is over the limits, or said nowhere");
        return;
    }
    if (leaf && dir == DIR_OUT && (field->kind != FIELD_BYTES || count >= SURE)) {
        write_bool(walk->w, true);
        return;
    }
    switch ((enum field_kind)field->kind) {
    case FIELD_BYTES: write_bin(walk->w, p, count); break;
    case FIELD_NUMBER_PTR: put_number(walk, number_at(p), CKR_MECHANISM_PARAM_INVALID); break;
    case FIELD_OBJECT_PTR: put_object(walk, number_at(p)); break;
    case FIELD_STRUCTS: put_structs(walk, field, p, count, base, dir); break;
    case FIELD_TEMPLATE: put_template(walk, (const void *)p, count); break;
    case FIELD_MECHANISM: put_mechanism(walk, (const void *)p); break;
    case FIELD_UNION: put_union(walk, field, base, p, count); break;
    default: break;
    }
}

static bool is_word(const struct field *field)
{
    return field->kind == FIELD_NUMBER || field->kind == FIELD_OBJECT || field->kind == FIELD_SLOT;
}

static void put_field(struct walk *walk, const struct field *field, const uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    const uint8_t *at = base + field->offset;
    if (is_pointer(field) ? !pointer_at(at) : dir == DIR_OUT && is_word(field)) {
        write_nil(walk->w);
        return;
    }
    switch ((enum field_kind)field->kind) {
    case FIELD_NUMBER:
    case FIELD_SLOT: put_number(walk, number_at(at), CKR_MECHANISM_PARAM_INVALID); break;
    case FIELD_OBJECT: put_object(walk, number_at(at)); break;
    case FIELD_BYTE: write_uint(walk->w, *at); break;
    case FIELD_FIXED: write_bin(walk->w, at, field->length); break;
    case FIELD_STRUCT: put_fields(walk, layout_of(walk, field->type), at, base, dir); break;
    default: put_pointed(walk, field, base, parent, dir);
    }
}

/* The tagged value whose length a number is; NULL if it is none. */
static const struct field *measured_by(const struct layout *layout, const struct field *number)
{
    for (unsigned i = 0; i < layout->n_fields; i++) {
        const struct field *field = &layout->fields[i];
        if (field->kind == FIELD_UNION && field->unit == UNIT_FIELD && field->length == number->offset)
            return field;
    }
    return NULL;
}

/* In the helper, of what the provider wrote: the length of a tagged value in the caller's bytes. */
static bool put_length(struct walk *walk, const struct layout *layout, const struct field *number, const uint8_t *base)
{
    const struct field *value = number->kind == FIELD_NUMBER ? measured_by(layout, number) : NULL;
    const struct variant *variant = value ? find_variant(walk, value, base) : NULL;
    if (variant)
        write_wide(walk->w, length_there(walk, variant->kind, number_at(base + number->offset)));
    return variant != NULL;
}

void put_fields(struct walk *walk, const struct layout *layout, const uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    bool foreign = walk->theirs && !walk->names;
    write_array(walk->w, layout->n_fields);
    for (unsigned i = 0; i < layout->n_fields && walk->refusal == CKR_OK; i++)
        if (!foreign || !put_length(walk, layout, &layout->fields[i], base))
            put_field(walk, &layout->fields[i], base, parent, effective(&layout->fields[i], dir));
}

/* ---- from the wire ---- */

static CK_ULONG get_name(const struct walk *walk, const struct field *field, CK_ULONG value)
{
    const struct names *n = walk->names;
    if (n && field->kind == FIELD_SLOT)
        return n->slot_from_wire(n->context, value);
    if (n && (field->kind == FIELD_OBJECT || field->kind == FIELD_OBJECT_PTR))
        return n->object_from_wire(n->context, value);
    return value;
}

void get_number(struct walk *walk, const struct field *field, uint8_t *at)
{
    CK_ULONG value = get_name(walk, field, read_number(walk->r));
    if (!walk->r->error)
        memcpy(at, &value, sizeof value);
}

static void get_byte(struct walk *walk, uint8_t *at)
{
    uint64_t value = read_uint(walk->r);
    if (value > UINT8_MAX)
        reader_fail(walk->r, -EBADMSG);
    else if (!walk->r->error)
        *at = (uint8_t)value;
}

static void get_inline(struct walk *walk, const struct field *field, uint8_t *at)
{
    if (read_bin(walk->r) != field->length)
        reader_fail(walk->r, -EBADMSG);
    else
        read_raw(walk->r, at, field->length);
}

static void *get_structs(struct walk *walk, const struct field *field, uint8_t dir)
{
    const struct layout *layout = layout_of(walk, field->type);
    size_t count = read_array(walk->r);
    if (!nest(walk))
        reader_fail(walk->r, -EMSGSIZE);
    uint8_t *first = take(walk, count * layout->size);
    for (size_t i = 0; first && i < count && !walk->r->error; i++) {
        memset(first + i * layout->size, 0, layout->size);
        get_fields(walk, layout, first + i * layout->size, dir);
    }
    walk->nesting--;
    return first;
}

static void *get_number_cell(struct walk *walk)
{
    CK_ULONG value, *cell = take(walk, sizeof value);
    if (!cell)
        return NULL;
    value = read_number(walk->r);
    memcpy(cell, &value, sizeof value); /* in a signature it need not be aligned */
    return cell;
}

static void *get_bool_cell(struct walk *walk)
{
    uint8_t *cell = take(walk, sizeof *cell);
    if (cell)
        *cell = read_bool(walk->r);
    return cell;
}

/* The tag stands before the pointer in every struct that has one, so it is known. */
static void *get_union(struct walk *walk, const struct field *field, const uint8_t *base)
{
    const struct variant *variant = find_variant(walk, field, base);
    CK_ULONG len;
    switch (read_peek(walk->r)) {
    case WIRE_BIN: return get_bytes(walk, &len);
    case WIRE_BOOL: return get_bool_cell(walk);
    case WIRE_UINT:
    case WIRE_INT: return get_number_cell(walk);
    default: break;
    }
    uint8_t *value = variant && variant->kind == VALUE_STRUCT ? take(walk, layout_of(walk, variant->type)->size) : NULL;
    if (!value) {
        reader_fail(walk->r, -EBADMSG);
        return NULL;
    }
    memset(value, 0, layout_of(walk, variant->type)->size);
    get_fields(walk, layout_of(walk, variant->type), value, DIR_IN);
    return value;
}

static void *get_pointed(struct walk *walk, const struct field *field, const uint8_t *base, uint8_t dir)
{
    struct reader *r = walk->r;
    CK_ULONG len;
    if (read_nil_if(r))
        return NULL;
    if (!walk->arena && !walk->carving) { /* a fixed struct has no pointers */
        reader_fail(r, -EBADMSG);
        return NULL;
    }
    if (dir == DIR_OUT && field->kind != FIELD_STRUCTS && read_peek(r) == WIRE_BOOL)
        return read_bool(r) ? output_only : NULL;
    switch ((enum field_kind)field->kind) {
    case FIELD_BYTES: return get_bytes(walk, &len);
    case FIELD_NUMBER_PTR:
    case FIELD_OBJECT_PTR: return get_number_cell(walk);
    case FIELD_STRUCTS: return get_structs(walk, field, dir);
    case FIELD_TEMPLATE: return get_template(walk, &len);
    case FIELD_MECHANISM: return get_mechanism(walk);
    case FIELD_UNION: return get_union(walk, field, base);
    default: return NULL;
    }
}

void get_field(struct walk *walk, const struct field *field, uint8_t *base, uint8_t dir)
{
    uint8_t *at = base + field->offset;
    if (is_word(field) && dir == DIR_OUT && read_nil_if(walk->r)) {
        memset(at, UNWRITTEN, sizeof(CK_ULONG));
        return;
    }
    switch ((enum field_kind)field->kind) {
    case FIELD_NUMBER:
    case FIELD_OBJECT:
    case FIELD_SLOT: get_number(walk, field, at); break;
    case FIELD_BYTE: get_byte(walk, at); break;
    case FIELD_FIXED: get_inline(walk, field, at); break;
    case FIELD_STRUCT: get_fields(walk, layout_of(walk, field->type), at, dir); break;
    default: set_pointer(at, get_pointed(walk, field, base, dir));
    }
}

void get_fields(struct walk *walk, const struct layout *layout, uint8_t *base, uint8_t dir)
{
    if (read_array(walk->r) != layout->n_fields)
        reader_fail(walk->r, -EBADMSG);
    for (unsigned i = 0; i < layout->n_fields && !walk->r->error; i++)
        get_field(walk, &layout->fields[i], base, effective(&layout->fields[i], dir));
}

/* ---- helper: after get_fields, every pointer must lead to as much memory as the struct says ---- */

static size_t element_size(const struct walk *walk, const struct field *field)
{
    switch ((enum field_kind)field->kind) {
    case FIELD_STRUCTS: return layout_of(walk, field->type)->size;
    case FIELD_TEMPLATE: return sizeof(CK_ATTRIBUTE);
    case FIELD_NUMBER_PTR:
    case FIELD_OBJECT_PTR: return sizeof(CK_ULONG);
    case FIELD_MECHANISM: return sizeof(CK_MECHANISM);
    default: return 1;
    }
}

static bool ends_in_nul(const uint8_t *bytes)
{
    size_t size = arena_size(bytes);
    return size > 0 && memchr(bytes, '\0', size) == bytes + size - 1;
}

/* What a variant's value must measure, where that is not for its own length field to say. */
static bool fits_variant(const struct walk *walk, const struct field *field, const uint8_t *base, size_t size)
{
    const struct variant *variant = find_variant(walk, field, base);
    return !variant || variant->kind != VALUE_STRUCT || size == layout_of(walk, variant->type)->size;
}

/* What the caller measured in its own bytes: what came as a number or as fields measures here what it measures here. */
static void settle_variant(const struct walk *walk, const struct field *field, uint8_t *base, const uint8_t *value)
{
    const struct variant *variant = find_variant(walk, field, base);
    CK_ULONG size = arena_size(value);
    bool number = variant && (variant->kind == VALUE_NUMBER || variant->kind == VALUE_OBJECT) && size == sizeof size;
    if (number || (variant && variant->kind == VALUE_STRUCT))
        memcpy(base + field->length, &size, sizeof size);
}

static void settle_pointer(struct walk *walk, const struct field *field, uint8_t *base, const uint8_t *parent)
{
    uint8_t *p = pointer_at(base + field->offset);
    CK_ULONG count = 1;
    if (walk->theirs && field->kind == FIELD_UNION && p != output_only && field->unit == UNIT_FIELD)
        settle_variant(walk, field, base, p);
    bool known = p != output_only && field->unit == UNIT_NUL ? ends_in_nul(p) :
                 field->unit == UNIT_NONE || field_extent(field, base, parent, &count);
    if (!known || count > most(p == output_only ? DIR_OUT : DIR_IN)) {
        reader_fail(walk->r, -EBADMSG);
    } else if (p == output_only) {
        set_pointer(base + field->offset, take_unwritten(walk, count * element_size(walk, field)));
    } else if (field->unit != UNIT_NUL && arena_size(p) != count * element_size(walk, field)) {
        reader_fail(walk->r, -EBADMSG);
    } else if (field->kind == FIELD_UNION && !fits_variant(walk, field, base, count)) {
        reader_fail(walk->r, -EBADMSG);
    } else if (field->kind == FIELD_STRUCTS) {
        for (CK_ULONG i = 0; i < count && !walk->r->error; i++)
            settle_fields(walk, layout_of(walk, field->type), p + i * layout_of(walk, field->type)->size, base, DIR_IN);
    }
}

/* Cells first: the length of another field may stand behind them. */
static bool settles_first(const struct field *field)
{
    return field->kind == FIELD_NUMBER_PTR || field->kind == FIELD_OBJECT_PTR;
}

void settle_fields(struct walk *walk, const struct layout *layout, uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    for (int first = 1; first >= 0; first--)
        for (unsigned i = 0; i < layout->n_fields && !walk->r->error; i++) {
            const struct field *field = &layout->fields[i];
            if (settles_first(field) != (first == 1))
                continue;
            if (field->kind == FIELD_STRUCT)
                settle_fields(walk, layout_of(walk, field->type), base + field->offset, base, dir);
            else if (is_pointer(field) && pointer_at(base + field->offset))
                settle_pointer(walk, field, base, parent);
        }
}
