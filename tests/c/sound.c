#include "sound.h"

#include <string.h>

#define DEMAND(condition) \
    do { \
        if (!(condition)) \
            return #condition; \
    } while (0)

/* ---- fields ---- */

static size_t size_of(const struct tables *t, const struct field *f)
{
    switch (f->kind) {
    case FIELD_STRUCT: return t->layouts[f->type].size;
    case FIELD_FIXED: return f->length;
    case FIELD_BYTE: return 1;
    default: return sizeof(CK_ULONG);
    }
}

static size_t align_of(const struct tables *t, const struct field *f)
{
    return f->kind == FIELD_STRUCT ? t->layouts[f->type].align : f->kind == FIELD_FIXED ? 1 : size_of(t, f);
}

static bool has_at(const struct layout *l, size_t offset, uint8_t kind)
{
    for (unsigned i = 0; i < l->n_fields; i++)
        if (l->fields[i].kind == kind && l->fields[i].offset == offset)
            return true;
    return false;
}

static const char *length_fault(const struct layout *l, const struct field *f)
{
    DEMAND(f->unit > UNIT_NONE && f->unit <= UNIT_UNKNOWN);
    DEMAND(f->unit != UNIT_FIXED || f->length > 0);
    DEMAND(f->unit < UNIT_FIELD || f->unit > UNIT_BYTES_OR_BITS || has_at(l, f->length, FIELD_NUMBER));
    DEMAND(f->unit != UNIT_DEREF || has_at(l, f->length, FIELD_NUMBER_PTR));
    return NULL;
}

static const char *union_fault(const struct tables *t, const struct layout *l, const struct field *f)
{
    DEMAND(f->type < t->union_count);
    const struct tagged_union *u = &t->unions[f->type];
    DEMAND(has_at(l, u->tag, FIELD_NUMBER) && u->tag < f->offset);
    for (unsigned i = 0; i < u->n_variants; i++) {
        DEMAND(u->variants[i].kind > 0 && u->variants[i].kind <= VALUE_NONE);
        DEMAND(u->variants[i].kind != VALUE_STRUCT || u->variants[i].type < t->layout_count);
    }
    return NULL;
}

static const char *field_fault(const struct tables *t, const struct layout *l, const struct field *f, size_t *at)
{
    const char *fault = NULL;
    DEMAND(f->kind > 0 && f->kind <= FIELD_UNION && f->dir >= DIR_IN && f->dir <= DIR_INOUT);
    DEMAND((f->kind != FIELD_STRUCT && f->kind != FIELD_STRUCTS) || f->type < t->layout_count);
    DEMAND(f->offset >= *at && f->offset % align_of(t, f) == 0 && align_of(t, f) <= l->align);
    *at = f->offset + size_of(t, f);
    if (f->kind >= FIELD_BYTES)
        fault = length_fault(l, f);
    return !fault && f->kind == FIELD_UNION ? union_fault(t, l, f) : fault;
}

/* ---- structs ---- */

/* A struct uses none but those before it, so whatever recurses over them ends. */
static const char *order_fault(const struct tables *t, const struct layout *l, uint16_t inner, uint8_t depths[], const struct field *f)
{
    unsigned own = (unsigned)(l - t->layouts);
    DEMAND(own < layout_count || inner < own);
    if (own < layout_count)
        return NULL;
    depths[own] = depths[own] > depths[inner] ? depths[own] : (uint8_t)(depths[inner] + 1);
    DEMAND(depths[own] <= LIMIT_NESTING + 1);
    for (unsigned i = 0; f->kind == FIELD_STRUCTS && i < t->layouts[inner].n_fields; i++) {
        const struct field *held = &t->layouts[inner].fields[i];
        DEMAND(held->unit != UNIT_PARENT_BITS || has_at(l, held->length, FIELD_NUMBER));
    }
    return NULL;
}

static const char *nesting_fault(const struct tables *t, const struct layout *l, uint8_t depths[])
{
    const char *fault = NULL;
    for (unsigned i = 0; i < l->n_fields && !fault; i++) {
        const struct field *f = &l->fields[i];
        if (f->kind == FIELD_STRUCT || f->kind == FIELD_STRUCTS)
            fault = order_fault(t, l, f->type, depths, f);
        const struct tagged_union *u = f->kind == FIELD_UNION ? &t->unions[f->type] : NULL;
        for (unsigned k = 0; u && k < u->n_variants && !fault; k++)
            if (u->variants[k].kind == VALUE_STRUCT)
                fault = order_fault(t, l, u->variants[k].type, depths, f);
    }
    return fault;
}

static const char *layout_fault(const struct tables *t, const struct layout *l)
{
    const char *fault = NULL;
    size_t at = 0;
    DEMAND(l->name_len > 0 && l->name_len <= LIMIT_NAME && strlen(l->name) == l->name_len);
    DEMAND(l->n_fields > 0 && l->n_fields <= LIMIT_FIELDS);
    for (unsigned i = 0; i < l->n_fields && !fault; i++)
        fault = field_fault(t, l, &l->fields[i], &at);
    if (fault)
        return fault;
    DEMAND(l->align > 0 && l->size % l->align == 0 && at <= l->size && l->size < at + l->align);
    for (const struct layout *other = t->layouts; other < l; other++)
        DEMAND(strcmp(other->name, l->name) != 0);
    return NULL;
}

static const char *layouts_fault(const struct tables *t)
{
    static uint8_t depths[UINT16_MAX];
    const char *fault = NULL;
    DEMAND(t->layout_count >= layout_count && t->layout_count < UINT16_MAX);
    memset(depths, 1, t->layout_count);
    for (const struct layout *l = t->layouts; l < t->layouts + t->layout_count && !fault; l++)
        fault = layout_fault(t, l);
    for (const struct layout *l = t->layouts; l < t->layouts + t->layout_count && !fault; l++)
        fault = nesting_fault(t, l, depths);
    return fault;
}

/* ---- mechanisms and attributes ---- */

static const char *choice_fault(const struct tables *t, const struct choice *c)
{
    DEMAND(c->context <= CONTEXT_MESSAGE && c->kind > 0 && c->kind <= VALUE_NONE);
    DEMAND(c->kind != VALUE_STRUCT || c->type < t->layout_count);
    DEMAND(c->probe_max == 0 || (c->kind == VALUE_STRUCT && has_at(&t->layouts[c->type], c->probe, FIELD_NUMBER)));
    return NULL;
}

static const char *mechanism_fault(const struct tables *t, const struct mechanism *m)
{
    DEMAND(m == t->mechanisms || m[-1].value < m->value);
    DEMAND(m->choices + m->n_choices <= t->choice_count);
    DEMAND(m->output <= t->layout_count);
    DEMAND(m->output == 0 || t->layouts[m->output - 1].signature);
    return NULL;
}

static const char *attribute_fault(const struct tables *t, const struct attribute *a)
{
    DEMAND(a == t->attributes || a[-1].value < a->value);
    DEMAND(a->kind > 0 && a->kind < VALUE_STRUCT && a->kind != VALUE_OBJECT && a->kind != VALUE_BYTE);
    return NULL;
}

/* In order, and none of the standard's is missing. */
static const char *numbers_fault(const struct tables *t)
{
    unsigned found = 0, i = 0;
    for (const struct mechanism *m = t->mechanisms; m < t->mechanisms + t->mechanism_count && i < mechanism_count; m++)
        if (m->value == mechanisms[i].value)
            found++, i++;
    DEMAND(found == mechanism_count);
    found = i = 0;
    for (const struct attribute *a = t->attributes; a < t->attributes + t->attribute_count && i < attribute_count; a++)
        if (a->value == attributes[i].value)
            found++, i++;
    DEMAND(found == attribute_count);
    return NULL;
}

const char *sound_fault(const struct rows *rows)
{
    const struct tables *t = rows_tables(rows);
    const char *fault = layouts_fault(t);
    for (unsigned i = 0; i < t->choice_count && !fault; i++)
        fault = choice_fault(t, &t->choices[i]);
    for (unsigned i = 0; i < t->mechanism_count && !fault; i++)
        fault = mechanism_fault(t, &t->mechanisms[i]);
    for (unsigned i = 0; i < t->attribute_count && !fault; i++)
        fault = attribute_fault(t, &t->attributes[i]);
    return fault ? fault : numbers_fault(t);
}
