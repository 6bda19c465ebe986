/* Requests: what a caller gave is what the provider is given. For every function and every mechanism of the tables. */
#include <string.h>

#include "ends.h"
#include "fence.h"
#include "stand_in.h"
#include "test.h"
#include "visit.h"

enum { ROUNDS = 150, MECHANISM_ROUNDS = 12 };

static struct leaves callers, providers;

static const size_t portions[] = {0, 1, 7, 4096, 9};

static size_t portion_of(unsigned round)
{
    return portions[round % (sizeof portions / sizeof *portions)];
}

/* ---- comparing ---- */

static CK_ULONG pattern_of(const struct leaf *leaf, CK_ULONG value)
{
    switch ((enum leaf_kind)leaf->kind) {
    case LEAF_OBJECTS: return value ? OBJECT_PATTERN : 0;
    case LEAF_SESSIONS: return SESSION_PATTERN;
    case LEAF_SLOTS: return SLOT_PATTERN;
    default: return 0;
    }
}

static void expect_same_shape(const struct leaf *caller, const struct leaf *provider, size_t i)
{
    if (caller->kind != provider->kind || caller->dir != provider->dir || caller->size != provider->size)
        test_failed(__FILE__, __LINE__, "leaf %zu: kind %u, direction %u, %zu bytes became kind %u, direction %u, %zu bytes", i,
                    caller->kind, caller->dir, caller->size, provider->kind, provider->dir, provider->size);
}

static void expect_same_leaf(const struct leaf *caller, const struct leaf *provider)
{
    if (caller->kind == LEAF_POINTER) {
        expect((visit_pointer(caller->at) == NULL) == (visit_pointer(provider->at) == NULL));
    } else if (!(caller->dir & DIR_IN)) {
        return; /* nothing was said */
    } else if (caller->kind == LEAF_BYTES) {
        expect_bytes(caller->at, provider->at, caller->size);
    } else {
        CK_ULONG value = visit_number(caller->at);
        expect_number(value ^ pattern_of(caller, value), visit_number(provider->at));
    }
}

static void expect_same_arguments(struct ends *e)
{
    visit_call(&callers, e->shim.function, e->caller, NULL, NULL);
    visit_call(&providers, e->helper.function, e->provider, ends_gave, e);
    expect(callers.complete);
    for (size_t i = 0; i < callers.count && i < providers.count; i++) {
        expect_same_shape(&callers.list[i], &providers.list[i], i);
        expect_same_leaf(&callers.list[i], &providers.list[i]);
    }
    expect_number(callers.count, providers.count);
    const char *fault = stand_in_finds_fault(&providers, e);
    expect_text("none", fault ? fault : "none");
}

static void expect_arrival(struct ends *e, size_t portion)
{
    bool arrived = ends_request(e, portion);
    expect_number(CKR_OK, e->shim.refusal);
    expect_number(0, e->message.error);
    expect_number(0, e->reader.error);
    expect(arrived);
    expect_same_arguments(e);
}

/* ---- every function ---- */

static void every_function_arrives(void)
{
    unsigned covered = 0;
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++) {
        for (unsigned round = 0; round < ROUNDS && make_crosses(&functions[fn]); round++) {
            struct dice dice = dice_from_seed(fn * 1000 + round);
            struct ends *e = ends_begin(&functions[fn]);
            test_case("%s, round %u", functions[fn].name, round);
            make_call(&dice, &functions[fn], e->caller);
            if (round % 2)
                ends_use_shelf(e);
            expect_arrival(e, portion_of(round));
        }
        covered += make_crosses(&functions[fn]);
    }
    test_note("%u functions of %u, %u calls each", covered, (unsigned)FUNCTION_COUNT, (unsigned)ROUNDS);
}

static void message_parameters_are_refused(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++) {
        if (functions[fn].local || make_find_arg(&functions[fn], ARG_MESSAGE) < 0)
            continue;
        struct dice dice = dice_from_seed(fn);
        struct ends *e = ends_begin(&functions[fn]);
        test_case("%s", functions[fn].name);
        make_call(&dice, &functions[fn], e->caller);
        expect(!ends_request(e, 0));
        expect_number(CKR_FUNCTION_NOT_SUPPORTED, e->shim.refusal);
    }
}

/* ---- NULL ---- */

static void null_one_pointer(struct dice *dice, const struct function *f, unsigned i)
{
    struct ends *e = ends_begin(f);
    make_call(dice, f, e->caller);
    e->caller[f->args[i].pos] = 0;
    expect_arrival(e, 0);
}

/* The length beside a NULL is the provider's to judge: it arrives as it is. */
static void null_stays_null(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned i = 0; i < functions[fn].n_args && make_crosses(&functions[fn]); i++) {
            uint8_t kind = functions[fn].args[i].kind;
            struct dice dice = dice_from_seed(fn);
            test_case("%s, argument %u", functions[fn].name, i);
            for (unsigned round = 0; round < 8 && kind > ARG_OBJECT && kind < ARG_LOCAL; round++)
                null_one_pointer(&dice, &functions[fn], i);
        }
}

static void a_null_cell_stays_null(void)
{
    const struct function *f = &functions[FN_C_Sign];
    struct ends *e = ends_begin(f);
    e->caller[3] = (uintptr_t)fence_alloc(16);
    expect_arrival(e, 0);
    expect_number(0, e->provider[4]);
    expect(e->provider[3] != 0);
}

/* ---- every mechanism ---- */

static struct ends *begin_with(struct dice *dice, const struct function *f, CK_MECHANISM *(*make)(struct dice *, const void *), const void *what)
{
    struct ends *e = ends_begin(f);
    make_call(dice, f, e->caller);
    e->caller[f->args[make_find_arg(f, ARG_MECHANISM)].pos] = (uintptr_t)make(dice, what);
    return e;
}

struct way {
    const struct mechanism *mechanism;
    const struct choice *choice;
};

static CK_MECHANISM *make_way(struct dice *dice, const void *what)
{
    const struct way *way = what;
    return make_mechanism(dice, way->mechanism, way->choice);
}

static bool try_way(const struct way *way)
{
    const struct function *f = make_function_for(way->choice);
    for (unsigned round = 0; round < MECHANISM_ROUNDS && f; round++) {
        struct dice dice = dice_from_seed(way->mechanism->value * 100 + round);
        test_case("mechanism 0x%lx, choice %u, %s, round %u", way->mechanism->value, (unsigned)(way->choice - choices), f->name, round);
        expect_arrival(begin_with(&dice, f, make_way, way), portion_of(round));
    }
    return f != NULL;
}

static void every_parameter_arrives(void)
{
    unsigned ways = 0, structs = 0;
    static bool seen[256];
    for (unsigned i = 0; i < mechanism_count; i++)
        for (unsigned k = 0; k < mechanisms[i].n_choices; k++) {
            const struct way way = {&mechanisms[i], &choices[mechanisms[i].choices + k]};
            expect(try_way(&way));
            ways++;
            structs += way.choice->kind == VALUE_STRUCT && !seen[way.choice->type];
            seen[way.choice->type] |= way.choice->kind == VALUE_STRUCT;
        }
    test_note("%u mechanisms, %u kinds of parameter, %u structs", mechanism_count, ways, structs);
}

static CK_MECHANISM *make_undescribed(struct dice *dice, const void *what)
{
    CK_MECHANISM *m = make_mechanism(dice, what, NULL);
    m->ulParameterLen = 3; /* no struct is as long */
    m->pParameter = fence_alloc(3);
    return m;
}

static bool takes_any_length(const struct mechanism *m)
{
    for (unsigned i = 0; i < m->n_choices; i++)
        if (choices[m->choices + i].kind != VALUE_STRUCT && choices[m->choices + i].kind != VALUE_NONE)
            return true;
    return false;
}

/* A pointer never crosses the wire: what no table describes might hold one. */
static void undescribed_parameters_are_refused(void)
{
    static const struct mechanism vendors = {.value = CKM_VENDOR_DEFINED + 7};
    for (unsigned i = 0; i <= mechanism_count; i++) {
        const struct mechanism *m = i < mechanism_count ? &mechanisms[i] : &vendors;
        struct dice dice = dice_from_seed(i);
        test_case("mechanism 0x%lx", m->value);
        if (takes_any_length(m))
            continue;
        struct ends *e = begin_with(&dice, &functions[FN_C_EncryptInit], make_undescribed, m);
        expect(!ends_request(e, 0));
        expect_number(CKR_MECHANISM_PARAM_INVALID, e->shim.refusal);
    }
}

/* ---- objects ---- */

static void a_handle_that_is_not_ours_is_no_handle(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++) {
        int i = make_find_arg(&functions[fn], ARG_OBJECT);
        if (i < 0 || !make_crosses(&functions[fn]))
            continue;
        struct dice dice = dice_from_seed(fn);
        struct ends *e = ends_begin(&functions[fn]);
        test_case("%s", functions[fn].name);
        make_call(&dice, &functions[fn], e->caller);
        e->caller[functions[fn].args[i].pos] = NO_OBJECT;
        bool arrived = ends_request(e, 0);
        expect_number(functions[fn].args[i].optional ? CKR_KEY_HANDLE_INVALID : CKR_OK, e->shim.refusal);
        expect(arrived != functions[fn].args[i].optional);
        if (arrived)
            expect_number(0, e->provider[functions[fn].args[i].pos]);
    }
}

/* A mechanism of this choice with one of its own handles, at `offset`, that is nobody's. */
static void expect_refused_handle(const struct way *way, size_t offset)
{
    const struct function *f = make_function_for(way->choice);
    struct dice dice = dice_from_seed(3);
    struct ends *e = begin_with(&dice, f, make_way, way);
    const CK_MECHANISM *m = (void *)e->caller[f->args[make_find_arg(f, ARG_MECHANISM)].pos];
    CK_ULONG stale = NO_OBJECT;
    memcpy((uint8_t *)m->pParameter + offset, &stale, sizeof stale);
    ends_write_request(e);
    expect_number(CKR_MECHANISM_PARAM_INVALID, e->shim.refusal);
}

static void a_stale_handle_in_a_parameter_is_refused(void)
{
    unsigned tried = 0;
    for (unsigned i = 0; i < mechanism_count; i++)
        for (unsigned k = 0; k < mechanisms[i].n_choices; k++) {
            const struct way way = {&mechanisms[i], &choices[mechanisms[i].choices + k]};
            const struct layout *layout = way.choice->kind == VALUE_STRUCT ? &layouts[way.choice->type] : NULL;
            test_case("mechanism 0x%lx", mechanisms[i].value);
            if (way.choice->kind == VALUE_OBJECT)
                expect_refused_handle(&way, 0), tried++;
            for (unsigned n = 0; layout && n < layout->n_fields; n++)
                if (layout->fields[n].kind == FIELD_OBJECT && layout->fields[n].dir & DIR_IN)
                    expect_refused_handle(&way, layout->fields[n].offset), tried++;
        }
    expect(tried > 0);
}

/* ---- what has no form on the wire ---- */

static CK_RV refusal_of_attribute(CK_ATTRIBUTE attribute)
{
    struct ends *e = ends_begin(&functions[FN_C_FindObjectsInit]);
    CK_ATTRIBUTE *a = fence_alloc(sizeof *a);
    *a = attribute;
    e->caller[1] = (uintptr_t)a;
    e->caller[2] = 1;
    ends_write_request(e);
    return e->shim.refusal;
}

static void lists_that_are_none_are_refused(void)
{
    CK_ATTRIBUTE inner[2] = {{CKA_LABEL, NULL, 0}, {CKA_LABEL, NULL, 0}};
    expect_number(CKR_ATTRIBUTE_VALUE_INVALID, refusal_of_attribute((CK_ATTRIBUTE){CKA_WRAP_TEMPLATE, NULL, sizeof *inner}));
    expect_number(CKR_ATTRIBUTE_VALUE_INVALID, refusal_of_attribute((CK_ATTRIBUTE){CKA_ALLOWED_MECHANISMS, NULL, 8}));
    for (CK_ULONG len = 0; len <= sizeof inner; len++) {
        bool whole = len % sizeof *inner == 0;
        test_case("%lu bytes", len);
        expect_number(whole ? CKR_OK : CKR_ATTRIBUTE_VALUE_INVALID, refusal_of_attribute((CK_ATTRIBUTE){CKA_WRAP_TEMPLATE, inner, len}));
    }
}

static CK_RV refusal_of_parameter(unsigned fn, CK_MECHANISM mechanism)
{
    struct ends *e = ends_begin(&functions[fn]);
    e->caller[1] = (uintptr_t)&mechanism;
    ends_write_request(e);
    return e->shim.refusal;
}

static void a_wild_parameter_is_refused(void)
{
    for (unsigned k = 0; k < 4; k++) {
        static const CK_ULONG lengths[] = {(CK_ULONG)1 << 63, CK_UNAVAILABLE_INFORMATION - 1, ((CK_ULONG)1 << 62) + 8, (CK_ULONG)LIMIT_BYTES + 1};
        expect_number(CKR_MECHANISM_PARAM_INVALID, refusal_of_parameter(FN_C_EncryptInit, (CK_MECHANISM){CKM_AES_CBC, fence_alloc(8), lengths[k]}));
    }
}

/* The tag says that it is a struct, the length that it is not. */
static void a_union_that_contradicts_itself_is_refused(void)
{
    CK_SP800_108_COUNTER_FORMAT counter = {CK_FALSE, 16};
    for (CK_ULONG len = 0; len <= sizeof counter; len++) {
        CK_PRF_DATA_PARAM data = {CK_SP800_108_ITERATION_VARIABLE, &counter, len};
        CK_SP800_108_KDF_PARAMS kdf = {CKM_SHA256_HMAC, 1, &data, 0, NULL};
        CK_RV rv = refusal_of_parameter(FN_C_DeriveKey, (CK_MECHANISM){CKM_SP800_108_COUNTER_KDF, &kdf, sizeof kdf});
        expect_number(len == sizeof counter ? CKR_OK : CKR_MECHANISM_PARAM_INVALID, rv);
    }
}

/* ---- nesting ---- */

static CK_RV refusal_of_templates(unsigned levels)
{
    CK_ATTRIBUTE nested[2 * LIMIT_NESTING] = {{0}};
    struct ends *e = ends_begin(&functions[FN_C_FindObjectsInit]);
    for (unsigned i = 0; i < levels; i++)
        nested[i] = (CK_ATTRIBUTE){CKA_WRAP_TEMPLATE, i + 1 < levels ? &nested[i + 1] : NULL, i + 1 < levels ? sizeof *nested : 0};
    e->caller[1] = (uintptr_t)nested;
    e->caller[2] = 1;
    return ends_request(e, 0) ? CKR_OK : e->shim.refusal;
}

static CK_RV refusal_of_mechanisms(unsigned levels)
{
    CK_KIP_PARAMS kips[2 * LIMIT_NESTING] = {{0}};
    CK_MECHANISM nested[2 * LIMIT_NESTING];
    struct ends *e = ends_begin(&functions[FN_C_DeriveKey]);
    for (unsigned i = 0; i < levels; i++) {
        kips[i].pMechanism = i + 1 < levels ? &nested[i + 1] : NULL;
        nested[i] = (CK_MECHANISM){CKM_KIP_DERIVE, &kips[i], sizeof *kips};
    }
    e->caller[1] = (uintptr_t)nested;
    return ends_request(e, 0) ? CKR_OK : e->shim.refusal;
}

static void nesting_is_bounded(void)
{
    expect_number(CKR_OK, refusal_of_templates(LIMIT_NESTING));
    expect_number(CKR_ARGUMENTS_BAD, refusal_of_templates(LIMIT_NESTING + 1));
    expect_number(CKR_OK, refusal_of_mechanisms(LIMIT_NESTING));
    expect_number(CKR_MECHANISM_PARAM_INVALID, refusal_of_mechanisms(LIMIT_NESTING + 1));
}

/* ---- wild lengths ---- */

static const CK_ULONG wild[] = {(CK_ULONG)1 << 63, CK_UNAVAILABLE_INFORMATION - 1, ((CK_ULONG)1 << 62) + 8, (CK_ULONG)LIMIT_BYTES + 1};

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
            bool read = attribute_kind(type) == VALUE_TEMPLATE; /* only then is a query's value looked into */
            try_wild_value(FN_C_GetAttributeValue, type, wild[k], read ? CKR_ARGUMENTS_BAD : CKR_OK);
        }
}

/* Of what a struct's field points to. False where the table's own number is the length, and nothing can be wild. */
static bool make_wild(const struct layout *layout, uint8_t *base, uint8_t *parent, const struct field *field, CK_ULONG len)
{
    uint8_t *cell = base + field->length;
    (void)layout;
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
    CK_ULONG len;
    bool made;
};

static CK_MECHANISM *make_wild_parameter(struct dice *dice, const void *what)
{
    struct wild_field *wild_field = (struct wild_field *)(uintptr_t)what;
    CK_MECHANISM *m = make_mechanism(dice, wild_field->way.mechanism, wild_field->way.choice);
    const struct layout *outer = &layouts[wild_field->way.choice->type];
    uint8_t *base = wild_field->inner == outer ? m->pParameter : descend(outer, m->pParameter, wild_field->inner);
    uint8_t *parent = wild_field->inner == outer ? NULL : m->pParameter;
    wild_field->made = base && make_wild(wild_field->inner, base, parent, wild_field->field, wild_field->len);
    return m;
}

static unsigned try_wild_fields(const struct way *way, const struct layout *inner)
{
    const struct function *f = make_function_for(way->choice);
    unsigned tried = 0;
    for (unsigned i = 0; i < inner->n_fields; i++)
        for (unsigned k = 0; k < WILD && inner->fields[i].kind >= FIELD_BYTES; k++) {
            bool bits = inner->fields[i].unit == UNIT_BITS || inner->fields[i].unit == UNIT_BYTES_OR_BITS || inner->fields[i].unit == UNIT_PARENT_BITS;
            struct wild_field it = {*way, inner, &inner->fields[i], bits && wild[k] < (CK_ULONG)1 << 40 ? wild[k] * 8 : wild[k], false};
            struct dice dice = dice_from_seed(12); /* all pointers set */
            struct ends *e = begin_with(&dice, f, make_wild_parameter, &it);
            const CK_MECHANISM *m = (void *)e->caller[f->args[make_find_arg(f, ARG_MECHANISM)].pos];
            test_case("%s in %s, field %u, length 0x%lx", inner->name, layouts[way->choice->type].name, i, it.len);
            if (!it.made || visit_choose(f->context, m) != way->choice)
                continue; /* its length decides which struct it is */
            ends_write_request(e);
            bool refused = e->shim.refusal == CKR_MECHANISM_PARAM_INVALID || e->shim.refusal == CKR_ARGUMENTS_BAD;
            if (!refused)
                test_failed(__FILE__, __LINE__, "refusal: 0x%lx", e->shim.refusal);
            tried++;
        }
    return tried;
}

static void wild_lengths_in_structs_are_refused(void)
{
    unsigned tried = 0;
    for (unsigned i = 0; i < mechanism_count; i++)
        for (unsigned k = 0; k < mechanisms[i].n_choices; k++) {
            const struct way way = {&mechanisms[i], &choices[mechanisms[i].choices + k]};
            if (way.choice->kind != VALUE_STRUCT)
                continue;
            const struct layout *outer = &layouts[way.choice->type];
            tried += try_wild_fields(&way, outer);
            for (unsigned n = 0; n < outer->n_fields; n++)
                if (outer->fields[n].kind == FIELD_STRUCT || outer->fields[n].kind == FIELD_STRUCTS)
                    tried += try_wild_fields(&way, &layouts[outer->fields[n].type]);
        }
    test_note("%u wild lengths", tried);
}

static void capacities_are_cut_to_the_limit(void)
{
    struct ends *e = ends_begin(&functions[FN_C_Sign]);
    CK_ULONG *len = fence_alloc(sizeof *len);
    *len = (CK_ULONG)1 << 63;
    e->caller[3] = (uintptr_t)fence_alloc(8);
    e->caller[4] = (uintptr_t)len;
    expect(ends_request(e, 0));
    expect_number(LIMIT_BYTES, visit_number((void *)e->provider[4]));
    expect_number(LIMIT_BYTES, arena_size((void *)e->provider[3]));
}

static void capacities_of_attributes_are_cut_too(void)
{
    struct ends *e = ends_begin(&functions[FN_C_GetAttributeValue]);
    CK_ATTRIBUTE *a = fence_alloc(sizeof *a);
    *a = (CK_ATTRIBUTE){CKA_LABEL, fence_alloc(8), (CK_ULONG)1 << 63};
    e->caller[2] = (uintptr_t)a;
    e->caller[3] = 1;
    expect(ends_request(e, 0));
    const CK_ATTRIBUTE *given = (void *)e->provider[2];
    expect_number(LIMIT_BYTES, given->ulValueLen);
    expect_number(LIMIT_BYTES, arena_size(given->pValue));
}

static void unknown_lengths_are_refused(void)
{
    unsigned covered = 0;
    for (unsigned i = 0; i < mechanism_count; i++)
        for (unsigned k = 0; k < mechanisms[i].n_choices; k++) {
            const struct way way = {&mechanisms[i], &choices[mechanisms[i].choices + k]};
            const struct layout *layout = way.choice->kind == VALUE_STRUCT ? &layouts[way.choice->type] : NULL;
            for (unsigned n = 0; layout && n < layout->n_fields; n++) {
                if (layout->fields[n].unit != UNIT_UNKNOWN)
                    continue;
                const struct wild_field it = {way, layout, &layout->fields[n], 0, false};
                struct dice dice = dice_from_seed(n);
                test_case("%s, field %u", layout->name, n);
                expect_refusal(begin_with(&dice, make_function_for(way.choice), make_wild_parameter, &it), CKR_MECHANISM_PARAM_INVALID);
                covered++;
            }
        }
    expect(covered > 0);
}

static const struct test tests[] = {
    TEST(every_function_arrives, "what a caller gives any function is what the provider is given, deep down"),
    TEST(every_parameter_arrives, "every mechanism with every kind of parameter of the tables arrives whole"),
    TEST(null_stays_null, "a NULL stays a NULL, and the length beside it what it was"),
    TEST(a_null_cell_stays_null, "a buffer without a length arrives as one"),
    TEST(message_parameters_are_refused, "a function whose parameter cannot be sent yet says that it is not supported"),
    TEST(undescribed_parameters_are_refused, "a parameter that no table describes is never sent"),
    TEST(unknown_lengths_are_refused, "a pointer whose length is said nowhere is never followed"),
    TEST(a_handle_that_is_not_ours_is_no_handle, "a stale handle never reaches the provider as another object, nor as none where that has a meaning"),
    TEST(a_stale_handle_in_a_parameter_is_refused, "nor does one in a parameter"),
    TEST(lists_that_are_none_are_refused, "a list without a pointer, or not a whole number of elements, is refused"),
    TEST(a_wild_parameter_is_refused, "a wild ulParameterLen is refused before the parameter is read"),
    TEST(a_union_that_contradicts_itself_is_refused, "a value that is not what its tag says is refused"),
    TEST(nesting_is_bounded, "templates and mechanisms nest as deep as the limit says and no deeper"),
    TEST(wild_lengths_of_bytes_are_refused, "a wild length is refused before the first byte is read"),
    TEST(wild_counts_of_attributes_are_refused, "a wild count of attributes is refused before the first is read"),
    TEST(wild_lengths_of_values_are_refused, "a wild ulValueLen is refused before the value is read"),
    TEST(wild_lengths_in_structs_are_refused, "a wild length in a mechanism's parameter is refused before what it measures is read"),
    TEST(capacities_are_cut_to_the_limit, "a capacity over the limit reaches the provider as the limit"),
    TEST(capacities_of_attributes_are_cut_too, "so does that of an attribute's buffer"),
};

TEST_MAIN(tests)
