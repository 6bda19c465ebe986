/* What a caller may give and no request can carry: refused before it is read, with the standard's word for it. */
#include <string.h>

#include "ends.h"
#include "fence.h"
#include "test.h"
#include "visit.h"

/* ---- parameters ---- */

/* Which struct it is follows from the operation. */
static void a_message_outside_an_operation_is_refused(void)
{
    unsigned tried = 0;
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++) {
        int i = make_find_arg(&functions[fn], ARG_MESSAGE);
        for (unsigned given = 0; given < 2 && i >= 0; given++, tried++) {
            struct ends *e = ends_begin(&functions[fn]);
            test_case("%s", functions[fn].name);
            e->begun.known = false;
            e->caller[functions[fn].args[i].pos] = given ? (uintptr_t)fence_alloc(8) : 0;
            e->caller[functions[fn].args[i].len] = 8;
            expect(ends_request(e, 0) == !given);
            expect_number(given ? CKR_OPERATION_NOT_INITIALIZED : CKR_OK, e->shim.refusal);
        }
    }
    expect_number(24, tried);
}

static CK_RV refusal_of_message(CK_MECHANISM_TYPE mechanism, CK_ULONG len)
{
    struct ends *e = ends_begin(&functions[FN_C_EncryptMessageBegin]);
    visit_operation = mechanism;
    e->caller[1] = (uintptr_t)fence_alloc(len);
    e->caller[2] = len;
    ends_write_request(e);
    return e->shim.refusal;
}

static void an_undescribed_message_is_refused(void)
{
    expect_number(CKR_MECHANISM_PARAM_INVALID, refusal_of_message(CKM_AES_GCM, 12));
    expect_number(CKR_MECHANISM_PARAM_INVALID, refusal_of_message(CKM_RSA_PKCS_OAEP, 16));
    expect_number(CKR_MECHANISM_PARAM_INVALID, refusal_of_message(CKM_VENDOR_DEFINED + 7, 16));
    expect_number(CKR_OK, refusal_of_message(CKM_AES_CBC, 12));
    expect_number(CKR_OK, refusal_of_message(CKM_AES_CTR, 16));
    expect_number(CKR_OK, refusal_of_message(CKM_SHA256_HMAC, 12));
}

/* Filled whole or not at all: fewer bytes than asked for would be worse than none. */
static void more_random_bytes_than_can_be_are_refused(void)
{
    static const CK_ULONG lengths[] = {LIMIT_BYTES, (CK_ULONG)LIMIT_BYTES + 1, CK_UNAVAILABLE_INFORMATION};
    for (unsigned k = 0; k < sizeof lengths / sizeof *lengths; k++)
        for (unsigned given = 0; given < 2; given++) {
            struct ends *e = ends_begin(&functions[FN_C_GenerateRandom]);
            test_case("%lu bytes", lengths[k]);
            e->caller[1] = given ? (uintptr_t)fence_alloc(8) : 0;
            e->caller[2] = lengths[k];
            ends_write_request(e);
            expect_number(given && lengths[k] > LIMIT_BYTES ? CKR_ARGUMENTS_BAD : CKR_OK, e->shim.refusal);
        }
}

static CK_MECHANISM *make_undescribed(struct dice *dice, const struct mechanism *mechanism)
{
    CK_MECHANISM *m = make_mechanism(dice, mechanism, NULL);
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
        struct ends *e = ends_begin(&functions[FN_C_EncryptInit]);
        ends_give_mechanism(e, make_undescribed(&dice, m));
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
    struct dice dice = dice_from_seed(3);
    struct ends *e = ends_begin(make_function_for(way->choice));
    CK_MECHANISM *m = make_mechanism(&dice, way->mechanism, way->choice);
    CK_ULONG stale = NO_OBJECT;
    memcpy((uint8_t *)m->pParameter + offset, &stale, sizeof stale);
    ends_give_mechanism(e, m);
    ends_write_request(e);
    expect_number(CKR_MECHANISM_PARAM_INVALID, e->shim.refusal);
}

static void a_stale_handle_in_a_parameter_is_refused(void)
{
    unsigned tried = 0;
    for (struct way way = {0}; make_next_way(&way);) {
        const struct layout *layout = way.choice->kind == VALUE_STRUCT ? &layouts[way.choice->type] : NULL;
        test_case("mechanism 0x%lx", way.mechanism->value);
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
    static const CK_ULONG lengths[] = {TOP_BIT, CK_UNAVAILABLE_INFORMATION - 1, (CK_ULONG)LIMIT_BYTES + 1};
    for (unsigned k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        const CK_MECHANISM wild = {CKM_AES_CBC, fence_alloc(8), lengths[k]};
        expect_number(CKR_MECHANISM_PARAM_INVALID, refusal_of_parameter(FN_C_EncryptInit, wild));
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

static const struct test tests[] = {
    TEST(a_message_outside_an_operation_is_refused, "a message's parameter is sent only if its operation is known; NULL always is"),
    TEST(an_undescribed_message_is_refused, "a message's parameter is its mechanism's struct, or bytes where there is none with pointers"),
    TEST(more_random_bytes_than_can_be_are_refused, "more bytes than the limit are refused where nobody could say that fewer came"),
    TEST(undescribed_parameters_are_refused, "a parameter that no table describes is never sent"),
    TEST(a_handle_that_is_not_ours_is_no_handle, "a stale handle is never another object, nor none where that has a meaning"),
    TEST(a_stale_handle_in_a_parameter_is_refused, "nor does one in a parameter"),
    TEST(lists_that_are_none_are_refused, "a list without a pointer, or not a whole number of elements, is refused"),
    TEST(a_wild_parameter_is_refused, "a wild ulParameterLen is refused before the parameter is read"),
    TEST(a_union_that_contradicts_itself_is_refused, "a value that is not what its tag says is refused"),
    TEST(nesting_is_bounded, "templates and mechanisms nest as deep as the limit says and no deeper"),
};

TEST_MAIN(tests)
