/* Structs as they come in rows, laid out for this width of CK_ULONG. */
#include <errno.h>
#include <string.h>

#include "unpack.h"

enum {
    NOT_FOUND = UINT16_MAX,
    AT_HOLDER = UINT16_MAX, /* for now in `type`: `length` is still the place of a field in the struct that holds it */
    LATE = 4, /* a direction that is "in", and one thing more */
    LEAST_UNION = 4,        /* bytes of a union, packed */
};

static const char *const kinds[] = {
    [FIELD_NUMBER] = "ulong", [FIELD_OBJECT] = "object", [FIELD_BYTE] = "byte", [FIELD_FIXED] = "fixed",
    [FIELD_STRUCT] = "struct", [FIELD_BYTES] = "bytes", [FIELD_STRUCTS] = "structs", [FIELD_NUMBER_PTR] = "ulong*",
    [FIELD_OBJECT_PTR] = "object*", [FIELD_TEMPLATE] = "template", [FIELD_MECHANISM] = "mechanism", [FIELD_UNION] = "union",
};
static const char *const units[] = {
    [UNIT_FIXED] = "fixed", [UNIT_FIELD] = "field", [UNIT_BITS] = "bits", [UNIT_BYTES_OR_BITS] = "bytes|bits",
    [UNIT_DEREF] = "deref", [UNIT_PARENT_BITS] = "parent bits", [UNIT_NUL] = "nul", [UNIT_UNKNOWN] = "unknown",
};
static const char *const directions[] = {[DIR_IN] = "in", [DIR_OUT] = "out", [DIR_INOUT] = "inout", [LATE] = "late"};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- fields ---- */

static uint16_t find_struct(const struct unpacking *d, const char *name)
{
    for (unsigned i = 0; i < d->layout_count; i++)
        if (!strcmp(d->layouts[i].name, name))
            return (uint16_t)i;
    return NOT_FOUND;
}

uint16_t unpack_struct(struct unpacking *d)
{
    char name[LIMIT_NAME + 1];
    read_text(&d->r, name, sizeof name);
    uint16_t found = unpack_failed(d) ? NOT_FOUND : find_struct(d, name);
    if (found == NOT_FOUND)
        unpack_fail(d);
    return unpack_failed(d) ? 0 : found;
}

/* `[unit]` or `[unit, n]`: a number, or for now the place of a field. */
static void take_length(struct unpacking *d, struct field *field)
{
    size_t words = read_array(&d->r);
    field->unit = unpack_word(d, units, COUNT(units));
    bool has_number = field->unit != UNIT_NUL && field->unit != UNIT_UNKNOWN;
    if (words != 1U + has_number)
        unpack_fail(d);
    if (has_number)
        field->length = unpack_at_most(d, field->unit == UNIT_FIXED ? LIMIT_STRUCT * 16 - 1 : LIMIT_FIELDS - 1);
}

static void take_variant(struct unpacking *d, struct variant *variant)
{
    if (!read_array_of(&d->r, 3))
        return;
    variant->tag = unpack_value(d);
    variant->kind = unpack_word(d, unpack_kinds_of_value, VALUE_NONE);
    if (variant->kind == VALUE_NUMBERS || variant->kind == VALUE_TEMPLATE)
        unpack_fail(d);
    if (variant->kind == VALUE_STRUCT)
        variant->type = unpack_struct(d);
    else
        read_nil(&d->r);
}

/* The place of the tag, above the pointer, and what it may say. Returns the union's index. */
static uint16_t take_union(struct unpacking *d, const struct field *fields, unsigned above)
{
    if (!read_array_of(&d->r, 2))
        return 0;
    unsigned tag = unpack_at_most(d, LIMIT_FIELDS - 1);
    size_t count = unpack_count(d);
    if (unpack_failed(d) || tag >= above || fields[tag].kind != FIELD_NUMBER || count > UINT8_MAX || d->union_count >= UINT16_MAX) {
        unpack_fail(d);
        return 0;
    }
    struct variant *variants = unpack_memory(d, count, sizeof *variants);
    for (size_t i = 0; i < count && !unpack_failed(d); i++)
        take_variant(d, &variants[i]);
    d->unions[d->union_count] = (struct tagged_union){.tag = fields[tag].offset, .n_variants = (uint8_t)count, .variants = variants};
    return (uint16_t)d->union_count++;
}

static bool is_pointer(const struct field *field)
{
    return field->kind >= FIELD_BYTES;
}

static bool is_one(const struct field *field)
{
    return field->kind == FIELD_NUMBER_PTR || field->kind == FIELD_OBJECT_PTR || field->kind == FIELD_MECHANISM;
}

/* What the walker can make of a pointer: one number or mechanism, text only of bytes, no outputs but these. */
static bool is_sound(const struct field *field)
{
    bool input_only = field->kind == FIELD_TEMPLATE || field->kind == FIELD_MECHANISM || field->kind == FIELD_UNION;
    if (input_only && field->dir != DIR_IN)
        return false;
    if (is_one(field))
        return field->unit == UNIT_UNKNOWN || (field->unit == UNIT_FIXED && field->length == 1);
    if (field->kind != FIELD_BYTES && (field->unit == UNIT_NUL || field->unit == UNIT_PARENT_BITS))
        return false;
    return field->unit != UNIT_FIXED || field->length > 0;
}

/* `[kind, direction, length, type]` */
static void take_field(struct unpacking *d, struct field *fields, unsigned place)
{
    struct field *field = &fields[place];
    if (!read_array_of(&d->r, 4))
        return;
    field->kind = unpack_word(d, kinds, COUNT(kinds));
    field->dir = unpack_word(d, directions, COUNT(directions));
    field->late = field->dir == LATE;
    if (field->late)
        field->dir = DIR_IN;
    if (field->kind == FIELD_FIXED)
        field->length = unpack_at_most(d, LIMIT_STRUCT);
    else if (is_pointer(field))
        take_length(d, field);
    else
        read_nil(&d->r);
    if (field->kind == FIELD_STRUCT || field->kind == FIELD_STRUCTS)
        field->type = unpack_struct(d);
    else if (field->kind == FIELD_UNION)
        field->type = take_union(d, fields, place);
    else
        read_nil(&d->r);
    if (field->unit == UNIT_PARENT_BITS)
        field->type = AT_HOLDER;
    bool empty = field->kind == FIELD_FIXED && field->length == 0;
    if ((is_pointer(field) && !is_sound(field)) || empty || (field->late && field->kind != FIELD_BYTES))
        unpack_fail(d);
}

static size_t round_up(size_t at, size_t align)
{
    return (at + align - 1) / align * align;
}

/* Natural alignment, as of every struct of the standard on Unix. */
static void lay_out(struct unpacking *d, struct layout *layout, struct field *fields)
{
    size_t at = 0;
    layout->align = 1;
    for (unsigned i = 0; i < layout->n_fields && !unpack_failed(d); i++) {
        struct field *field = &fields[i];
        const struct layout *inner = &d->layouts[field->kind == FIELD_STRUCT ? field->type : 0];
        bool is_bytes = field->kind == FIELD_BYTE || field->kind == FIELD_FIXED;
        size_t align = field->kind == FIELD_STRUCT ? inner->align : is_bytes ? 1 : sizeof(CK_ULONG);
        size_t size = field->kind == FIELD_STRUCT ? inner->size : field->kind == FIELD_FIXED ? field->length : align;
        at = round_up(at, align);
        field->offset = (uint16_t)at;
        at += size;
        layout->align = layout->align < align ? (uint8_t)align : layout->align;
        if (at > LIMIT_STRUCT)
            unpack_fail(d);
    }
    layout->size = (uint16_t)round_up(at, layout->align);
}

/* From the place of the field that says a length to its offset. */
static void resolve_length(struct unpacking *d, const struct layout *layout, struct field *field)
{
    if (!is_pointer(field) || field->unit == UNIT_FIXED || field->unit >= UNIT_PARENT_BITS)
        return;
    const struct field *says = field->length < layout->n_fields ? &layout->fields[field->length] : NULL;
    if (!says || says->kind != (field->unit == UNIT_DEREF ? FIELD_NUMBER_PTR : FIELD_NUMBER))
        unpack_fail(d);
    else
        field->length = says->offset;
}

static struct field *own_fields(const struct layout *layout)
{
    return (struct field *)(uintptr_t)layout->fields;
}

/* What the first struct that holds another makes known: where the lengths in it stand. */
static void resolve_held(struct unpacking *d, const struct layout *holder, const struct layout *held)
{
    for (unsigned i = 0; i < held->n_fields; i++) {
        struct field *field = &own_fields(held)[i];
        if (field->unit != UNIT_PARENT_BITS || field->type != AT_HOLDER)
            continue;
        const struct field *says = field->length < holder->n_fields ? &holder->fields[field->length] : NULL;
        if (!says || says->kind != FIELD_NUMBER)
            unpack_fail(d);
        else
            field->length = says->offset, field->type = 0;
    }
}

/* ---- a struct within a struct: by value, by pointer, by tag ---- */

typedef void visitor(struct unpacking *d, const struct layout *holder, uint16_t held);

static void visit_held(struct unpacking *d, const struct layout *holder, visitor *visit)
{
    for (unsigned i = 0; i < holder->n_fields; i++) {
        const struct field *field = &holder->fields[i];
        if (field->kind == FIELD_STRUCT || field->kind == FIELD_STRUCTS)
            visit(d, holder, field->type);
        const struct tagged_union *u = field->kind == FIELD_UNION ? &d->unions[field->type] : NULL;
        for (unsigned k = 0; u && k < u->n_variants; k++)
            if (u->variants[k].kind == VALUE_STRUCT)
                visit(d, holder, u->variants[k].type);
    }
}

static void visit_lengths(struct unpacking *d, const struct layout *holder, uint16_t held)
{
    if (held >= standard_tables.layout_count)
        resolve_held(d, holder, &d->layouts[held]);
}

/* Everything that recurses over structs goes no deeper. A standard struct holds no vendor's, and is shallow. */
static void visit_depth(struct unpacking *d, const struct layout *holder, uint16_t held)
{
    enum { STANDARD_DEPTH = 3 };
    uint8_t *depth = &d->depths[(unsigned)(holder - d->layouts) - standard_tables.layout_count];
    uint8_t inner = held < standard_tables.layout_count ? STANDARD_DEPTH : d->depths[held - standard_tables.layout_count];
    if (*depth < inner + 1)
        *depth = (uint8_t)(inner + 1);
    if (*depth > LIMIT_NESTING)
        reader_fail(&d->r, -EMSGSIZE);
}

static bool has_number_at(const struct layout *layout, size_t offset)
{
    for (unsigned i = 0; i < layout->n_fields; i++)
        if (layout->fields[i].kind == FIELD_NUMBER && layout->fields[i].offset == offset)
            return true;
    return false;
}

/* A length in the enclosing struct is at one and the same place in each that may enclose. */
static void visit_parents(struct unpacking *d, const struct layout *holder, uint16_t held)
{
    const struct layout *inner = &d->layouts[held];
    for (unsigned i = 0; i < inner->n_fields; i++) {
        const struct field *field = &inner->fields[i];
        if (field->unit == UNIT_PARENT_BITS && !has_number_at(holder, field->length))
            unpack_fail(d);
    }
}

void unpack_check_parents(struct unpacking *d)
{
    for (unsigned i = 0; i < d->layout_count && !unpack_failed(d); i++) {
        visit_held(d, &d->layouts[i], visit_parents);
        for (unsigned k = 0; k < d->layouts[i].n_fields; k++)
            if (d->layouts[i].fields[k].unit == UNIT_PARENT_BITS && d->layouts[i].fields[k].type == AT_HOLDER)
                unpack_fail(d); /* nothing holds it */
    }
}

/* `[name, [field…]]` */
static void take_layout(struct unpacking *d)
{
    char *name = unpack_memory(d, LIMIT_NAME + 1, 1);
    if (!name || !read_array_of(&d->r, 2))
        return;
    read_text(&d->r, name, LIMIT_NAME + 1);
    size_t count = unpack_count(d);
    if (unpack_failed(d) || !name[0] || find_struct(d, name) != NOT_FOUND || count == 0 || count > LIMIT_FIELDS) {
        unpack_fail(d);
        return;
    }
    struct field *fields = unpack_memory(d, count, sizeof *fields);
    for (unsigned i = 0; i < count && !unpack_failed(d); i++)
        take_field(d, fields, i);
    if (unpack_failed(d))
        return;
    struct layout *layout = &d->layouts[d->layout_count];
    *layout = (struct layout){.name = name, .name_len = (uint8_t)strlen(name), .n_fields = (uint8_t)count, .fields = fields};
    lay_out(d, layout, fields);
    for (unsigned i = 0; i < count && !unpack_failed(d); i++)
        resolve_length(d, layout, &fields[i]);
    visit_held(d, layout, visit_depth);
    visit_held(d, layout, visit_lengths);
    d->layout_count++;
}

/* Unions, too, are in a row: there is one at most for each field. */
void unpack_structs(struct unpacking *d)
{
    const struct tables *t = &standard_tables;
    size_t count = unpack_count(d), rest = d->r.end - d->r.pos;
    if (t->layout_count + count >= NOT_FOUND)
        unpack_fail(d);
    d->layouts = unpack_memory(d, t->layout_count + count, sizeof *d->layouts);
    d->unions = unpack_memory(d, t->union_count + rest / LEAST_UNION, sizeof *d->unions);
    d->depths = unpack_memory(d, count, 1);
    if (unpack_failed(d))
        return;
    memcpy(d->layouts, t->layouts, t->layout_count * sizeof *t->layouts);
    memcpy(d->unions, t->unions, t->union_count * sizeof *t->unions);
    d->layout_count = t->layout_count;
    d->union_count = t->union_count;
    for (size_t i = 0; i < count && !unpack_failed(d); i++)
        take_layout(d);
}

/* ---- lengths of structs that are known ---- */

static struct field *copy_fields(struct unpacking *d, struct layout *layout)
{
    struct field *fields = unpack_memory(d, layout->n_fields, sizeof *fields);
    if (!fields)
        return NULL;
    memcpy(fields, layout->fields, layout->n_fields * sizeof *fields);
    layout->fields = fields;
    return fields;
}

/* `[struct, place of the field, length]` */
void unpack_completion(struct unpacking *d)
{
    if (!read_array_of(&d->r, 3))
        return;
    struct layout *layout = &d->layouts[unpack_struct(d)];
    unsigned place = unpack_at_most(d, LIMIT_FIELDS - 1);
    if (unpack_failed(d) || place >= layout->n_fields || layout->fields[place].unit != UNIT_UNKNOWN) {
        unpack_fail(d);
        return;
    }
    struct field *fields = copy_fields(d, layout);
    if (!fields)
        return;
    take_length(d, &fields[place]);
    if (fields[place].unit == UNIT_PARENT_BITS || !is_sound(&fields[place]))
        unpack_fail(d);
    if (!unpack_failed(d))
        resolve_length(d, layout, &fields[place]);
}
