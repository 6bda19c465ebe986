/* Prints every row of the descriptor tables, one a line, in the form that test_tables.py expects. */
#include <inttypes.h>
#include <stdio.h>

#include "layouts.h"
#include "tables.h"

static void dump_functions(void)
{
    for (const struct function *f = functions; f < functions + FUNCTION_COUNT; f++) {
        printf("function %.*s %u %u %u %u %d %d %lu %lu\n", f->name_len, f->name, f->n_args, f->n_words, f->context,
               f->patience, f->secret, f->local, f->gone, f->absent);
        if (f->without)
            printf("without %u %d %u %lu %lu\n", f->without->pos, f->without->told, f->without->offset, f->without->flag,
                   f->without->refusal);
        for (const struct arg *a = f->args; a < f->args + f->n_args; a++)
            printf("arg %u %u %u %u %u %u\n", a->kind, a->pos, a->len, a->count, a->optional, a->type);
    }
}

static void dump_layouts(void)
{
    for (const struct layout *l = layouts; l < layouts + layout_count; l++) {
        printf("layout %.*s %u %u %u %d\n", l->name_len, l->name, l->size, l->align, l->n_fields, l->signature);
        for (const struct field *f = l->fields; f < l->fields + l->n_fields; f++)
            printf("field %u %u %u %u %u %u\n", f->offset, f->length, f->type, f->kind, f->unit, f->dir);
    }
}

static void dump_union(unsigned index)
{
    const struct tagged_union *u = &unions[index];
    printf("union %u %u\n", u->tag, u->n_variants);
    for (const struct variant *v = u->variants; v < u->variants + u->n_variants; v++)
        printf("variant %lu %u %u\n", v->tag, v->type, v->kind);
}

static void dump_mechanisms(void)
{
    for (const struct mechanism *m = mechanisms; m < mechanisms + mechanism_count; m++) {
        printf("mechanism %lu %u %u\n", m->value, m->output, m->n_choices);
        for (const struct choice *c = choices + m->choices; c < choices + m->choices + m->n_choices; c++)
            printf("choice %u %u %d %u %u %lu\n", c->context, c->kind, c->output, c->type, c->probe, c->probe_max);
    }
}

int main(void)
{
    dump_functions();
    dump_layouts();
    dump_union(UNION_CK_OTP_PARAM);
    dump_union(UNION_CK_PRF_DATA_PARAM);
    dump_mechanisms();
    for (const struct attribute *a = attributes; a < attributes + attribute_count; a++)
        printf("attribute %lu %u %d\n", a->value, a->kind, a->shown);
    printf("digest %" PRIu64 "\n", tables_digest);
    for (unsigned i = 0; i < sizeof patience_ms / sizeof *patience_ms; i++)
        printf("patience %" PRIu32 "\n", patience_ms[i]);
    return 0;
}
