/* Rows that are none: refused whole, whatever they claim. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dice.h"
#include "pack.h"
#include "test.h"

/* ---- wrong structs ---- */

/* "kind dir unit number type": "-" for none. A field whose kind is "union" has its tag in the place of a type. */
struct sample {
    const char *kind, *dir, *unit;
    int number;
    const char *type;
};

static void pack_sample(const struct sample *s)
{
    write_array(&pack_writer, 4);
    pack_text(s->kind);
    pack_text(s->dir);
    if (s->unit) {
        write_array(&pack_writer, s->number < 0 ? 1 : 2), pack_text(s->unit);
        if (s->number >= 0)
            write_uint(&pack_writer, (unsigned)s->number);
    } else if (s->number >= 0) {
        write_uint(&pack_writer, (unsigned)s->number);
    } else {
        write_nil(&pack_writer);
    }
    if (!strcmp(s->kind, "union")) {
        write_array(&pack_writer, 2), write_uint(&pack_writer, (unsigned)(s->type[0] - '0'));
        write_array(&pack_writer, 0);
    } else {
        s->type ? pack_text(s->type) : write_nil(&pack_writer);
    }
}

static void begin_structs(size_t count)
{
    pack_begin();
    write_array(&pack_writer, 4);
    write_array(&pack_writer, count);
}

static void pack_struct(const char *name, const struct sample *samples, size_t count)
{
    write_array(&pack_writer, 2);
    pack_text(name);
    write_array(&pack_writer, count);
    for (size_t i = 0; i < count; i++)
        pack_sample(&samples[i]);
}

static void end_structs(void)
{
    for (int i = 0; i < 3; i++)
        write_array(&pack_writer, 0);
}

static const struct sample number = {"ulong", "in", NULL, -1, NULL};

static void expect_struct(bool right, struct sample sample)
{
    struct rows *rows;
    const struct sample both[] = {number, sample};
    test_case("%s %s %s %d %s", sample.kind, sample.dir, sample.unit, sample.number, sample.type);
    begin_structs(1);
    pack_struct("CK_ACME", both, 2);
    end_structs();
    if (!right) {
        pack_expect_refused();
        return;
    }
    pack_finish();
    expect_number(0, pack_decode(&rows));
    pack_expect_sound(rows);
    rows_free(rows);
}

static void wrong_fields_are_refused(void)
{
    expect_struct(true, (struct sample){"bytes", "in", "field", 0, NULL});
    expect_struct(true, (struct sample){"union", "in", "field", 0, "0"});
    expect_struct(true, (struct sample){"structs", "out", "fixed", 1, "CK_VERSION"});
    static const struct sample wrong[] = {
        {"bytes", "in", "field", 1, NULL},      /* itself */
        {"bytes", "in", "field", 2, NULL},      /* no such field */
        {"bytes", "in", "deref", 0, NULL},      /* a number, not a pointer to one */
        {"bytes", "in", "fixed", 0, NULL},
        {"bytes", "in", NULL, -1, NULL},        /* no length */
        {"bytes", "in", "fixed", -1, NULL},
        {"bytes", "sideways", "field", 0, NULL},
        {"slot", "in", NULL, -1, NULL},
        {"template", "late", "field", 0, NULL}, /* only bytes are */
        {"fixed", "in", NULL, 0, NULL},
        {"fixed", "in", NULL, 5000, NULL},
        {"byte", "in", NULL, 3, NULL},
        {"ulong*", "in", "field", 0, NULL},     /* one number, not many */
        {"ulong*", "in", "fixed", 2, NULL},
        {"mechanism", "out", "fixed", 1, NULL}, /* no output */
        {"template", "inout", "field", 0, NULL},
        {"union", "out", "field", 0, "0"},
        {"union", "in", "field", 0, "1"},       /* tagged by itself */
        {"union", "in", "field", 0, "9"},
        {"structs", "in", "nul", -1, "CK_VERSION"},
        {"structs", "in", "parent bits", 0, "CK_VERSION"},
        {"structs", "in", "fixed", 1, "CK_ACME"}, /* in itself */
        {"struct", "in", NULL, -1, "CK_ACME"},
        {"struct", "in", NULL, -1, "CK_NOWHERE"},
        {"struct", "in", NULL, -1, NULL},
        {"bytes", "in", "parent bits", 0, NULL}, /* nothing holds it */
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_struct(false, wrong[i]);
}

static void expect_held(bool right, const struct sample *holder, const struct sample *other)
{
    static const struct sample held = {"bytes", "out", "parent bits", 0, NULL};
    struct rows *rows;
    const struct sample one[] = {holder[0], {"structs", "out", "fixed", 1, "CK_HELD"}};
    const struct sample two[] = {other[0], other[1], {"structs", "out", "fixed", 1, "CK_HELD"}};
    begin_structs(3);
    pack_struct("CK_HELD", &held, 1);
    pack_struct("CK_ONE", one, 2);
    pack_struct("CK_TWO", two, 3);
    end_structs();
    pack_finish();
    expect_number(right ? 0 : -EBADMSG, pack_decode(&rows));
    rows_free(rows);
}

/* Else bytes of one struct would be taken for a length of another. */
static void a_length_in_the_holder_is_where_the_first_has_it(void)
{
    static const struct sample object = {"object", "in", NULL, -1, NULL}, byte = {"byte", "in", NULL, -1, NULL};
    const struct sample same[] = {number, object}, elsewhere[] = {object, number}, shorter[] = {byte, byte};
    expect_held(true, &number, same);
    expect_held(false, &object, same);
    expect_held(false, &number, elsewhere);
    expect_held(false, &number, shorter);
}

static void names_are_names_of_one(void)
{
    char long_name[LIMIT_NAME + 2];
    memset(long_name, 'n', sizeof long_name);
    long_name[LIMIT_NAME + 1] = '\0';
    const char *const wrong[] = {"", "CK_GCM_PARAMS", long_name};
    for (unsigned i = 0; i < 3; i++) {
        test_case("%s", wrong[i]);
        begin_structs(1);
        pack_struct(wrong[i], &number, 1);
        end_structs();
        pack_expect_refused();
    }
    begin_structs(2);
    pack_struct("CK_ACME", &number, 1);
    pack_struct("CK_ACME", &number, 1);
    end_structs();
    pack_expect_refused();
}

static void structs_are_bounded(void)
{
    struct sample many[LIMIT_FIELDS + 1];
    for (unsigned i = 0; i <= LIMIT_FIELDS; i++)
        many[i] = number;
    begin_structs(1);
    pack_struct("CK_ACME", many, LIMIT_FIELDS + 1);
    end_structs();
    pack_expect_refused();
    begin_structs(1);
    pack_struct("CK_ACME", many, 0);
    end_structs();
    pack_expect_refused();
    const struct sample large[] = {{"fixed", "in", NULL, 4000, NULL}, {"fixed", "in", NULL, 97, NULL}};
    begin_structs(1);
    pack_struct("CK_ACME", large, 2);
    end_structs();
    pack_expect_refused();
}

static int nested(unsigned depth, const char *kind, const char *unit, int count)
{
    static char names[16][16];
    struct rows *rows;
    begin_structs(depth);
    for (unsigned i = 0; i < depth; i++) {
        snprintf(names[i], sizeof names[i], "N%u", i);
        const struct sample inner = {kind, "in", unit, count, i ? names[i - 1] : NULL};
        pack_struct(names[i], i ? &inner : &number, 1);
    }
    end_structs();
    pack_finish();
    int error = pack_decode(&rows);
    rows_free(rows);
    return error;
}

/* What walks them recurses. */
static void structs_in_structs_are_bounded(void)
{
    for (unsigned depth = 2; depth < 16; depth++) {
        bool right = depth <= LIMIT_NESTING + 1;
        test_case("%u", depth);
        expect_number(right ? 0 : -EMSGSIZE, nested(depth, "struct", NULL, -1));
        expect_number(right ? 0 : -EMSGSIZE, nested(depth, "structs", "fixed", 1));
    }
}

/* ---- wrong bytes ---- */

static void numbers_are_numbers_of_one(void)
{
    for (int attribute = 0; attribute < 2; attribute++) {
        pack_begin();
        write_array(&pack_writer, 4);
        write_array(&pack_writer, 0), write_array(&pack_writer, 0);
        if (attribute)
            write_array(&pack_writer, 0);
        write_array(&pack_writer, 2);
        for (int i = 0; i < 2; i++) {
            write_array(&pack_writer, attribute ? 2 : 3), write_uint(&pack_writer, 0x80000001);
            attribute ? pack_text("ulong") : (write_array(&pack_writer, 0), write_nil(&pack_writer));
        }
        if (!attribute)
            write_array(&pack_writer, 0);
        pack_expect_refused();
    }
}

static void what_claims_more_than_it_has_is_refused(void)
{
    static const uint8_t claims[][12] = {
        {0x94, 0xdd, 0x00, 0x0f, 0xff, 0xff},             /* structs */
        {0x94, 0x91, 0x92, 0xa1, 'A', 0xdc, 0xff, 0xff},  /* fields */
        {0x94, 0x90, 0x90, 0xdd, 0x00, 0x0f, 0xff, 0xff}, /* mechanisms */
        {0x94, 0x90, 0x90, 0x91, 0x93, 0x01, 0xdc, 0xff, 0xff},
        {0x94, 0x90, 0x90, 0x90, 0xdd, 0x00, 0x0f, 0xff, 0xff},
        {0x94, 0xdd, 0xff, 0xff, 0xff, 0xff},
        {0xc0}, {0x94}, {0x95, 0x90, 0x90, 0x90, 0x90, 0x90}, {0x94, 0x90, 0x90, 0x90, 0x90, 0x90},
    };
    struct rows *rows;
    for (unsigned i = 0; i < sizeof claims / sizeof *claims; i++) {
        test_case("%u", i);
        memcpy(packed.bytes, claims[i], packed.len = sizeof *claims);
        expect(pack_decode(&rows) != 0);
    }
    memset(packed.bytes, 0x90, sizeof packed.bytes);
    packed.bytes[0] = 0x94;
    packed.len = sizeof packed.bytes;
    expect_number(-EMSGSIZE, pack_decode(&rows));
    packed.len = 0;
    expect(pack_decode(&rows) != 0);
}

static void what_is_cut_short_is_refused(void)
{
    struct rows *rows;
    pack_standard();
    size_t whole = packed.len;
    for (packed.len = 0; packed.len < whole; packed.len += 1 + packed.len / 16) {
        test_case("%zu of %zu", packed.len, whole);
        expect(pack_decode(&rows) != 0);
    }
    packed.len = whole;
    packed.bytes[packed.len++] = 0xc0;
    expect_number(-EBADMSG, pack_decode(&rows));
}

static void what_is_damaged_is_refused_or_sound(void)
{
    enum { TIMES = 4000 };
    static uint8_t whole[LIMIT_ROWS];
    struct dice dice = dice_from_seed(11);
    unsigned accepted = 0;
    pack_standard();
    memcpy(whole, packed.bytes, packed.len);
    for (unsigned i = 0; i < TIMES; i++) {
        struct rows *rows;
        size_t at = dice_throw(&dice, (unsigned)packed.len);
        memcpy(packed.bytes, whole, packed.len);
        packed.bytes[at] = (uint8_t)dice_throw(&dice, 256);
        test_case("%u at %zu", packed.bytes[at], at);
        if (pack_decode(&rows) == 0) {
            accepted++;
            pack_expect_sound(rows);
            rows_free(rows);
        }
    }
    expect(accepted > 0 && accepted < TIMES);
}

static const struct test tests[] = {
    TEST(wrong_fields_are_refused, "A field that could not be walked is refused"),
    TEST(a_length_in_the_holder_is_where_the_first_has_it, "A length in the enclosing struct is one, in all that enclose"),
    TEST(names_are_names_of_one, "No struct is without a name or has that of another"),
    TEST(structs_are_bounded, "Fields and size of a struct are bounded"),
    TEST(structs_in_structs_are_bounded, "Structs within structs are bounded"),
    TEST(numbers_are_numbers_of_one, "No two rows have one number"),
    TEST(what_claims_more_than_it_has_is_refused, "No count that is only claimed becomes memory"),
    TEST(what_is_cut_short_is_refused, "Rows come whole or not at all"),
    TEST(what_is_damaged_is_refused_or_sound, "Whatever is accepted can be walked without leaving a struct"),
};

TEST_MAIN(tests)
