/*
 * The decoder of a module's own rows, which both ends trust no more than each other. What is accepted is safe to walk, is
 * no longer so when it is cut short, and is walked: each parameter it describes goes from a caller to a provider and back.
 */
#include <errno.h>
#include <string.h>

#include "ends.h"
#include "fence.h"
#include "fuzz.h"
#include "sound.h"

enum { STRUCT_MOST = 4096, NOTHING = 1 << 16, WALKED = 16 };

static const union {
    uint8_t bytes[NOTHING];
    CK_ULONG aligned;
} nothing; /* what pointers lead to */

/* ---- a parameter, by a layout alone ---- */

static size_t size_behind(const struct tables *t, const struct field *f)
{
    switch (f->kind) {
    case FIELD_STRUCTS: return t->layouts[f->type].size;
    case FIELD_TEMPLATE: return sizeof(CK_ATTRIBUTE);
    case FIELD_MECHANISM: return sizeof(CK_MECHANISM);
    case FIELD_UNION: return STRUCT_MOST;
    default: return sizeof(CK_ULONG);
    }
}

/* Numbers are 1, so that every length is one and every pointer leads to something, unless that is more than there is. */
static void fill(const struct tables *t, const struct layout *l, uint8_t *at)
{
    const uintptr_t pointer = (uintptr_t)nothing.bytes;
    const CK_ULONG one = 1;
    for (unsigned i = 0; i < l->n_fields; i++) {
        const struct field *f = &l->fields[i];
        size_t count = f->unit == UNIT_FIXED ? f->length : 1;
        if (f->kind == FIELD_STRUCT)
            fill(t, &t->layouts[f->type], at + f->offset);
        else if (f->kind == FIELD_NUMBER)
            memcpy(at + f->offset, &one, sizeof one);
        else if (f->kind >= FIELD_BYTES && f->unit != UNIT_UNKNOWN && count * size_behind(t, f) <= NOTHING)
            memcpy(at + f->offset, &pointer, sizeof pointer);
    }
}

/* ---- from one end to the other ---- */

/* Refused, or understood by the other end and answered: by one set of rows nobody misunderstands the other. */
static void walk(const struct tables *t, const struct choice *choice, CK_MECHANISM mechanism)
{
    struct ends *e = ends_begin(make_function_for(choice));
    CK_MECHANISM *given = fence_alloc(sizeof mechanism);
    e->shim.tables = e->helper.tables = t;
    *given = mechanism;
    ends_give_mechanism(e, given);
    ends_write_request(e);
    if (e->shim.refusal != CKR_OK || e->message.error)
        return;
    ends_read_request(e, 0);
    if (e->reader.error || !message_is_read(&e->message, &e->reader))
        found("a request that the helper does not understand");
    ends_write_response(e, CKR_OK);
    if (ends_read_response(e, 0) != CKR_OK || e->reader.error)
        found("a response that the shim does not understand");
}

static void walk_choice(const struct tables *t, const struct mechanism *m, const struct choice *choice)
{
    static uint8_t parameter[STRUCT_MOST] __attribute__((aligned(16)));
    const struct layout *l = &t->layouts[choice->type];
    if (!make_function_for(choice) || l->size > sizeof parameter)
        return;
    memset(parameter, 0, sizeof parameter);
    walk(t, choice, (CK_MECHANISM){m->value, parameter, l->size});
    fill(t, l, parameter);
    walk(t, choice, (CK_MECHANISM){m->value, parameter, l->size});
}

/* What is chosen without another look, by the mechanism alone: the one choice that there is. */
static void walk_rows(const struct tables *t)
{
    unsigned walked = 0;
    for (const struct mechanism *m = t->mechanisms; m < t->mechanisms + t->mechanism_count && walked < WALKED; m++) {
        const struct choice *choice = &t->choices[m->choices];
        bool is_theirs = m->choices >= standard_tables.choice_count && m->n_choices == 1;
        if (is_theirs && choice->kind == VALUE_STRUCT && choice->probe_max == 0) {
            walk_choice(t, m, choice);
            walked++;
        }
    }
}

/* ---- the target ---- */

static void expect_refused(const uint8_t *packed, size_t len)
{
    int error = 0;
    if (rows_decode(packed, len, &error))
        found("rows that are cut short, and accepted");
    if (error != -EBADMSG && error != -EMSGSIZE && error != -ENODATA)
        found("another error than for rows that are none");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int error = 0;
    struct rows *rows = rows_decode(data, size, &error);
    if ((rows == NULL) != (error < 0))
        found("rows and an error, or neither");
    if (!rows)
        return 0;
    const char *fault = sound_fault(rows);
    if (fault)
        found(fault);
    if (rows->len != size || memcmp(rows->packed, data, size) != 0)
        found("the packed rows are not as they came");
    expect_refused(data, size - 1);
    walk_rows(rows_tables(rows));
    rows_free(rows);
    return 0;
}
