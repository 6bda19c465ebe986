#include "make.h"

#include <string.h>

#include "fence.h"
#include "visit.h"
#include "walk.h"

enum { DEEPEST = 3 }; /* templates and mechanisms inside one another */

static unsigned depth;

static void set_number(uint8_t *at, CK_ULONG value)
{
    memcpy(at, &value, sizeof value);
}

static void set_pointer(uint8_t *at, const void *value)
{
    memcpy(at, &value, sizeof value);
}

/* Mostly short; sometimes so long that it is sent by reference, or does not fit the reader's buffer. */
static size_t some_length(struct dice *d)
{
    switch (fence_is_full() ? 0 : dice_throw(d, 32)) {
    case 31: return 70000 + dice_throw(d, 1000);
    case 30: return 8190 + dice_throw(d, 4);
    case 29: return 0;
    default: return dice_throw(d, 40);
    }
}

static void *some_bytes(struct dice *d, size_t len)
{
    void *bytes = fence_alloc(len);
    dice_fill(d, bytes, len);
    return bytes;
}

static CK_ULONG *some_cell(CK_ULONG value)
{
    CK_ULONG *cell = fence_alloc(sizeof *cell);
    *cell = value;
    return cell;
}

/* A client handle: 0 or any that the tests' names know. */
static CK_ULONG some_object(struct dice *d)
{
    return dice_once_in(d, 8) ? 0 : 1 + dice_throw(d, 1U << 24);
}

/* ---- templates ---- */

static CK_ATTRIBUTE *make_template(struct dice *d, CK_ULONG count, bool query);

static CK_ATTRIBUTE_TYPE some_type(struct dice *d)
{
    unsigned n = dice_throw(d, attribute_count + 4);
    if (n < attribute_count)
        return attributes[n].value;
    return n % 2 ? CKA_LABEL : CKA_VENDOR_DEFINED + n;
}

static CK_ULONG usual_length(struct dice *d, enum value_kind kind)
{
    switch (kind) {
    case VALUE_NUMBER: return sizeof(CK_ULONG);
    case VALUE_BOOL: return 1;
    case VALUE_NUMBERS: return dice_throw(d, 6) * sizeof(CK_ULONG);
    default: return some_length(d);
    }
}

static void make_nested(struct dice *d, CK_ATTRIBUTE *a, bool query)
{
    CK_ULONG count = depth < DEEPEST && !fence_is_full() ? dice_throw(d, 4) : 0;
    a->pValue = make_template(d, count, query);
    a->ulValueLen = count * sizeof *a;
}

static void make_plain_value(struct dice *d, CK_ATTRIBUTE *a, enum value_kind kind)
{
    a->ulValueLen = dice_once_in(d, 8) ? dice_throw(d, 20) : usual_length(d, kind);
    a->pValue = some_bytes(d, a->ulValueLen);
    if (kind == VALUE_BOOL && a->ulValueLen == 1 && dice_throw(d, 4))
        *(uint8_t *)a->pValue &= 1;
}

/* A list that is absent has no length; anything else may have one. */
static void make_attribute(struct dice *d, CK_ATTRIBUTE *a, bool query)
{
    *a = (CK_ATTRIBUTE){.type = some_type(d)};
    enum value_kind kind = attribute_kind(&standard_tables, a->type);
    bool list = kind == VALUE_TEMPLATE || kind == VALUE_NUMBERS;
    if (dice_once_in(d, 6))
        a->ulValueLen = list && !query ? 0 : (CK_ULONG)dice_number(d);
    else if (kind == VALUE_TEMPLATE)
        make_nested(d, a, query);
    else
        make_plain_value(d, a, kind);
}

static CK_ATTRIBUTE *make_template(struct dice *d, CK_ULONG count, bool query)
{
    CK_ATTRIBUTE *template = fence_alloc(count * sizeof *template);
    depth++;
    for (CK_ULONG i = 0; i < count; i++)
        make_attribute(d, &template[i], query);
    depth--;
    return template;
}

/* ---- structs ---- */

/* A small number where a pointer's length stands, be it in this struct or, for the inner one, in the enclosing one. */
static void make_lengths(struct dice *d, const struct layout *layout, uint8_t *base)
{
    static const CK_ULONG nonces[] = {0, 8, 12, 24, 64, 96, 192, 32};
    for (unsigned i = 0; i < layout->n_fields; i++) {
        const struct field *field = &layout->fields[i];
        if (field->unit == UNIT_FIELD)
            set_number(base + field->length, field->kind == FIELD_BYTES ? some_length(d) : dice_throw(d, 4));
        else if (field->unit == UNIT_BITS)
            set_number(base + field->length, dice_throw(d, 300));
        else if (field->unit == UNIT_BYTES_OR_BITS)
            set_number(base + field->length, nonces[dice_throw(d, 8)]);
        const struct layout *inner = field->kind == FIELD_STRUCTS ? &layouts[field->type] : NULL;
        for (unsigned k = 0; inner && k < inner->n_fields; k++)
            if (inner->fields[k].unit == UNIT_PARENT_BITS)
                set_number(base + inner->fields[k].length, dice_throw(d, 300));
    }
}

static void make_inner(struct dice *d, const struct layout *layout, uint8_t *base, const uint8_t *parent);

static void *make_structs(struct dice *d, const struct layout *layout, CK_ULONG count, const uint8_t *parent)
{
    uint8_t *first = fence_alloc(count * layout->size);
    for (CK_ULONG i = 0; i < count; i++)
        make_inner(d, layout, first + i * layout->size, parent);
    return first;
}

static void *some_text(struct dice *d)
{
    size_t len = dice_throw(d, 30);
    char *text = fence_alloc(len + 1);
    memset(text, 'a' + (int)dice_throw(d, 26), len);
    text[len] = '\0';
    return text;
}

static size_t variant_length(struct dice *d, const struct variant *variant)
{
    if (!variant || variant->kind == VALUE_BYTES)
        return some_length(d);
    return variant->kind == VALUE_STRUCT ? layouts[variant->type].size : sizeof(CK_ULONG);
}

/* The tag is one of the table's, or none. */
static void make_union(struct dice *d, const struct field *field, uint8_t *base)
{
    const struct tagged_union *u = &unions[field->type];
    unsigned n = dice_throw(d, u->n_variants + 1U);
    const struct variant *variant = n < u->n_variants ? &u->variants[n] : NULL;
    size_t len = variant_length(d, variant);
    uint8_t *value = some_bytes(d, len);
    set_number(base + u->tag, variant ? variant->tag : CK_UNAVAILABLE_INFORMATION - 1);
    set_number(base + field->length, len);
    set_pointer(base + field->offset, value);
    if (variant && variant->kind == VALUE_STRUCT)
        make_inner(d, &layouts[variant->type], value, base);
    else if (variant && variant->kind == VALUE_OBJECT)
        set_number(value, some_object(d));
}

static CK_MECHANISM *some_mechanism(struct dice *d, uint8_t context);

/* What a pointer that is not NULL leads to; its length is known by now. */
static void *make_pointed(struct dice *d, const struct field *field, const uint8_t *base, const uint8_t *parent)
{
    CK_ULONG count = 0;
    if (field->unit == UNIT_NUL)
        return some_text(d);
    if (!visit_extent(field, base, parent, &count))
        return NULL;
    switch ((enum field_kind)field->kind) {
    case FIELD_BYTES: return some_bytes(d, count);
    case FIELD_NUMBER_PTR: return some_cell(dice_throw(d, 60));
    case FIELD_OBJECT_PTR: return some_cell(some_object(d));
    case FIELD_STRUCTS: return make_structs(d, &layouts[field->type], count, base);
    case FIELD_TEMPLATE: return make_template(d, count, false);
    case FIELD_MECHANISM: return depth < DEEPEST ? some_mechanism(d, CONTEXT_PLAIN) : NULL;
    default: return NULL;
    }
}

static void make_pointer(struct dice *d, const struct field *field, uint8_t *base, const uint8_t *parent)
{
    bool none = dice_once_in(d, 8) || field->unit == UNIT_UNKNOWN;
    set_pointer(base + field->offset, NULL);
    if (none)
        return;
    if (field->kind == FIELD_UNION)
        make_union(d, field, base);
    else
        set_pointer(base + field->offset, make_pointed(d, field, base, parent));
}

static void make_scalar(struct dice *d, const struct field *field, uint8_t *base)
{
    uint8_t *at = base + field->offset;
    switch ((enum field_kind)field->kind) {
    case FIELD_OBJECT: set_number(at, some_object(d)); break;
    case FIELD_BYTE: dice_fill(d, at, 1); break;
    case FIELD_FIXED: dice_fill(d, at, field->length); break;
    case FIELD_STRUCT: make_inner(d, &layouts[field->type], at, base); break;
    default: set_number(at, (CK_ULONG)dice_number(d));
    }
}

/* Scalars, then lengths over them, then cells that hold lengths, then all other pointers. */
static void make_inner(struct dice *d, const struct layout *layout, uint8_t *base, const uint8_t *parent)
{
    for (unsigned i = 0; i < layout->n_fields; i++)
        if (layout->fields[i].kind < FIELD_BYTES)
            make_scalar(d, &layout->fields[i], base);
    make_lengths(d, layout, base);
    for (int cells = 1; cells >= 0; cells--)
        for (unsigned i = 0; i < layout->n_fields; i++) {
            const struct field *field = &layout->fields[i];
            if (field->kind >= FIELD_BYTES && (field->kind == FIELD_NUMBER_PTR) == (cells == 1))
                make_pointer(d, field, base, parent);
        }
}

void make_fields(struct dice *d, const struct layout *layout, uint8_t *base)
{
    make_inner(d, layout, base, NULL);
}

/* ---- mechanisms ---- */

static size_t parameter_length(struct dice *d, const struct choice *choice)
{
    switch ((enum value_kind)choice->kind) {
    case VALUE_STRUCT: return layouts[choice->type].size;
    case VALUE_NUMBER:
    case VALUE_OBJECT: return sizeof(CK_ULONG);
    case VALUE_BYTE:
    case VALUE_BOOL: return 1;
    case VALUE_NONE: return 0;
    default: return choice->type ? choice->type : some_length(d);
    }
}

/* Two structs of one size are told apart by a number in them, which then must be what the choice asks for. */
static void make_struct(struct dice *d, const struct choice *choice, uint8_t *base)
{
    do
        make_fields(d, &layouts[choice->type], base);
    while (choice->probe_max && visit_number(base + choice->probe) > choice->probe_max);
}

CK_MECHANISM *make_mechanism(struct dice *d, const struct mechanism *mechanism, const struct choice *choice)
{
    CK_MECHANISM *m = fence_alloc(sizeof *m);
    *m = (CK_MECHANISM){.mechanism = mechanism->value};
    if (!choice)
        return m;
    m->ulParameterLen = parameter_length(d, choice);
    m->pParameter = some_bytes(d, m->ulParameterLen);
    depth++;
    if (choice->kind == VALUE_STRUCT)
        make_struct(d, choice, m->pParameter);
    else if (choice->kind == VALUE_OBJECT)
        set_number(m->pParameter, some_object(d));
    depth--;
    return m;
}

/* Any mechanism with a parameter that holds in this context, or with none. */
static CK_MECHANISM *some_mechanism(struct dice *d, uint8_t context)
{
    const struct mechanism *m = &mechanisms[dice_throw(d, mechanism_count)];
    for (unsigned tries = 0; tries < 4 && m->n_choices == 0; tries++)
        m = &mechanisms[dice_throw(d, mechanism_count)];
    const struct choice *choice = m->n_choices ? &choices[m->choices + dice_throw(d, m->n_choices)] : NULL;
    bool holds = choice && (choice->context == CONTEXT_ANY || choice->context == context);
    CK_MECHANISM *made = make_mechanism(d, m, holds && !dice_once_in(d, 10) ? choice : NULL);
    if (!made->pParameter && dice_once_in(d, 4))
        made->ulParameterLen = (CK_ULONG)dice_number(d);
    return made;
}

const struct choice *make_find_choice(const struct mechanism *mechanism, enum context context)
{
    for (unsigned i = 0; i < mechanism->n_choices; i++) {
        const struct choice *choice = &choices[mechanism->choices + i];
        if (choice->context == CONTEXT_ANY || choice->context == (uint8_t)context)
            return choice;
    }
    return NULL;
}

bool make_next_way(struct way *way)
{
    const struct mechanism *m = way->mechanism ? way->mechanism : mechanisms;
    unsigned next = way->choice ? (unsigned)(way->choice - &choices[m->choices]) + 1 : 0;
    while (m < mechanisms + mechanism_count && next >= m->n_choices)
        m++, next = 0;
    bool more = m < mechanisms + mechanism_count;
    *way = more ? (struct way){m, &choices[m->choices + next]} : (struct way){0};
    return more;
}

int make_find_arg(const struct function *function, enum arg_kind kind)
{
    for (int i = 0; i < function->n_args; i++)
        if (function->args[i].kind == kind)
            return i;
    return -1;
}

bool make_crosses(const struct function *function)
{
    return !function->local;
}

const struct function *make_function_for(const struct choice *choice)
{
    for (unsigned i = 0; i < FUNCTION_COUNT; i++)
        if (make_find_arg(&functions[i], ARG_MECHANISM) >= 0 &&
            (choice->context == CONTEXT_ANY || choice->context == functions[i].context))
            return &functions[i];
    return NULL;
}

/* ---- arguments ---- */

static void make_capacity(struct dice *d, const struct arg *arg, uintptr_t *words, size_t size)
{
    CK_ULONG room = size == 1 ? some_length(d) : dice_throw(d, 20);
    bool cell = !dice_once_in(d, 10);
    words[arg->pos] = dice_once_in(d, 5) ? 0 : (uintptr_t)fence_alloc(cell ? room * size : 0);
    words[arg->len] = cell ? (uintptr_t)some_cell(room) : 0;
}

static void make_objects(struct dice *d, const struct arg *arg, uintptr_t *words)
{
    CK_ULONG max = dice_throw(d, 20);
    words[arg->pos] = dice_once_in(d, 5) ? 0 : (uintptr_t)fence_alloc(max * sizeof max);
    words[arg->len] = max;
    words[arg->count] = dice_once_in(d, 10) ? 0 : (uintptr_t)some_cell((CK_ULONG)dice_number(d));
}

static void make_pair(struct dice *d, const struct arg *arg, uintptr_t *words)
{
    size_t len = some_length(d);
    words[arg->pos] = dice_once_in(d, 6) ? 0 : (uintptr_t)some_bytes(d, len);
    words[arg->len] = words[arg->pos] ? len : (uintptr_t)dice_number(d);
}

/* Of any mechanism, often one with a struct of its own for messages. */
static void make_message(struct dice *d, const struct arg *arg, uintptr_t *words)
{
    static const CK_MECHANISM_TYPE usual[] = {CKM_AES_GCM, CKM_AES_CCM, CKM_CHACHA20_POLY1305, CKM_AES_CBC};
    const struct mechanism *m = tables_mechanism(&standard_tables, usual[dice_throw(d, 4)]);
    if (dice_once_in(d, 3))
        m = &mechanisms[dice_throw(d, mechanism_count)];
    const struct choice *choice = make_find_choice(m, CONTEXT_MESSAGE);
    CK_MECHANISM *made = make_mechanism(d, m, dice_once_in(d, 6) ? NULL : choice);
    visit_operation = m->value;
    words[arg->pos] = (uintptr_t)made->pParameter;
    words[arg->len] = made->pParameter ? made->ulParameterLen : (CK_ULONG)dice_number(d);
    if (!choice && m->n_choices == 0 && dice_once_in(d, 2))
        make_pair(d, arg, words);
}

static void make_template_arg(struct dice *d, const struct arg *arg, uintptr_t *words)
{
    CK_ULONG count = dice_throw(d, 8);
    bool none = dice_once_in(d, 8);
    words[arg->pos] = none ? 0 : (uintptr_t)make_template(d, count, arg->kind == ARG_TEMPLATE_IO);
    words[arg->len] = none ? (uintptr_t)dice_number(d) : count;
}

static void *make_output(struct dice *d, size_t size)
{
    return dice_once_in(d, 8) ? NULL : fence_alloc(size);
}

static void make_arg(struct dice *d, const struct function *f, const struct arg *arg, uintptr_t *words)
{
    uintptr_t *word = &words[arg->pos];
    switch ((enum arg_kind)arg->kind) {
    case ARG_NUMBER:
    case ARG_SLOT: *word = (uintptr_t)dice_number(d); break;
    case ARG_SESSION: *word = 1 + dice_throw(d, 1U << 24); break;
    case ARG_OBJECT: *word = some_object(d); break;
    case ARG_BOOL: *word = dice_throw(d, 256); break;
    case ARG_MESSAGE: make_message(d, arg, words); break;
    case ARG_BYTES: make_pair(d, arg, words); break;
    case ARG_FIXED: *word = dice_once_in(d, 6) ? 0 : (uintptr_t)some_bytes(d, arg->type); break;
    case ARG_STRING: *word = dice_once_in(d, 6) ? 0 : (uintptr_t)some_text(d); break;
    case ARG_TEMPLATE:
    case ARG_TEMPLATE_IO: make_template_arg(d, arg, words); break;
    case ARG_MECHANISM: *word = dice_once_in(d, 10) ? 0 : (uintptr_t)some_mechanism(d, f->context); break;
    case ARG_OUT_BYTES: make_capacity(d, arg, words, 1); break;
    case ARG_OUT_NUMBERS:
    case ARG_OUT_SLOTS: make_capacity(d, arg, words, sizeof(CK_ULONG)); break;
    case ARG_OUT_EXACT:
        words[arg->len] = some_length(d);
        *word = (uintptr_t)make_output(d, words[arg->len]);
        break;
    case ARG_OUT_NUMBER:
    case ARG_OUT_SLOT:
    case ARG_OUT_SESSION:
    case ARG_OUT_OBJECT: *word = (uintptr_t)make_output(d, sizeof(CK_ULONG)); break;
    case ARG_OUT_OBJECTS: make_objects(d, arg, words); break;
    case ARG_OUT_STRUCT: *word = (uintptr_t)make_output(d, layouts[arg->type].size); break;
    case ARG_RESERVED: *word = (uintptr_t)make_output(d, sizeof(CK_ULONG)); break;
    case ARG_LOCAL: break;
    }
}

void make_call(struct dice *d, const struct function *function, uintptr_t *ret_words)
{
    memset(ret_words, 0, function->n_words * sizeof *ret_words);
    for (unsigned i = 0; i < function->n_args; i++)
        make_arg(d, function, &function->args[i], ret_words);
}
