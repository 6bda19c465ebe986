#include "visit.h"

#include <string.h>

#include "walk.h"

struct visit {
    struct leaves *leaves;
    uint8_t context; /* enum context of the function */
    uint8_t when;
    bool inner; /* in a mechanism inside another, which is an input whole */
    visit_guard *may_read;
    const void *guard;
};

CK_ULONG visit_number(const void *at)
{
    CK_ULONG value;
    memcpy(&value, at, sizeof value);
    return value;
}

void *visit_pointer(const void *at)
{
    void *value;
    memcpy(&value, at, sizeof value);
    return value;
}

static struct leaf *add(struct visit *v, enum leaf_kind kind, void *at, size_t size, uint8_t dir)
{
    static struct leaf lost;
    if (v->leaves->count == LEAVES) {
        v->leaves->complete = false;
        return &lost;
    }
    struct leaf *leaf = &v->leaves->list[v->leaves->count++];
    *leaf = (struct leaf){.at = at, .size = size, .kind = (uint8_t)kind, .dir = v->inner ? dir & DIR_IN : dir, .when = v->when};
    return leaf;
}

static bool leads_somewhere(struct visit *v, const void *p, size_t size)
{
    bool can = !v->may_read || v->may_read(v->guard, p, size);
    v->leaves->astray |= !can;
    return can;
}

static void *add_pointer(struct visit *v, void *cell)
{
    add(v, LEAF_POINTER, cell, sizeof(void *), DIR_IN);
    return visit_pointer(cell);
}

static void add_number(struct visit *v, void *at, uint8_t dir)
{
    add(v, LEAF_NUMBERS, at, sizeof(CK_ULONG), dir);
}

/* ---- templates ---- */

static bool nests(const CK_ATTRIBUTE *a)
{
    return attribute_kind(&standard_tables, a->type) == VALUE_TEMPLATE && a->ulValueLen % sizeof *a == 0;
}

static void visit_template(struct visit *v, CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (!leads_somewhere(v, template, count * sizeof *template))
        return;
    for (CK_ULONG i = 0; i < count && v->leaves->complete; i++) {
        CK_ATTRIBUTE *a = &template[i];
        add_number(v, &a->type, DIR_IN);
        add_number(v, &a->ulValueLen, DIR_IN);
        if (!add_pointer(v, &a->pValue))
            continue;
        if (nests(a))
            visit_template(v, a->pValue, a->ulValueLen / sizeof *a);
        else
            add(v, LEAF_BYTES, a->pValue, a->ulValueLen, DIR_IN);
    }
}

/* Of C_GetAttributeValue. In a nested template the type is an output too. */
static void visit_query(struct visit *v, CK_ATTRIBUTE *template, CK_ULONG count, bool nested)
{
    if (!leads_somewhere(v, template, count * sizeof *template))
        return;
    for (CK_ULONG i = 0; i < count && v->leaves->complete; i++) {
        CK_ATTRIBUTE *a = &template[i];
        bool inner = attribute_kind(&standard_tables, a->type) == VALUE_TEMPLATE;
        add_number(v, &a->type, nested ? DIR_INOUT : DIR_IN);
        v->when = nested ? WHEN_TEMPLATE : WHEN_ALWAYS; /* of other errors come the lengths alone, and no deeper ones */
        add(v, inner && a->pValue ? LEAF_COUNT : LEAF_LENGTH, &a->ulValueLen, sizeof a->ulValueLen, DIR_INOUT);
        v->when = WHEN_TEMPLATE;
        if (!add_pointer(v, &a->pValue))
            continue;
        if (inner) {
            visit_query(v, a->pValue, a->ulValueLen / sizeof *a, true);
            continue;
        }
        struct leaf *leaf = add(v, LEAF_BYTES, a->pValue, a->ulValueLen, DIR_OUT);
        leaf->length = &a->ulValueLen;
        leaf->unit = 1;
    }
}

/* ---- mechanisms and structs ---- */

static void visit_fields(struct visit *v, const struct layout *layout, uint8_t *base, const uint8_t *parent, uint8_t dir);

static const struct mechanism *find_mechanism(CK_MECHANISM_TYPE type)
{
    for (unsigned i = 0; i < mechanism_count; i++)
        if (mechanisms[i].value == type)
            return &mechanisms[i];
    return NULL;
}

static bool is_as_long(const struct choice *choice, CK_ULONG len)
{
    if (choice->kind == VALUE_NONE)
        return len == 0;
    return choice->kind != VALUE_STRUCT || len == layouts[choice->type].size;
}

const struct choice *visit_choose(uint8_t context, const CK_MECHANISM *mechanism)
{
    const struct mechanism *row = find_mechanism(mechanism->mechanism);
    const uint8_t *parameter = mechanism->pParameter;
    for (unsigned i = 0; row && i < row->n_choices; i++) {
        const struct choice *c = &choices[row->choices + i];
        bool in_context = c->context == CONTEXT_ANY || c->context == context;
        if (in_context && is_as_long(c, mechanism->ulParameterLen) &&
            (!c->probe_max || visit_number(parameter + c->probe) <= c->probe_max))
            return c;
    }
    return NULL;
}

static void visit_mechanism(struct visit *v, CK_MECHANISM *mechanism)
{
    if (!leads_somewhere(v, mechanism, sizeof *mechanism))
        return;
    add_number(v, &mechanism->mechanism, DIR_IN);
    add_number(v, &mechanism->ulParameterLen, DIR_IN);
    uint8_t *parameter = add_pointer(v, &mechanism->pParameter);
    CK_ULONG len = mechanism->ulParameterLen;
    if (!parameter || len == 0 || !leads_somewhere(v, parameter, len))
        return;
    const struct choice *c = visit_choose(v->context, mechanism);
    if (c && c->kind == VALUE_STRUCT)
        visit_fields(v, &layouts[c->type], parameter, NULL, DIR_IN);
    else if (c && c->kind == VALUE_OBJECT && len == sizeof(CK_ULONG))
        add(v, LEAF_OBJECTS, parameter, len, DIR_IN);
    else
        add(v, LEAF_BYTES, parameter, len, c && c->output ? DIR_INOUT : DIR_IN);
}

CK_MECHANISM_TYPE visit_operation;

/* What no struct or number is described for is bytes, and the provider may write them. */
static void visit_message(struct visit *v, uint8_t *parameter, CK_ULONG len)
{
    const CK_MECHANISM mechanism = {visit_operation, parameter, len};
    if (len == 0 || !leads_somewhere(v, parameter, len))
        return;
    const struct choice *c = visit_choose(v->context, &mechanism);
    if (c && c->kind == VALUE_STRUCT)
        visit_fields(v, &layouts[c->type], parameter, NULL, DIR_IN);
    else if (c && c->kind == VALUE_OBJECT && len == sizeof(CK_ULONG))
        add(v, LEAF_OBJECTS, parameter, len, DIR_IN);
    else
        add(v, LEAF_BYTES, parameter, len, c && c->kind != VALUE_BYTES ? DIR_IN : DIR_INOUT);
}

static void visit_inner_mechanism(struct visit *v, CK_MECHANISM *mechanism)
{
    bool before = v->inner;
    v->inner = true;
    visit_mechanism(v, mechanism);
    v->inner = before;
}

bool visit_extent(const struct field *field, const uint8_t *base, const uint8_t *parent, CK_ULONG *ret_count)
{
    const uint8_t *from = field->unit == UNIT_PARENT_BITS ? parent : base;
    CK_ULONG n = 0;
    if (from && field->unit >= UNIT_FIELD && field->unit <= UNIT_PARENT_BITS && field->unit != UNIT_DEREF)
        n = visit_number(from + field->length);
    CK_ULONG in_bytes = n / 8 + (n % 8 > 0);
    switch ((enum unit)field->unit) {
    case UNIT_NONE: *ret_count = 1; return true;
    case UNIT_FIXED: *ret_count = field->length; return true;
    case UNIT_FIELD: *ret_count = n; return true;
    case UNIT_BITS: *ret_count = in_bytes; return true;
    case UNIT_BYTES_OR_BITS: *ret_count = n <= 24 ? n : in_bytes; return true;
    case UNIT_PARENT_BITS: *ret_count = in_bytes; return parent != NULL;
    case UNIT_DEREF:
        from = visit_pointer(base + field->length);
        *ret_count = from ? visit_number(from) : 0;
        return true;
    case UNIT_NUL: *ret_count = strlen(visit_pointer(base + field->offset)) + 1; return true;
    case UNIT_UNKNOWN: break;
    }
    return false;
}

const struct variant *visit_variant(const struct field *field, const uint8_t *base)
{
    const struct tagged_union *u = &unions[field->type];
    for (unsigned i = 0; i < u->n_variants; i++)
        if (u->variants[i].tag == visit_number(base + u->tag))
            return &u->variants[i];
    return NULL;
}

static void visit_union(struct visit *v, const struct field *field, uint8_t *base, uint8_t *value, CK_ULONG len)
{
    const struct variant *variant = visit_variant(field, base);
    if (!leads_somewhere(v, value, len))
        return;
    if (variant && variant->kind == VALUE_STRUCT && len != layouts[variant->type].size)
        v->leaves->astray |= v->may_read != NULL; /* not every provider looks at the length */
    else if (variant && variant->kind == VALUE_STRUCT)
        visit_fields(v, &layouts[variant->type], value, base, DIR_IN);
    else if (variant && variant->kind == VALUE_OBJECT && len == sizeof(CK_ULONG))
        add(v, LEAF_OBJECTS, value, len, DIR_IN);
    else
        add(v, LEAF_BYTES, value, len, DIR_IN);
}

/* A length may stand behind a pointer of its own, or be found by reading to the end. */
static bool has_extent(struct visit *v, const struct field *field, const uint8_t *base, const uint8_t *parent, CK_ULONG *ret_count)
{
    const void *cell = field->unit == UNIT_DEREF ? visit_pointer(base + field->length) : NULL;
    if (cell && !leads_somewhere(v, cell, sizeof(CK_ULONG)))
        return false;
    for (size_t n = 1; field->unit == UNIT_NUL; n++) {
        const char *text = visit_pointer(base + field->offset);
        if (!leads_somewhere(v, text, n))
            return false;
        if (text[n - 1] == '\0')
            break;
    }
    return visit_extent(field, base, parent, ret_count);
}

static void visit_structs(struct visit *v, const struct layout *layout, uint8_t *first, CK_ULONG count, const uint8_t *parent, uint8_t dir)
{
    if (count > LEAVES || !leads_somewhere(v, first, count * layout->size))
        return;
    for (CK_ULONG i = 0; i < count && v->leaves->complete; i++)
        visit_fields(v, layout, first + i * layout->size, parent, dir);
}

static void visit_pointed(struct visit *v, const struct field *field, uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    CK_ULONG count;
    uint8_t *p = add_pointer(v, base + field->offset);
    if (!p || !has_extent(v, field, base, parent, &count))
        return;
    switch ((enum field_kind)field->kind) {
    case FIELD_BYTES: add(v, LEAF_BYTES, p, count, dir); break;
    case FIELD_NUMBER_PTR: add(v, LEAF_NUMBERS, p, count * sizeof(CK_ULONG), dir); break;
    case FIELD_OBJECT_PTR: add(v, LEAF_OBJECTS, p, count * sizeof(CK_ULONG), dir); break;
    case FIELD_TEMPLATE: visit_template(v, (CK_ATTRIBUTE *)(void *)p, count); break;
    case FIELD_MECHANISM: visit_inner_mechanism(v, (CK_MECHANISM *)(void *)p); break;
    case FIELD_UNION: visit_union(v, field, base, p, count); break;
    default: visit_structs(v, &layouts[field->type], p, count, base, dir);
    }
}

static void visit_field(struct visit *v, const struct field *field, uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    uint8_t *at = base + field->offset;
    switch ((enum field_kind)field->kind) {
    case FIELD_NUMBER: add_number(v, at, dir); break;
    case FIELD_OBJECT: add(v, LEAF_OBJECTS, at, sizeof(CK_ULONG), dir); break;
    case FIELD_SLOT: add(v, LEAF_SLOTS, at, sizeof(CK_ULONG), dir); break;
    case FIELD_BYTE: add(v, LEAF_BYTES, at, 1, dir); break;
    case FIELD_FIXED: add(v, LEAF_BYTES, at, field->length, dir); break;
    case FIELD_STRUCT: visit_fields(v, &layouts[field->type], at, base, dir); break;
    default: visit_pointed(v, field, base, parent, dir);
    }
}

/* Everything behind an output pointer is output. */
static void visit_fields(struct visit *v, const struct layout *layout, uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    for (unsigned i = 0; i < layout->n_fields && v->leaves->complete; i++)
        visit_field(v, &layout->fields[i], base, parent, dir == DIR_OUT ? dir : layout->fields[i].dir);
}

/* ---- arguments ---- */

static void visit_filled(struct visit *v, enum leaf_kind kind, void *buffer, CK_ULONG *cell, uint8_t unit)
{
    if (cell && !leads_somewhere(v, cell, sizeof *cell))
        return;
    if (cell)
        add(v, LEAF_LENGTH, cell, sizeof *cell, DIR_INOUT);
    if (!buffer)
        return;
    v->when = WHEN_OK;
    struct leaf *leaf = add(v, kind, buffer, cell ? *cell * unit : 0, DIR_OUT);
    leaf->length = cell;
    leaf->unit = unit;
    v->when = WHEN_ALWAYS;
}

/* Without a cell for the count the provider cannot say how many there are, and none come back. */
static void visit_objects(struct visit *v, void *objects, CK_ULONG max, CK_ULONG *cell)
{
    v->when = WHEN_OK;
    if (cell)
        add(v, LEAF_LENGTH, cell, sizeof *cell, DIR_OUT);
    if (objects) {
        struct leaf *leaf = add(v, LEAF_OBJECTS, objects, cell ? max * sizeof(CK_ULONG) : 0, DIR_OUT);
        leaf->length = cell;
        leaf->unit = sizeof(CK_ULONG);
    }
    v->when = WHEN_ALWAYS;
}

static void visit_when_ok(struct visit *v, enum leaf_kind kind, void *at, size_t size)
{
    if (!at)
        return;
    v->when = WHEN_OK;
    add(v, kind, at, size, DIR_OUT);
    v->when = WHEN_ALWAYS;
}

static void visit_info(struct visit *v, const struct layout *layout, uint8_t *base)
{
    v->when = WHEN_OK;
    if (base && leads_somewhere(v, base, layout->size))
        visit_fields(v, layout, base, NULL, DIR_OUT);
    v->when = WHEN_ALWAYS;
}

static void visit_cell(struct visit *v, enum leaf_kind kind, void *cell)
{
    if (cell)
        add(v, kind, cell, sizeof(CK_ULONG), DIR_OUT);
}

static void visit_arg(struct visit *v, const struct arg *arg, uintptr_t *words)
{
    uintptr_t *word = &words[arg->pos];
    void *p = (void *)*word;
    CK_ULONG len = words[arg->len];

    if (arg->kind > ARG_OBJECT && arg->kind < ARG_LOCAL)
        add_pointer(v, word);
    switch ((enum arg_kind)arg->kind) {
    case ARG_NUMBER:
    case ARG_BOOL: add_number(v, word, DIR_IN); break;
    case ARG_SLOT: add(v, LEAF_SLOTS, word, sizeof *word, DIR_IN); break;
    case ARG_SESSION: add(v, LEAF_SESSIONS, word, sizeof *word, DIR_IN); break;
    case ARG_OBJECT: add(v, LEAF_OBJECTS, word, sizeof *word, DIR_IN); break;
    case ARG_MESSAGE:
        add_number(v, &words[arg->len], DIR_IN);
        if (p)
            visit_message(v, p, len);
        break;
    case ARG_BYTES:
        add_number(v, &words[arg->len], DIR_IN);
        if (p)
            add(v, LEAF_BYTES, p, len, DIR_IN);
        break;
    case ARG_FIXED:
    case ARG_STRING:
        if (p)
            add(v, LEAF_BYTES, p, arg->kind == ARG_FIXED ? arg->type : strlen(p) + 1, DIR_IN);
        break;
    case ARG_TEMPLATE:
    case ARG_TEMPLATE_IO:
        add_number(v, &words[arg->len], DIR_IN);
        v->when = WHEN_TEMPLATE;
        if (p && arg->kind == ARG_TEMPLATE)
            visit_template(v, p, len);
        else if (p)
            visit_query(v, p, len, false);
        v->when = WHEN_ALWAYS;
        break;
    case ARG_MECHANISM:
        if (p)
            visit_mechanism(v, p);
        break;
    case ARG_OUT_BYTES: visit_filled(v, LEAF_BYTES, p, (void *)len, 1); break;
    case ARG_OUT_NUMBERS: visit_filled(v, LEAF_NUMBERS, p, (void *)len, sizeof(CK_ULONG)); break;
    case ARG_OUT_SLOTS: visit_filled(v, LEAF_SLOTS, p, (void *)len, sizeof(CK_ULONG)); break;
    case ARG_OUT_EXACT:
        add_number(v, &words[arg->len], DIR_IN);
        visit_when_ok(v, LEAF_BYTES, p, len);
        break;
    case ARG_OUT_NUMBER: visit_cell(v, LEAF_NUMBERS, p); break;
    case ARG_OUT_SLOT: visit_cell(v, LEAF_SLOTS, p); break;
    case ARG_OUT_SESSION: visit_cell(v, LEAF_SESSIONS, p); break;
    case ARG_OUT_OBJECT: visit_cell(v, LEAF_OBJECTS, p); break;
    case ARG_OUT_OBJECTS:
        add_number(v, &words[arg->len], DIR_IN);
        visit_objects(v, p, len, (void *)words[arg->count]);
        break;
    case ARG_OUT_STRUCT: visit_info(v, &layouts[arg->type], p); break;
    case ARG_RESERVED:
    case ARG_LOCAL: break;
    }
}

void visit_call(struct leaves *leaves, const struct function *function, uintptr_t *words, visit_guard *may_read, const void *context)
{
    struct visit v = {.leaves = leaves, .context = function->context, .may_read = may_read, .guard = context};
    leaves->count = 0;
    leaves->complete = true;
    leaves->astray = false;
    for (unsigned i = 0; i < function->n_args; i++)
        visit_arg(&v, &function->args[i], words);
}
