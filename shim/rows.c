#include "rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "unpack.h"

enum {
    RESERVE = 4 * 1024 * 1024, /* more than LIMIT_ROWS bytes can unfold to */
    LEAST_CHOICE = 4,          /* bytes of a choice, packed */
};

static const char *const contexts[] = {
    [CONTEXT_ANY] = "any", [CONTEXT_PLAIN] = "plain", [CONTEXT_WRAP] = "wrap",
    [CONTEXT_MESSAGE_INIT] = "message-init", [CONTEXT_MESSAGE] = "message",
};


/* ---- mechanisms and attributes ---- */

/* Rows that begin with their number. */
static CK_ULONG number_of(const void *row)
{
    CK_ULONG number;
    memcpy(&number, row, sizeof number);
    return number;
}

static int by_number(const void *a, const void *b)
{
    return (number_of(a) > number_of(b)) - (number_of(a) < number_of(b));
}

/* Two rows in order become one: of two with one number the vendor's counts. Returns their number. */
static unsigned lay_over(uint8_t *ret, size_t size, const uint8_t *standard, unsigned n, const uint8_t *theirs, size_t m)
{
    unsigned count = 0;
    for (size_t i = 0, k = 0; i < n || k < m; count++) {
        bool take_theirs = k < m && (i == n || number_of(theirs + k * size) <= number_of(standard + i * size));
        if (take_theirs && i < n && number_of(theirs + k * size) == number_of(standard + i * size))
            i++;
        memcpy(ret + count * size, take_theirs ? theirs + k++ * size : standard + i++ * size, size);
    }
    return count;
}

/* In the order of their numbers, over the standard's. */
static void *order(struct unpacking *d, size_t size, const void *standard, unsigned n, uint8_t *theirs, size_t m, unsigned *ret_count)
{
    uint8_t *all = unpack_memory(d, n + m, size);
    if (unpack_failed(d))
        return NULL;
    qsort(theirs, m, size, by_number);
    for (size_t i = 1; i < m; i++)
        if (number_of(theirs + i * size) == number_of(theirs + (i - 1) * size))
            unpack_fail(d);
    *ret_count = lay_over(all, size, standard, n, theirs, m);
    return all;
}

static void take_probe(struct unpacking *d, struct choice *choice)
{
    if (read_nil_if(&d->r))
        return;
    if (!read_array_of(&d->r, 2))
        return;
    const struct layout *layout = &d->layouts[choice->kind == VALUE_STRUCT ? choice->type : 0];
    unsigned place = unpack_at_most(d, LIMIT_FIELDS - 1);
    choice->probe_max = unpack_value(d);
    if (unpack_failed(d) || choice->kind != VALUE_STRUCT || place >= layout->n_fields || layout->fields[place].kind != FIELD_NUMBER)
        unpack_fail(d);
    else
        choice->probe = layout->fields[place].offset;
}

/* `[context, kind, struct | [usual length, output] | nil, probe]` */
static void take_choice(struct unpacking *d, struct choice *choice)
{
    if (!read_array_of(&d->r, 4))
        return;
    choice->context = unpack_word(d, contexts, sizeof contexts / sizeof *contexts);
    choice->kind = unpack_word(d, unpack_kinds_of_value, VALUE_NONE);
    if (choice->kind == VALUE_NUMBERS || choice->kind == VALUE_TEMPLATE)
        unpack_fail(d);
    if (choice->kind == VALUE_STRUCT) {
        choice->type = unpack_struct(d);
    } else if (choice->kind == VALUE_BYTES && read_array_of(&d->r, 2)) {
        choice->type = unpack_at_most(d, UINT16_MAX);
        choice->output = read_bool(&d->r);
    } else {
        read_nil(&d->r);
    }
    take_probe(d, choice);
}

/* What a signature may be is the standard's: no other struct is known to lie in one buffer. */
static uint16_t take_output(struct unpacking *d)
{
    if (read_nil_if(&d->r))
        return 0;
    uint16_t found = unpack_struct(d);
    if (!unpack_failed(d) && !d->layouts[found].signature)
        unpack_fail(d);
    return (uint16_t)(found + 1);
}

/* `[number, [choice…], struct of a signature | nil]` */
static void take_mechanism(struct unpacking *d, struct mechanism *row, unsigned room)
{
    if (!read_array_of(&d->r, 3))
        return;
    row->value = unpack_value(d);
    size_t count = unpack_count(d);
    if (count > UINT8_MAX || d->choice_count + count > room || d->choice_count + count > UINT16_MAX)
        unpack_fail(d);
    row->choices = (uint16_t)d->choice_count;
    row->n_choices = (uint8_t)count;
    for (size_t i = 0; i < count && !unpack_failed(d); i++)
        take_choice(d, &d->choices[d->choice_count++]);
    row->output = take_output(d);
}

static void take_mechanisms(struct unpacking *d, struct tables *ret_tables)
{
    const struct tables *t = &standard_tables;
    size_t count = unpack_count(d);
    size_t room = t->choice_count + (d->r.end - d->r.pos) / LEAST_CHOICE;
    d->choices = unpack_memory(d, room, sizeof *d->choices);
    struct mechanism *theirs = unpack_memory(d, count, sizeof *theirs);
    if (unpack_failed(d))
        return;
    memcpy(d->choices, t->choices, t->choice_count * sizeof *t->choices);
    d->choice_count = t->choice_count;
    for (size_t i = 0; i < count && !unpack_failed(d); i++)
        take_mechanism(d, &theirs[i], (unsigned)room);
    ret_tables->mechanisms = order(d, sizeof *theirs, t->mechanisms, t->mechanism_count, (uint8_t *)theirs, count,
                                   &ret_tables->mechanism_count);
}

/* `[number, kind]` */
static void take_attribute(struct unpacking *d, struct attribute *row)
{
    if (!read_array_of(&d->r, 2))
        return;
    row->value = unpack_value(d);
    row->kind = unpack_word(d, unpack_kinds_of_value, VALUE_NONE);
    row->shown = row->kind != VALUE_BYTES;
    if (row->kind == VALUE_STRUCT || row->kind == VALUE_OBJECT || row->kind == VALUE_BYTE)
        unpack_fail(d);
}

static void take_attributes(struct unpacking *d, struct tables *ret_tables)
{
    const struct tables *t = &standard_tables;
    size_t count = unpack_count(d);
    struct attribute *theirs = unpack_memory(d, count, sizeof *theirs);
    for (size_t i = 0; i < count && !unpack_failed(d); i++)
        take_attribute(d, &theirs[i]);
    ret_tables->attributes = order(d, sizeof *theirs, t->attributes, t->attribute_count, (uint8_t *)theirs, count,
                                   &ret_tables->attribute_count);
}

/* ---- all of it ---- */

static long no_more(void *context, void *bytes, size_t max)
{
    (void)context, (void)bytes, (void)max;
    return 0;
}

/* `[structs, lengths, mechanisms, attributes]` */
static void take_rows(struct unpacking *d, struct tables *ret_tables)
{
    if (!read_array_of(&d->r, 4))
        return;
    unpack_structs(d);
    for (size_t n = unpack_count(d); n && !unpack_failed(d); n--)
        unpack_completion(d);
    if (!unpack_failed(d))
        unpack_check_parents(d);
    if (!unpack_failed(d))
        take_mechanisms(d, ret_tables);
    if (!unpack_failed(d))
        take_attributes(d, ret_tables);
    if (d->r.pos != d->r.end)
        unpack_fail(d);
    ret_tables->layouts = d->layouts;
    ret_tables->layout_count = d->layout_count;
    ret_tables->unions = d->unions;
    ret_tables->union_count = d->union_count;
    ret_tables->choices = d->choices;
    ret_tables->choice_count = d->choice_count;
}

/* The reader works on a copy: what was packed stays as it came. */
static struct rows *begin(struct unpacking *d, const uint8_t *packed, size_t len)
{
    struct rows *rows = unpack_memory(d, 1, sizeof *rows);
    uint8_t *kept = unpack_memory(d, len, 1), *copy = unpack_memory(d, len, 1);
    if (unpack_failed(d))
        return NULL;
    memcpy(kept, packed, len);
    memcpy(copy, packed, len);
    reader_init(&d->r, copy, no_more, NULL);
    d->r.end = len;
    d->r.left = len;
    rows->packed = kept;
    rows->len = len;
    return rows;
}

struct rows *rows_decode(const uint8_t *packed, size_t len, int *ret_error)
{
    struct unpacking d = {0};
    struct rows *rows = NULL;
    if (len > LIMIT_ROWS)
        reader_fail(&d.r, -EMSGSIZE);
    else if (arena_init(&d.arena, RESERVE) != 0)
        reader_fail(&d.r, -ENOMEM);
    else if ((rows = begin(&d, packed, len)))
        take_rows(&d, &rows->tables);
    *ret_error = d.r.error;
    if (!d.r.error) {
        rows->arena = d.arena;
        return rows;
    }
    if (d.arena.base)
        arena_finish(&d.arena);
    return NULL;
}

void rows_free(struct rows *rows)
{
    if (!rows)
        return;
    struct arena arena = rows->arena; /* it lies in itself */
    arena_finish(&arena);
}

const struct tables *rows_tables(const struct rows *rows)
{
    return rows ? &rows->tables : &standard_tables;
}
