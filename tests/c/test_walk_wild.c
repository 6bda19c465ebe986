/* Wild lengths: refused before anything is read that they measure. What is measured is 8 bytes long, behind a fence. */
#include <string.h>

#include "ends.h"
#include "fence.h"
#include "test.h"
#include "visit.h"

static const CK_ULONG wild[] = {TOP_BIT, CK_UNAVAILABLE_INFORMATION - 1, TOP_BIT / 2 + 8, (CK_ULONG)LIMIT_BYTES + 1};

enum { WILD = sizeof wild / sizeof *wild };

static void expect_refusal(struct ends *e, CK_RV rv)
{
    ends_write_request(e);
    expect_number(rv, e->shim.refusal);
}

static void wild_lengths_of_bytes_are_refused(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned i = 0; i < functions[fn].n_args && make_crosses(&functions[fn]); i++)
            for (unsigned k = 0; k < WILD && functions[fn].args[i].kind == ARG_BYTES; k++) {
                struct ends *e = ends_begin(&functions[fn]);
                test_case("%s, argument %u, length 0x%lx", functions[fn].name, i, wild[k]);
                e->caller[functions[fn].args[i].pos] = (uintptr_t)fence_alloc(8);
                e->caller[functions[fn].args[i].len] = wild[k];
                expect_refusal(e, CKR_ARGUMENTS_BAD);
            }
}

static void wild_counts_of_attributes_are_refused(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned i = 0; i < functions[fn].n_args; i++)
            for (unsigned k = 0; k < WILD; k++) {
                const struct arg *arg = &functions[fn].args[i];
                if (arg->kind != ARG_TEMPLATE && arg->kind != ARG_TEMPLATE_IO)
                    break;
                struct ends *e = ends_begin(&functions[fn]);
                test_case("%s, argument %u, count 0x%lx", functions[fn].name, i, wild[k]);
                e->caller[arg->pos] = (uintptr_t)fence_alloc(0);
                e->caller[arg->len] = wild[k];
                expect_refusal(e, CKR_ARGUMENTS_BAD);
            }
}

static void try_wild_value(unsigned fn, CK_ATTRIBUTE_TYPE type, CK_ULONG len, CK_RV rv)
{
    const struct function *f = &functions[fn];
    const struct arg *arg = &f->args[f->n_args - 1];
    struct ends *e = ends_begin(f);
    CK_ATTRIBUTE *a = fence_alloc(sizeof *a);
    *a = (CK_ATTRIBUTE){type, fence_alloc(8), len};
    test_case("%s, attribute 0x%lx, length 0x%lx", f->name, type, len);
    e->caller[arg->pos] = (uintptr_t)a;
    e->caller[arg->len] = 1;
    expect_refusal(e, rv);
}

/* Of every attribute the tables know, and of one they do not. */
static void wild_lengths_of_values_are_refused(void)
{
    for (unsigned i = 0; i <= attribute_count; i++)
        for (unsigned k = 0; k < WILD; k++) {
            CK_ATTRIBUTE_TYPE type = i < attribute_count ? attributes[i].value : CKA_VENDOR_DEFINED + 1;
            try_wild_value(FN_C_FindObjectsInit, type, wild[k], CKR_ARGUMENTS_BAD);
            bool read = attribute_kind(&standard_tables, type) == VALUE_TEMPLATE; /* only then is a query's value looked into */
            try_wild_value(FN_C_GetAttributeValue, type, wild[k], read ? CKR_ARGUMENTS_BAD : CKR_OK);
        }
}

/* Of what a struct's field points to. False where the table's own number is the length, and nothing can be wild. */
static bool make_wild(uint8_t *base, uint8_t *parent, const struct field *field, CK_ULONG len)
{
    uint8_t *cell = base + field->length;
    if (field->unit == UNIT_PARENT_BITS)
        cell = parent ? parent + field->length : NULL;
    else if (field->unit == UNIT_DEREF)
        cell = visit_pointer(base + field->length);
    else if (field->unit != UNIT_FIELD && field->unit != UNIT_BITS && field->unit != UNIT_BYTES_OR_BITS)
        cell = NULL;
    void *pointer = fence_alloc(8);
    memcpy(base + field->offset, &pointer, sizeof pointer);
    if (cell)
        memcpy(cell, &len, sizeof len);
    return cell != NULL;
}

/* The path to a layout that is only found inside another: the first struct of the first pointer to it. */
static uint8_t *descend(const struct layout *outer, uint8_t *base, const struct layout *inner)
{
    for (unsigned i = 0; i < outer->n_fields; i++) {
        const struct field *field = &outer->fields[i];
        if (field->kind == FIELD_STRUCT && &layouts[field->type] == inner)
            return base + field->offset;
        if (field->kind != FIELD_STRUCTS || &layouts[field->type] != inner)
            continue;
        CK_ULONG one = 1;
        void *first = fence_alloc(inner->size);
        struct dice dice = dice_from_seed(1);
        memset(first, 0, inner->size);
        make_fields(&dice, inner, first);
        memcpy(base + field->offset, &first, sizeof first);
        if (field->unit == UNIT_FIELD)
            memcpy(base + field->length, &one, sizeof one);
        return first;
    }
    return NULL;
}

struct wild_field {
    struct way way;
    const struct layout *inner; /* the struct itself, or one in it */
    const struct field *field;
};

/* A call with that field wild; NULL if its length is not for the caller to say. */
static struct ends *begin_wild(const struct wild_field *it, CK_ULONG len)
{
    struct dice dice = dice_from_seed(12);
    struct ends *e = ends_begin(make_function_for(it->way.choice));
    CK_MECHANISM *m = make_mechanism(&dice, it->way.mechanism, it->way.choice);
    const struct layout *outer = &layouts[it->way.choice->type];
    uint8_t *base = it->inner == outer ? m->pParameter : descend(outer, m->pParameter, it->inner);
    ends_give_mechanism(e, m);
    if (!base || !make_wild(base, it->inner == outer ? NULL : m->pParameter, it->field, len))
        return NULL;
    /* Where a number says which of two structs it is, that number is no length. */
    return visit_choose(e->shim.function->context, m) == it->way.choice ? e : NULL;
}

static bool counts_bits(const struct field *field)
{
    return field->unit == UNIT_BITS || field->unit == UNIT_BYTES_OR_BITS || field->unit == UNIT_PARENT_BITS;
}

static unsigned try_wild_lengths(const struct wild_field *it)
{
    unsigned tried = 0;
    bool never = counts_bits(it->field) && sizeof(CK_ULONG) == 4; /* so many bits are not too many bytes */
    for (unsigned k = 0; k < WILD && !never; k++) {
        bool in_bits = counts_bits(it->field) && wild[k] <= CK_UNAVAILABLE_INFORMATION / 8;
        struct ends *e = begin_wild(it, in_bits ? wild[k] * 8 : wild[k]);
        test_case("%s in %s, offset %u, length 0x%lx", it->inner->name, layouts[it->way.choice->type].name, it->field->offset, wild[k]);
        if (!e)
            continue;
        ends_write_request(e);
        if (e->shim.refusal != CKR_MECHANISM_PARAM_INVALID && e->shim.refusal != CKR_ARGUMENTS_BAD)
            test_failed(__FILE__, __LINE__, "refusal: 0x%lx", e->shim.refusal);
        tried++;
    }
    return tried;
}

static unsigned try_wild_fields(const struct way *way, const struct layout *inner)
{
    unsigned tried = 0;
    for (unsigned i = 0; i < inner->n_fields; i++) {
        const struct wild_field it = {*way, inner, &inner->fields[i]};
        tried += it.field->kind >= FIELD_BYTES ? try_wild_lengths(&it) : 0;
    }
    return tried;
}

static void wild_lengths_in_structs_are_refused(void)
{
    unsigned tried = 0;
    for (struct way way = {0}; make_next_way(&way);) {
        if (way.choice->kind != VALUE_STRUCT)
            continue;
        const struct layout *outer = &layouts[way.choice->type];
        tried += try_wild_fields(&way, outer);
        for (unsigned n = 0; n < outer->n_fields; n++)
            if (outer->fields[n].kind == FIELD_STRUCT || outer->fields[n].kind == FIELD_STRUCTS)
                tried += try_wild_fields(&way, &layouts[outer->fields[n].type]);
    }
    expect(tried > 0);
    test_note("%u wild lengths", tried);
}

static void expect_unfollowed(const struct way *way, const struct field *field)
{
    struct dice dice = dice_from_seed(12);
    struct ends *e = ends_begin(make_function_for(way->choice));
    CK_MECHANISM *m = make_mechanism(&dice, way->mechanism, way->choice);
    void *wall = fence_alloc(0);
    memcpy((uint8_t *)m->pParameter + field->offset, &wall, sizeof wall);
    ends_give_mechanism(e, m);
    expect_refusal(e, CKR_MECHANISM_PARAM_INVALID);
}

static void unknown_lengths_are_refused(void)
{
    unsigned tried = 0;
    for (struct way way = {0}; make_next_way(&way);) {
        const struct layout *layout = way.choice->kind == VALUE_STRUCT ? &layouts[way.choice->type] : NULL;
        for (unsigned n = 0; layout && n < layout->n_fields; n++) {
            test_case("%s, field %u", layout->name, n);
            if (layout->fields[n].unit == UNIT_UNKNOWN)
                expect_unfollowed(&way, &layout->fields[n]), tried++;
        }
    }
    expect(tried > 0);
}

static const struct test tests[] = {
    TEST(unknown_lengths_are_refused, "a pointer whose length is said nowhere is never followed"),
    TEST(wild_lengths_of_bytes_are_refused, "a wild length is refused before the first byte is read"),
    TEST(wild_counts_of_attributes_are_refused, "a wild count of attributes is refused before the first is read"),
    TEST(wild_lengths_of_values_are_refused, "a wild ulValueLen is refused before the value is read"),
    TEST(wild_lengths_in_structs_are_refused, "a wild length in a mechanism's parameter is refused before what it measures is read"),
};

TEST_MAIN(tests)
