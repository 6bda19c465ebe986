/* Responses: what a provider wrote is what the caller finds, and nothing else. For every function and every mechanism. */
#include <errno.h>
#include <string.h>

#include "ends.h"
#include "fence.h"
#include "stand_in.h"
#include "test.h"
#include "visit.h"

enum { ROUNDS = 150, MECHANISM_ROUNDS = 12, MOST = 1 << 20 };

static struct leaves callers, providers;

static const CK_RV answers[] = {
    CKR_OK, CKR_OK, CKR_BUFFER_TOO_SMALL, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_FUNCTION_FAILED, CKR_VENDOR_DEFINED + 5, CK_UNAVAILABLE_INFORMATION,
};

static const size_t portions[] = {0, 1, 9, 4096, 5};

/* ---- comparing ---- */

static CK_ULONG client_of(const struct leaf *leaf, CK_ULONG server)
{
    switch ((enum leaf_kind)leaf->kind) {
    case LEAF_OBJECTS: return server ? server ^ OBJECT_PATTERN : 0;
    case LEAF_SESSIONS: return server ^ SESSION_PATTERN;
    case LEAF_SLOTS: return server ^ SLOT_PATTERN;
    default: return server;
    }
}

static void expect_output(const struct leaf *caller, const struct leaf *provider, size_t size)
{
    if (caller->kind == LEAF_BYTES) {
        expect_bytes(provider->at, caller->at, size);
        return;
    }
    for (size_t at = 0; at < size; at += sizeof(CK_ULONG))
        expect_number(client_of(caller, visit_number(provider->at + at)), visit_number(caller->at + at));
}

/* Outputs are compared, then undone: what still differs from the snapshot was written without right. */
static void expect_outputs(struct ends *e, CK_RV rv)
{
    (void)e;
    expect_number(callers.count, providers.count);
    for (size_t i = 0; i < callers.count; i++) {
        const struct leaf *caller = &callers.list[i], *provider = &providers.list[i];
        if (!(caller->dir & DIR_OUT) || !stand_in_carries(caller, rv))
            continue;
        size_t size = stand_in_counted(provider);
        expect_output(caller, provider, size);
        fence_restore(caller->at, size);
    }
    expect(fence_first_change() == NULL);
}

/* The whole way: there, an answer with every output, and back. */
static void expect_return(struct ends *e, struct dice *dice, CK_RV rv, size_t portion)
{
    expect(ends_request(e, 0));
    visit_call(&callers, e->shim.function, e->caller, NULL, NULL);
    visit_call(&providers, e->helper.function, e->provider, ends_gave, e);
    stand_in_spoils(dice, &providers, e->provider);
    stand_in_writes(dice, &providers, rv, MOST);
    fence_snapshot();
    expect_number(rv, ends_respond(e, rv, portion));
    expect_number(0, e->reader.error);
    expect(message_is_read(&e->message, &e->reader));
    expect_outputs(e, rv);
}

/* ---- every function ---- */

static void try_function(unsigned fn, unsigned round)
{
    struct dice dice = dice_from_seed(fn * 1000 + round);
    struct ends *e = ends_begin(&functions[fn]);
    CK_RV rv = answers[round % (sizeof answers / sizeof *answers)];
    test_case("%s, round %u, rv 0x%lx", functions[fn].name, round, rv);
    make_call(&dice, &functions[fn], e->caller);
    if (round % 3 == 0)
        ends_use_shelf(e);
    expect_return(e, &dice, rv, portions[round % (sizeof portions / sizeof *portions)]);
}

static void every_function_returns(void)
{
    unsigned covered = 0;
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++) {
        for (unsigned round = 0; round < ROUNDS && make_crosses(&functions[fn]); round++)
            try_function(fn, round);
        covered += make_crosses(&functions[fn]);
    }
    test_note("%u functions of %u, %u calls each", covered, (unsigned)FUNCTION_COUNT, (unsigned)ROUNDS);
}

/* ---- every mechanism ---- */

static unsigned count_outputs(const struct leaves *leaves)
{
    unsigned n = 0;
    for (size_t i = 0; i < leaves->count; i++)
        n += (leaves->list[i].dir & DIR_OUT) != 0;
    return n;
}

static unsigned try_way(const struct way *way)
{
    const struct mechanism *mechanism = way->mechanism;
    const struct choice *choice = way->choice;
    const struct function *f = make_function_for(choice);
    unsigned outputs = 0;
    for (unsigned round = 0; round < MECHANISM_ROUNDS; round++) {
        struct dice dice = dice_from_seed(mechanism->value * 100 + round);
        struct ends *e = ends_begin(f);
        CK_RV rv = answers[round % (sizeof answers / sizeof *answers)];
        test_case("mechanism 0x%lx, choice %u, %s, round %u", mechanism->value, (unsigned)(choice - choices), f->name, round);
        ends_give_mechanism(e, make_mechanism(&dice, mechanism, choice));
        expect_return(e, &dice, rv, portions[round % (sizeof portions / sizeof *portions)]);
        outputs += count_outputs(&callers);
    }
    return outputs;
}

static void every_parameter_returns(void)
{
    unsigned ways = 0, with_outputs = 0;
    for (struct way way = {0}; make_next_way(&way); ways++)
        with_outputs += try_way(&way) > 0;
    test_note("%u mechanisms, %u kinds of parameter, %u of them with outputs", mechanism_count, ways, with_outputs);
}

static void nothing_changed_nothing_returns(void)
{
    for (struct way way = {0}; make_next_way(&way);) {
        struct dice dice = dice_from_seed(way.mechanism->value);
        struct ends *e = ends_begin(make_function_for(way.choice));
        test_case("mechanism 0x%lx, choice %u", way.mechanism->value, (unsigned)(way.choice - choices));
        ends_give_mechanism(e, make_mechanism(&dice, way.mechanism, way.choice));
        expect(ends_request(e, 0));
        fence_snapshot();
        expect_number(CKR_GENERAL_ERROR, ends_respond(e, CKR_GENERAL_ERROR, 0));
        expect_number(0, e->reader.error);
        expect(fence_first_change() == NULL);
    }
}

/* ---- what a provider leaves or invents ---- */

/* Of a session only: without its handle nobody could use it. */
static void an_unwritten_cell_stays(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned i = 0; i < functions[fn].n_args && make_crosses(&functions[fn]); i++) {
            const struct arg *arg = &functions[fn].args[i];
            if (arg->kind < ARG_OUT_NUMBER || arg->kind > ARG_OUT_OBJECT)
                continue;
            struct ends *e = ends_begin(&functions[fn]);
            test_case("%s, argument %u", functions[fn].name, i);
            e->caller[arg->pos] = (uintptr_t)fence_alloc(sizeof(CK_ULONG));
            expect(ends_request(e, 0));
            fence_snapshot();
            expect_number(arg->kind == ARG_OUT_SESSION ? CKR_DEVICE_ERROR : CKR_OK, ends_respond(e, CKR_OK, 0));
            expect(fence_first_change() == NULL);
        }
}

static void set_length(struct ends *e, const struct arg *arg, CK_ULONG length)
{
    unsigned at = arg->kind == ARG_OUT_OBJECTS ? arg->count : arg->len;
    memcpy((void *)e->provider[at], &length, sizeof length);
}

/* A provider that says CKR_OK and a length its buffer never had is not believed; the channel is as before. */
static void an_impossible_length_is_not_believed(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned i = 0; i < functions[fn].n_args && make_crosses(&functions[fn]); i++) {
            const struct arg *arg = &functions[fn].args[i];
            bool listed = arg->kind == ARG_OUT_OBJECTS;
            if (arg->kind != ARG_OUT_BYTES && arg->kind != ARG_OUT_NUMBERS && arg->kind != ARG_OUT_SLOTS && !listed)
                continue;
            struct ends *e = ends_begin(&functions[fn]);
            CK_ULONG *cell = fence_alloc(sizeof *cell);
            test_case("%s, argument %u", functions[fn].name, i);
            *cell = 4;
            e->caller[arg->pos] = (uintptr_t)fence_alloc(4 * sizeof *cell);
            e->caller[arg->len] = listed ? 4 : (uintptr_t)cell;
            if (listed)
                e->caller[arg->count] = (uintptr_t)cell;
            expect(ends_request(e, 0));
            set_length(e, arg, 5);
            fence_snapshot();
            expect_number(CKR_DEVICE_ERROR, ends_respond(e, CKR_OK, 0));
            expect_number(0, e->reader.error);
            expect(fence_first_change() == NULL);
        }
}

static void a_length_query_is_answered(void)
{
    struct ends *e = ends_begin(&functions[FN_C_Sign]);
    CK_ULONG *cell = fence_alloc(sizeof *cell);
    *cell = 0;
    e->caller[4] = (uintptr_t)cell;
    expect(ends_request(e, 0));
    set_length(e, &functions[FN_C_Sign].args[2], 256);
    expect_number(CKR_OK, ends_respond(e, CKR_OK, 0));
    expect_number(256, *cell);
}

/* A buffer larger than the limit is given to the provider as large as the limit: that is nothing the caller need know. */
static void a_length_left_alone_is_the_callers(void)
{
    enum { NEEDED = 99 };
    static const struct {
        CK_ULONG said, needed, expected;
        bool buffer;
        CK_RV rv;
    } rows[] = {
        {(CK_ULONG)LIMIT_BYTES + 5, 0, (CK_ULONG)LIMIT_BYTES + 5, true, CKR_DEVICE_ERROR},
        {CK_UNAVAILABLE_INFORMATION, 0, CK_UNAVAILABLE_INFORMATION, true, CKR_DATA_INVALID},
        {CK_UNAVAILABLE_INFORMATION, NEEDED, NEEDED, true, CKR_BUFFER_TOO_SMALL},
        {CK_UNAVAILABLE_INFORMATION, 0, CK_UNAVAILABLE_INFORMATION, false, CKR_OK},
        {CK_UNAVAILABLE_INFORMATION, NEEDED, NEEDED, false, CKR_OK},
        {64, 0, 64, true, CKR_DEVICE_ERROR},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ends *e = ends_begin(&functions[FN_C_Sign]);
        CK_ULONG *cell = fence_alloc(sizeof *cell);
        test_case("row %zu", i);
        *cell = rows[i].said;
        e->caller[3] = rows[i].buffer ? (uintptr_t)fence_alloc(1) : 0;
        e->caller[4] = (uintptr_t)cell;
        expect(ends_request(e, 0));
        if (rows[i].needed)
            set_length(e, &functions[FN_C_Sign].args[2], rows[i].needed);
        expect_number(rows[i].rv, ends_respond(e, rows[i].rv, 0));
        expect_number(rows[i].expected, *cell);
    }
}

/* ---- C_GetAttributeValue ---- */

static CK_ATTRIBUTE *query(struct ends *e, CK_ATTRIBUTE_TYPE type, size_t size)
{
    CK_ATTRIBUTE *a = fence_alloc(sizeof *a);
    *a = (CK_ATTRIBUTE){type, size ? fence_alloc(size) : NULL, size};
    e->caller[2] = (uintptr_t)a;
    e->caller[3] = 1;
    return a;
}

static void a_provider_that_finds_nothing_says_so(void)
{
    struct ends *e = ends_begin(&functions[FN_C_GetAttributeValue]);
    CK_ATTRIBUTE *a = query(e, CKA_LABEL, 10);
    expect(ends_request(e, 0));
    ((CK_ATTRIBUTE *)e->provider[2])->ulValueLen = CK_UNAVAILABLE_INFORMATION;
    expect_number(CKR_ATTRIBUTE_TYPE_INVALID, ends_respond(e, CKR_ATTRIBUTE_TYPE_INVALID, 0));
    expect_number(CK_UNAVAILABLE_INFORMATION, a->ulValueLen);
}

/* In a nested template even the type is the provider's to say. */
static void nested_types_are_outputs(void)
{
    struct ends *e = ends_begin(&functions[FN_C_GetAttributeValue]);
    CK_ATTRIBUTE *inner = fence_alloc(2 * sizeof *inner), *outer = fence_alloc(sizeof *outer);
    inner[0] = (CK_ATTRIBUTE){0, fence_alloc(sizeof(CK_ULONG)), sizeof(CK_ULONG)};
    inner[1] = (CK_ATTRIBUTE){0, NULL, 0};
    *outer = (CK_ATTRIBUTE){CKA_WRAP_TEMPLATE, inner, 2 * sizeof *inner};
    e->caller[2] = (uintptr_t)outer;
    e->caller[3] = 1;
    expect(ends_request(e, 0));
    CK_ATTRIBUTE *given = ((CK_ATTRIBUTE *)e->provider[2])->pValue;
    CK_ULONG class = CKO_SECRET_KEY;
    given[0].type = CKA_CLASS;
    memcpy(given[0].pValue, &class, sizeof class);
    given[1].type = CKA_LABEL;
    given[1].ulValueLen = 7;
    expect_number(CKR_OK, ends_respond(e, CKR_OK, 0));
    expect_number(0, e->reader.error);
    expect_number(CKA_CLASS, inner[0].type);
    expect_number(CKO_SECRET_KEY, visit_number(inner[0].pValue));
    expect_number(CKA_LABEL, inner[1].type);
    expect_number(7, inner[1].ulValueLen);
    expect_number(CKA_WRAP_TEMPLATE, outer->type);
}

static void the_type_asked_for_stays(void)
{
    struct ends *e = ends_begin(&functions[FN_C_GetAttributeValue]);
    CK_ATTRIBUTE *a = query(e, CKA_LABEL, 10);
    expect(ends_request(e, 0));
    ((CK_ATTRIBUTE *)e->provider[2])->type = CKA_ID;
    expect_number(CKR_OK, ends_respond(e, CKR_OK, 0));
    expect_number(CKA_LABEL, a->type);
}

static const struct test tests[] = {
    TEST(every_function_returns, "what any provider writes is what the caller finds, and nothing else is written"),
    TEST(every_parameter_returns, "what a provider writes into a parameter comes back, and only what is an output"),
    TEST(nothing_changed_nothing_returns, "a parameter that a provider did not change is not touched"),
    TEST(an_unwritten_cell_stays, "a cell that a provider did not write stays as it was"),
    TEST(an_impossible_length_is_not_believed, "a provider that claims more than its buffer held has failed"),
    TEST(a_length_left_alone_is_the_callers, "a length that the provider leaves alone is the caller's own again"),
    TEST(a_length_query_is_answered, "a call without a buffer learns the length"),
    TEST(a_provider_that_finds_nothing_says_so, "an attribute that is unavailable comes back as that"),
    TEST(nested_types_are_outputs, "the types in a nested template come from the provider"),
    TEST(the_type_asked_for_stays, "the type of an attribute asked for is the caller's"),
};

TEST_MAIN(tests)
