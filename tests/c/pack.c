#include "pack.h"

#include <errno.h>
#include <string.h>

#include "sound.h"
#include "test.h"

enum { MOST = 256 };

struct writer pack_writer;
struct packed packed;

void pack_begin(void)
{
    writer_finish(&pack_writer);
    expect_number(0, writer_init(&pack_writer));
}

void pack_finish(void)
{
    unsigned n = writer_seal(&pack_writer);
    packed.len = 0;
    expect(n > 0);
    for (unsigned i = 0; i < n; i++) {
        expect(packed.len + pack_writer.spans[i].iov_len <= sizeof packed.bytes);
        memcpy(packed.bytes + packed.len, pack_writer.spans[i].iov_base, pack_writer.spans[i].iov_len);
        packed.len += pack_writer.spans[i].iov_len;
    }
}

void pack_text(const char *word)
{
    write_str(&pack_writer, word, strlen(word));
}

int pack_decode(struct rows **ret_rows)
{
    int error;
    *ret_rows = rows_decode(packed.bytes, packed.len, &error);
    expect((error == 0) == (*ret_rows != NULL));
    return error;
}

void pack_expect_refused(void)
{
    struct rows *rows;
    pack_finish();
    int error = pack_decode(&rows);
    expect(error == -EBADMSG || error == -EMSGSIZE);
}

/* ---- the standard's tables as if they were a vendor's ---- */

static const char *const kinds[] = {
    [FIELD_NUMBER] = "ulong", [FIELD_OBJECT] = "object", [FIELD_BYTE] = "byte", [FIELD_FIXED] = "fixed",
    [FIELD_STRUCT] = "struct", [FIELD_BYTES] = "bytes", [FIELD_STRUCTS] = "structs", [FIELD_NUMBER_PTR] = "ulong*",
    [FIELD_OBJECT_PTR] = "object*", [FIELD_TEMPLATE] = "template", [FIELD_MECHANISM] = "mechanism", [FIELD_UNION] = "union",
};
static const char *const units[] = {
    [UNIT_FIXED] = "fixed", [UNIT_FIELD] = "field", [UNIT_BITS] = "bits", [UNIT_BYTES_OR_BITS] = "bytes|bits",
    [UNIT_DEREF] = "deref", [UNIT_PARENT_BITS] = "parent bits", [UNIT_NUL] = "nul", [UNIT_UNKNOWN] = "unknown",
};
static const char *const directions[] = {[DIR_IN] = "in", [DIR_OUT] = "out", [DIR_INOUT] = "inout"};
static const char *const values[] = {
    [VALUE_BYTES] = "bytes", [VALUE_NUMBER] = "ulong", [VALUE_OBJECT] = "handle", [VALUE_BOOL] = "bool",
    [VALUE_BYTE] = "byte", [VALUE_NUMBERS] = "ulongs", [VALUE_TEMPLATE] = "template", [VALUE_STRUCT] = "struct",
};
static const char *const contexts[] = {
    [CONTEXT_ANY] = "any", [CONTEXT_PLAIN] = "plain", [CONTEXT_WRAP] = "wrap",
    [CONTEXT_MESSAGE_INIT] = "message-init", [CONTEXT_MESSAGE] = "message",
};

unsigned pack_order[MOST], pack_ordered; /* each struct behind those in it */
static bool done[MOST];

const char *pack_new_name(unsigned layout)
{
    static char name[LIMIT_NAME + 1];
    name[0] = 'X';
    strncpy(name + 1, layouts[layout].name, LIMIT_NAME - 1);
    return name;
}

static bool is_packable(const struct layout *layout)
{
    for (unsigned i = 0; i < layout->n_fields; i++)
        if (layout->fields[i].kind == FIELD_SLOT)
            return false;
    return true;
}

static bool is_next(unsigned layout)
{
    for (unsigned i = 0; i < layouts[layout].n_fields; i++) {
        const struct field *f = &layouts[layout].fields[i];
        if ((f->kind == FIELD_STRUCT || f->kind == FIELD_STRUCTS) && !done[f->type])
            return false;
        const struct tagged_union *u = f->kind == FIELD_UNION ? &unions[f->type] : NULL;
        for (unsigned k = 0; u && k < u->n_variants; k++)
            if (u->variants[k].kind == VALUE_STRUCT && !done[u->variants[k].type])
                return false;
    }
    return !done[layout] && is_packable(&layouts[layout]);
}

static void put_in_order(void)
{
    expect(layout_count < MOST);
    memset(done, 0, sizeof done);
    pack_ordered = 0;
    for (unsigned before = pack_ordered + 1; before != pack_ordered;) {
        before = pack_ordered;
        for (unsigned i = 0; i < layout_count; i++)
            if (is_next(i))
                pack_order[pack_ordered++] = i, done[i] = true;
    }
    expect(pack_ordered + 1 >= layout_count); /* all but the one with a slot in it */
}

static unsigned place_at(const struct layout *layout, unsigned offset)
{
    for (unsigned i = 0; i < layout->n_fields; i++)
        if (layout->fields[i].offset == offset)
            return i;
    test_failed(__FILE__, __LINE__, "nothing at %u of %s", offset, layout->name);
}

static const struct layout *first_holder(unsigned layout)
{
    for (unsigned n = 0; n < pack_ordered; n++)
        for (unsigned i = 0; i < layouts[pack_order[n]].n_fields; i++) {
            const struct field *f = &layouts[pack_order[n]].fields[i];
            if ((f->kind == FIELD_STRUCT || f->kind == FIELD_STRUCTS) && f->type == layout)
                return &layouts[pack_order[n]];
        }
    test_failed(__FILE__, __LINE__, "nothing holds %s", layouts[layout].name);
}

static void pack_length(unsigned layout, const struct field *f)
{
    bool has_number = f->unit != UNIT_NUL && f->unit != UNIT_UNKNOWN;
    const struct layout *says = f->unit == UNIT_PARENT_BITS ? first_holder(layout) : &layouts[layout];
    write_array(&pack_writer, 1 + has_number);
    pack_text(units[f->unit]);
    if (f->unit == UNIT_FIXED)
        write_uint(&pack_writer, f->length);
    else if (has_number)
        write_uint(&pack_writer, place_at(says, f->length));
}

static void pack_union(unsigned layout, const struct field *f)
{
    const struct tagged_union *u = &unions[f->type];
    write_array(&pack_writer, 2);
    write_uint(&pack_writer, place_at(&layouts[layout], u->tag));
    write_array(&pack_writer, u->n_variants);
    for (unsigned k = 0; k < u->n_variants; k++) {
        write_array(&pack_writer, 3);
        write_uint(&pack_writer, u->variants[k].tag);
        pack_text(values[u->variants[k].kind]);
        u->variants[k].kind == VALUE_STRUCT ? pack_text(pack_new_name(u->variants[k].type)) : write_nil(&pack_writer);
    }
}

static void pack_field(unsigned layout, const struct field *f)
{
    write_array(&pack_writer, 4);
    pack_text(kinds[f->kind]);
    pack_text(f->late ? "late" : directions[f->dir]);
    if (f->kind == FIELD_FIXED)
        write_uint(&pack_writer, f->length);
    else if (f->kind >= FIELD_BYTES)
        pack_length(layout, f);
    else
        write_nil(&pack_writer);
    if (f->kind == FIELD_STRUCT || f->kind == FIELD_STRUCTS)
        pack_text(pack_new_name(f->type));
    else if (f->kind == FIELD_UNION)
        pack_union(layout, f);
    else
        write_nil(&pack_writer);
}

static void pack_structs(void)
{
    put_in_order();
    write_array(&pack_writer, pack_ordered);
    for (unsigned n = 0; n < pack_ordered; n++) {
        const struct layout *l = &layouts[pack_order[n]];
        write_array(&pack_writer, 2);
        pack_text(pack_new_name(pack_order[n]));
        write_array(&pack_writer, l->n_fields);
        for (unsigned i = 0; i < l->n_fields; i++)
            pack_field(pack_order[n], &l->fields[i]);
    }
}

static void pack_choice(const struct choice *c)
{
    write_array(&pack_writer, 4);
    pack_text(contexts[c->context]);
    pack_text(values[c->kind]);
    if (c->kind == VALUE_STRUCT) {
        pack_text(pack_new_name(c->type));
    } else if (c->kind == VALUE_BYTES) {
        write_array(&pack_writer, 2);
        write_uint(&pack_writer, c->type);
        write_bool(&pack_writer, c->output);
    } else {
        write_nil(&pack_writer);
    }
    if (c->probe_max == 0) {
        write_nil(&pack_writer);
        return;
    }
    write_array(&pack_writer, 2);
    write_uint(&pack_writer, place_at(&layouts[c->type], c->probe));
    write_uint(&pack_writer, c->probe_max);
}

static void pack_mechanisms(void)
{
    write_array(&pack_writer, mechanism_count);
    for (unsigned i = mechanism_count; i-- > 0;) { /* in any order */
        write_array(&pack_writer, 3);
        write_uint(&pack_writer, mechanisms[i].value | PACK_NEW_NUMBERS);
        write_array(&pack_writer, mechanisms[i].n_choices);
        for (unsigned k = 0; k < mechanisms[i].n_choices; k++)
            pack_choice(&choices[mechanisms[i].choices + k]);
        mechanisms[i].output ? pack_text(layouts[mechanisms[i].output - 1].name) : write_nil(&pack_writer);
    }
}

static void pack_attributes(void)
{
    unsigned count = 0;
    for (unsigned i = 0; i < attribute_count; i++)
        count += !(attributes[i].value & PACK_NEW_NUMBERS);
    write_array(&pack_writer, count);
    for (unsigned i = 0; i < attribute_count; i++) {
        if (attributes[i].value & PACK_NEW_NUMBERS)
            continue;
        write_array(&pack_writer, 2);
        write_uint(&pack_writer, attributes[i].value | 0x80000000);
        pack_text(values[attributes[i].kind]);
    }
}

void pack_standard(void)
{
    pack_begin();
    write_array(&pack_writer, 4);
    pack_structs();
    write_array(&pack_writer, 0);
    pack_mechanisms();
    pack_attributes();
    pack_finish();
}

void pack_expect_sound(const struct rows *rows)
{
    const char *fault = sound_fault(rows);
    expect_text("", fault ? fault : "");
}
