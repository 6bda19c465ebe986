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

static bool try_way(const struct way *way)
{
    const struct function *f = make_function_for(way->choice);
    for (unsigned round = 0; round < MECHANISM_ROUNDS && f; round++) {
        struct dice dice = dice_from_seed(way->mechanism->value * 100 + round);
        test_case("mechanism 0x%lx, choice %u, %s, round %u", way->mechanism->value, (unsigned)(way->choice - choices), f->name, round);
        struct ends *e = ends_begin(f);
        make_call(&dice, f, e->caller);
        ends_give_mechanism(e, make_mechanism(&dice, way->mechanism, way->choice));
        expect_arrival(e, portion_of(round));
    }
    return f != NULL;
}

static void every_parameter_arrives(void)
{
    unsigned ways = 0, structs = 0;
    static bool seen[256];
    for (struct way way = {0}; make_next_way(&way); ways++) {
        bool is_struct = way.choice->kind == VALUE_STRUCT;
        expect(try_way(&way));
        structs += is_struct && !seen[way.choice->type];
        seen[way.choice->type] |= is_struct;
    }
    test_note("%u mechanisms, %u kinds of parameter, %u structs", mechanism_count, ways, structs);
}

/* ---- capacities ---- */

static void capacities_are_cut_to_the_limit(void)
{
    struct ends *e = ends_begin(&functions[FN_C_Sign]);
    CK_ULONG *len = fence_alloc(sizeof *len);
    *len = TOP_BIT;
    e->caller[3] = (uintptr_t)fence_alloc(8);
    e->caller[4] = (uintptr_t)len;
    expect(ends_request(e, 0));
    expect_number(ROOM_BYTES, visit_number((void *)e->provider[4]));
    expect_number(ROOM_BYTES, arena_size((void *)e->provider[3]));
}

static void capacities_of_attributes_are_cut_too(void)
{
    struct ends *e = ends_begin(&functions[FN_C_GetAttributeValue]);
    CK_ATTRIBUTE *a = fence_alloc(sizeof *a);
    *a = (CK_ATTRIBUTE){CKA_LABEL, fence_alloc(8), TOP_BIT};
    e->caller[2] = (uintptr_t)a;
    e->caller[3] = 1;
    expect(ends_request(e, 0));
    const CK_ATTRIBUTE *given = (void *)e->provider[2];
    expect_number(ROOM_BYTES, given->ulValueLen);
    expect_number(ROOM_BYTES, arena_size(given->pValue));
}

/* ---- what is told to whoever watches ---- */

static struct writer watched;

static struct walk discreet_walk(void)
{
    expect_number(0, (CK_ULONG)writer_init(&watched));
    writer_reset(&watched);
    watched.discreet = DISCREET_CONTENTS;
    return (struct walk){.w = &watched, .tables = &standard_tables};
}

static bool is_told(const char *words)
{
    const struct iovec *span = watched.spans;
    return memmem(span->iov_base, span->iov_len, words, strlen(words)) != NULL;
}

static void names_are_told_and_values_are_not(void)
{
    static uint8_t name[] = "name", value[] = "value", vendors[] = "vendors", longer[LIMIT_SHOWN + 1] = "longer";
    struct walk walk = discreet_walk();
    CK_ATTRIBUTE template[] = {
        {CKA_LABEL, name, 4}, {CKA_VALUE, value, 5}, {0x80001234UL, vendors, 7}, {CKA_ID, longer, sizeof longer},
    };
    put_template(&walk, template, 4);
    expect_number(1, writer_seal(&watched));
    expect(is_told("name"));
    expect(!is_told("value") && !is_told("vendors") && !is_told("longer"));
    writer_finish(&watched);
}

/* Which type a value has in a nested template, the provider says. */
static void a_provider_does_not_say_what_is_harmless(void)
{
    static uint8_t key[] = "the key", name[] = "the name";
    struct {
        CK_ATTRIBUTE answered[2], room[2];
        uint64_t asked[2];
    } inner = {
        {{CKA_LABEL, key, 7}, {CKA_LABEL, name, 8}}, {{CKA_VALUE, key, 7}, {CKA_LABEL, name, 8}}, {7, 8},
    };
    struct {
        CK_ATTRIBUTE answered, room;
        uint64_t asked;
    } outer = {
        {CKA_WRAP_TEMPLATE, inner.answered, sizeof inner.answered},
        {CKA_WRAP_TEMPLATE, inner.answered, sizeof inner.answered},
        sizeof inner.answered,
    };
    struct walk walk = discreet_walk();
    put_template_answer(&walk, &outer.answered, 1);
    expect_number(1, writer_seal(&watched));
    expect(is_told("the name"));
    expect(!is_told("the key"));
    writer_finish(&watched);
}

static const struct test tests[] = {
    TEST(every_function_arrives, "what a caller gives any function is what the provider is given, deep down"),
    TEST(every_parameter_arrives, "every mechanism with every kind of parameter of the tables arrives whole"),
    TEST(null_stays_null, "a NULL stays a NULL, and the length beside it what it was"),
    TEST(a_null_cell_stays_null, "a buffer without a length arrives as one"),
    TEST(capacities_are_cut_to_the_limit, "a capacity over the limit reaches the provider as the limit"),
    TEST(capacities_of_attributes_are_cut_too, "so does that of an attribute's buffer"),
    TEST(names_are_told_and_values_are_not, "a trace shows what its row lets it of a template, and no vendor's bytes"),
    TEST(a_provider_does_not_say_what_is_harmless, "nor what a provider calls a name that was asked for as a value"),
};

TEST_MAIN(tests)
