/* A module's own rows: laid out as a compiler would, over the standard's. */
#include <string.h>

#include "layouts.h"
#include "pack.h"
#include "test.h"

static const struct layout *find_new(const struct tables *t, unsigned layout)
{
    for (unsigned i = layout_count; i < t->layout_count; i++)
        if (!strcmp(t->layouts[i].name, pack_new_name(layout)))
            return &t->layouts[i];
    return NULL;
}

static void expect_same_type(const struct tables *t, const struct field *expected, const struct field *actual)
{
    if (expected->kind == FIELD_STRUCT || expected->kind == FIELD_STRUCTS)
        expect(find_new(t, expected->type) == &t->layouts[actual->type]);
    if (expected->kind != FIELD_UNION)
        return;
    const struct tagged_union *a = &unions[expected->type], *b = &t->unions[actual->type];
    expect(a->tag == b->tag && a->n_variants == b->n_variants);
    for (unsigned k = 0; k < a->n_variants; k++)
        expect(a->variants[k].tag == b->variants[k].tag && a->variants[k].kind == b->variants[k].kind);
}

static void the_standard_is_laid_out_as_the_compiler_does(void)
{
    struct rows *rows;
    pack_standard();
    expect_number(0, pack_decode(&rows));
    const struct tables *t = rows_tables(rows);
    for (unsigned n = 0; n < pack_ordered; n++) {
        const struct layout *expected = &layouts[pack_order[n]], *actual = find_new(t, pack_order[n]);
        test_case("%s", expected->name);
        expect(actual && actual->size == expected->size && actual->align == expected->align);
        expect_number(expected->n_fields, actual->n_fields);
        for (unsigned i = 0; i < expected->n_fields; i++) {
            const struct field *e = &expected->fields[i], *a = &actual->fields[i];
            expect(e->offset == a->offset && e->length == a->length && e->kind == a->kind && e->unit == a->unit && e->dir == a->dir && e->late == a->late);
            expect_same_type(t, e, a);
        }
    }
    pack_expect_sound(rows);
    test_note("%u structs in %zu bytes", pack_ordered, packed.len);
    rows_free(rows);
}

static void the_standards_rows_stay(void)
{
    struct rows *rows;
    pack_standard();
    expect_number(0, pack_decode(&rows));
    const struct tables *t = rows_tables(rows);
    expect_number(2 * mechanism_count, t->mechanism_count);
    for (unsigned i = 0; i < mechanism_count; i++) {
        const struct mechanism *old = &mechanisms[i], *kept = NULL, *added = NULL;
        for (unsigned k = 0; k < t->mechanism_count; k++) {
            kept = t->mechanisms[k].value == old->value ? &t->mechanisms[k] : kept;
            added = t->mechanisms[k].value == (old->value | PACK_NEW_NUMBERS) ? &t->mechanisms[k] : added;
        }
        expect(kept && added && kept->choices == old->choices && kept->n_choices == old->n_choices);
        expect_number(old->n_choices, added->n_choices);
        expect_number(old->output, added->output);
        for (unsigned k = 0; k < old->n_choices; k++) {
            const struct choice *a = &choices[old->choices + k], *b = &t->choices[added->choices + k];
            expect(a->context == b->context && a->kind == b->kind && a->probe == b->probe && a->probe_max == b->probe_max);
            expect(a->kind == VALUE_STRUCT ? find_new(t, a->type) == &t->layouts[b->type] : a->type == b->type);
        }
    }
    rows_free(rows);
}

/* A standard mechanism gets another parameter, a standard attribute another kind. */
static void a_vendors_row_counts(void)
{
    struct rows *rows;
    pack_begin();
    write_array(&pack_writer, 4);
    write_array(&pack_writer, 0);
    write_array(&pack_writer, 0);
    write_array(&pack_writer, 1);
    write_array(&pack_writer, 3), write_uint(&pack_writer, CKM_AES_GCM), write_array(&pack_writer, 0), write_nil(&pack_writer);
    write_array(&pack_writer, 1);
    write_array(&pack_writer, 2), write_uint(&pack_writer, CKA_CLASS), pack_text("bytes");
    pack_finish();
    expect_number(0, pack_decode(&rows));
    const struct tables *t = rows_tables(rows);
    expect_number(mechanism_count, t->mechanism_count);
    for (unsigned i = 0; i < mechanism_count; i++)
        expect_number(mechanisms[i].value == CKM_AES_GCM ? 0 : mechanisms[i].n_choices, t->mechanisms[i].n_choices);
    expect_number(VALUE_BYTES, t->attributes[0].kind);
    expect_number(CKA_CLASS, t->attributes[0].value);
    rows_free(rows);
}

static void pack_completion(const char *name, unsigned place, const char *unit, int number)
{
    pack_begin();
    write_array(&pack_writer, 4);
    write_array(&pack_writer, 0);
    write_array(&pack_writer, 1);
    write_array(&pack_writer, 3), pack_text(name), write_uint(&pack_writer, place);
    write_array(&pack_writer, number < 0 ? 1 : 2), pack_text(unit);
    if (number >= 0)
        write_uint(&pack_writer, (unsigned)number);
    write_array(&pack_writer, 0);
    write_array(&pack_writer, 0);
}

static void lengths_complete_a_struct(void)
{
    struct rows *rows;
    pack_completion("CK_X3DH_INITIATE_PARAMS", 3, "fixed", 64);
    pack_finish();
    expect_number(0, pack_decode(&rows));
    const struct field *f = &rows_tables(rows)->layouts[LAYOUT_CK_X3DH_INITIATE_PARAMS].fields[3];
    expect(f->unit == UNIT_FIXED && f->length == 64);
    expect_number(UNIT_UNKNOWN, layouts[LAYOUT_CK_X3DH_INITIATE_PARAMS].fields[3].unit);
    expect_number(UNIT_UNKNOWN, f[1].unit);
    rows_free(rows);

    static const struct {
        const char *name;
        unsigned place;
        const char *unit;
        int number;
    } wrong[] = {
        {"CK_X3DH_INITIATE_PARAMS", 2, "fixed", 64},     /* no pointer */
        {"CK_X3DH_INITIATE_PARAMS", 7, "fixed", 64},     /* no such field */
        {"CK_X3DH_INITIATE_PARAMS", 3, "fixed", 0},
        {"CK_X3DH_INITIATE_PARAMS", 3, "fixed", 65536},
        {"CK_X3DH_INITIATE_PARAMS", 3, "field", 3},      /* says itself how long it is */
        {"CK_X3DH_INITIATE_PARAMS", 3, "field", 9},
        {"CK_X3DH_INITIATE_PARAMS", 3, "deref", 0},
        {"CK_X3DH_INITIATE_PARAMS", 3, "parent bits", 0},
        {"CK_X3DH_INITIATE_PARAMS", 3, "fixed", -1},
        {"CK_X3DH_INITIATE_PARAMS", 3, "miles", 3},
        {"CK_GCM_PARAMS", 0, "fixed", 3},                /* its length is known */
        {"CK_NOWHERE", 3, "fixed", 64},
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        test_case("%s %u %s %d", wrong[i].name, wrong[i].place, wrong[i].unit, wrong[i].number);
        pack_completion(wrong[i].name, wrong[i].place, wrong[i].unit, wrong[i].number);
        pack_expect_refused();
    }
}

static const struct test tests[] = {
    TEST(the_standard_is_laid_out_as_the_compiler_does, "A packed struct gets the size and the offsets that the compiler gives it"),
    TEST(the_standards_rows_stay, "A vendor's rows come beside the standard's, in the order of their numbers"),
    TEST(a_vendors_row_counts, "Of two rows for one number the vendor's counts"),
    TEST(lengths_complete_a_struct, "A length completes a struct for its module alone, and only where none was known"),
};

TEST_MAIN(tests)
