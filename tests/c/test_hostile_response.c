/* Responses that lie: whatever a helper sends, nothing is written but the outputs of the call it answers. */
#include <errno.h>
#include <string.h>

#include "ends.h"
#include "evil.h"
#include "fence.h"
#include "stand_in.h"
#include "test.h"
#include "visit.h"

enum { SMALL_MESSAGE = 2000, FLIPS = 300 };

static struct leaves leaves;
static struct place places[PLACES];
static struct message original;
static unsigned long accepted, tried;

static void put_back(struct ends *e, const struct message *m)
{
    reader_init(&e->reader, e->buffer, message_source, &e->message);
    e->reader.shelf = e->shelf;
    if (m != &e->message)
        message_set(&e->message, m->bytes, m->len);
    e->message.at = 0;
}

/* ---- any damage ---- */

/* Anything may stand in the outputs now; everything else is as it was. */
static void expect_only_outputs_touched(void)
{
    for (size_t i = 0; i < leaves.count; i++)
        if (leaves.list[i].dir & DIR_OUT)
            fence_restore(leaves.list[i].at, leaves.list[i].size);
    expect(fence_first_change() == NULL);
}

static void take_response(struct ends *e)
{
    e->shim.refusal = CKR_OK;
    e->shim.nesting = 0;
    visit_call(&leaves, e->shim.function, e->caller, NULL, NULL);
    fence_snapshot();
    put_back(e, &e->message);
    ends_read_response(e, 0);
    tried++;
    accepted += e->reader.error == 0;
    expect(e->reader.error == 0 || evil_is_wire_error(e->reader.error));
    expect_only_outputs_touched();
}

/* A call that has arrived, and the message of a true answer to it in `original`. */
static struct ends *make_response(const struct function *f, const struct way *way, uint64_t seed)
{
    struct dice dice = dice_from_seed(seed);
    struct ends *e = ends_begin(f);
    if (way)
        ends_give_mechanism(e, make_mechanism(&dice, way->mechanism, way->choice));
    else
        make_call(&dice, f, e->caller);
    expect(ends_request(e, 0));
    visit_call(&leaves, f, e->provider, ends_gave, e);
    stand_in_writes(&dice, &leaves, CKR_OK, 1 << 20);
    ends_write_response(e, CKR_OK);
    message_set(&original, e->message.bytes, e->message.len);
    return e;
}

/* A long answer is tried too, but not with everything. */
static size_t step_of(size_t places_found)
{
    return original.len < SMALL_MESSAGE ? 1 : 1 + places_found;
}

static void replace_all(struct ends *e, const char *what)
{
    static struct place all[PLACES];
    size_t n = evil_places(&original, places);
    memcpy(all, places, sizeof all);
    for (size_t i = 0; i < n * evil_count; i += step_of(n)) {
        test_case("%s, bytes %zu to %zu, %s", what, all[i / evil_count].from, all[i / evil_count].to, evils[i % evil_count].name);
        evil_replace(&e->message, &original, all[i / evil_count], &evils[i % evil_count]);
        take_response(e);
    }
}

static void every_value_of_a_response_replaced(void)
{
    tried = accepted = 0;
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned round = 0; round < 6 && make_crosses(&functions[fn]); round++)
            replace_all(make_response(&functions[fn], NULL, fn * 100 + round), functions[fn].name);
    test_note("%lu responses, %lu of them accepted", tried, accepted);
}

/* Once for each struct, and for bytes that may come back. */
static void every_value_of_a_changed_parameter_replaced(void)
{
    static bool seen[UINT8_MAX];
    tried = accepted = 0;
    for (struct way way = {0}; make_next_way(&way);) {
        bool is_struct = way.choice->kind == VALUE_STRUCT;
        const char *name = is_struct ? layouts[way.choice->type].name : "bytes";
        if ((is_struct && seen[way.choice->type]) || (!is_struct && !way.choice->output))
            continue;
        seen[way.choice->type] |= is_struct;
        for (uint64_t seed = 0; seed < 3; seed++)
            replace_all(make_response(make_function_for(way.choice), &way, seed), name);
    }
    test_note("%lu responses, %lu of them accepted", tried, accepted);
}

static void flipped_responses(void)
{
    tried = accepted = 0;
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned round = 0; round < FLIPS && make_crosses(&functions[fn]); round++) {
            struct dice dice = dice_from_seed(fn * FLIPS + round);
            struct ends *e = make_response(&functions[fn], NULL, fn * 100 + round % 20);
            test_case("%s, round %u", functions[fn].name, round);
            evil_flip(&dice, &e->message);
            take_response(e);
        }
    test_note("%lu responses, %lu of them accepted", tried, accepted);
}

/* ---- responses that fit the wire, but not the call ---- */

struct lie {
    const char *what;
    unsigned fn;
    const char *bytes;
    size_t len;
};

#define LIE(what, fn, bytes) {what, fn, bytes, sizeof(bytes) - 1}

/* The caller has a buffer of 4 and asks for one attribute of 4 bytes, everything else of its call is NULL. */
static const struct lie lies[] = {
    LIE("more bytes than the buffer has room for", FN_C_Sign, "\x92\x00\x92\x05\xc4\x05" "abcde"),
    LIE("more bytes than it says", FN_C_Sign, "\x92\x00\x92\x02\xc4\x05" "abcde"),
    LIE("fewer bytes than it says", FN_C_Sign, "\x92\x00\x92\x04\xc4\x02" "ab"),
    LIE("numbers for bytes", FN_C_Sign, "\x92\x00\x92\x02\x92\x01\x02"),
    LIE("CKR_OK and a length, but no bytes", FN_C_Sign, "\x92\x00\x92\x04\xc0"),
    LIE("a length of -1 and bytes", FN_C_Sign, "\x92\x00\x92\xff\xc4\x02" "ab"),
    LIE("no outputs", FN_C_Sign, "\x91\x00"),
    LIE("an output too many", FN_C_Sign, "\x93\x00\x92\x04\xc4\x04" "abcd\xc0"),
    LIE("more slots than there is room for", FN_C_GetSlotList, "\x92\x00\x92\x05\x95\x01\x02\x03\x04\x05"),
    LIE("more slots than it says", FN_C_GetSlotList, "\x92\x00\x92\x02\x94\x01\x02\x03\x04"),
    LIE("bytes for slots", FN_C_GetSlotList, "\x92\x00\x92\x04\xc4\x04" "abcd"),
    LIE("CKR_OK and a count, but no slots", FN_C_GetSlotList, "\x92\x00\x92\x04\xc0"),
    LIE("an attribute longer than its buffer", FN_C_GetAttributeValue, "\x92\x00\x91\x93\x03\x05\xc4\x05" "abcde"),
    LIE("an attribute longer than it says", FN_C_GetAttributeValue, "\x92\x00\x91\x93\x03\x02\xc4\x05" "abcde"),
    LIE("CKR_OK and a length, but no value", FN_C_GetAttributeValue, "\x92\x00\x91\x93\x03\x04\xc0"),
    LIE("one attribute too many", FN_C_GetAttributeValue, "\x92\x00\x92\x93\x03\x00\xc0\x93\x03\x00\xc0"),
    LIE("one attribute too few", FN_C_GetAttributeValue, "\x92\x00\x90"),
    LIE("numbers for a value of bytes", FN_C_GetAttributeValue, "\x92\x00\x91\x93\x03\x04\x07"),
    LIE("fewer random bytes than asked for", FN_C_GenerateRandom, "\x92\x00\xc4\x03" "abc"),
    LIE("more random bytes than asked for", FN_C_GenerateRandom, "\x92\x00\xc4\x05" "abcde"),
    LIE("CKR_OK, but no random bytes", FN_C_GenerateRandom, "\x92\x00\xc0"),
    LIE("a struct with a field too few", FN_C_GetMechanismInfo, "\x92\x00\x92\x01\x02"),
    LIE("CKR_OK, but no struct", FN_C_GetMechanismInfo, "\x92\x00\xc0"),
    LIE("CKR_OK and a struct without a field", FN_C_GetMechanismInfo, "\x92\x00\x93\x01\xc0\x03"),
};

static void give_room(struct ends *e)
{
    const struct function *f = e->shim.function;
    const struct arg *arg = &f->args[f->n_args - 1];
    CK_ULONG *cell = fence_alloc(sizeof *cell);
    *cell = 4;
    size_t size = arg->kind == ARG_OUT_STRUCT ? layouts[arg->type].size : arg->kind == ARG_OUT_SLOTS ? 4 * sizeof *cell : 4;
    e->caller[arg->pos] = (uintptr_t)fence_alloc(size);
    if (arg->kind == ARG_TEMPLATE_IO) {
        CK_ATTRIBUTE *a = fence_alloc(sizeof *a);
        *a = (CK_ATTRIBUTE){CKA_LABEL, (void *)e->caller[arg->pos], 4};
        e->caller[arg->pos] = (uintptr_t)a;
    }
    if (arg->kind != ARG_OUT_STRUCT)
        e->caller[arg->len] = arg->kind == ARG_OUT_EXACT ? 4 : arg->kind == ARG_TEMPLATE_IO ? 1 : (uintptr_t)cell;
}

static void a_lie_ends_the_channel(void)
{
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct ends *e = ends_begin(&functions[lies[i].fn]);
        test_case("%s: %s", functions[lies[i].fn].name, lies[i].what);
        give_room(e);
        visit_call(&leaves, e->shim.function, e->caller, NULL, NULL);
        fence_snapshot();
        message_set(&e->message, lies[i].bytes, lies[i].len);
        ends_read_response(e, 0);
        expect_number(-EBADMSG, e->reader.error);
        expect_only_outputs_touched();
    }
}

/* What is said to have changed fits what was sent. */
static void a_lie_about_a_change_ends_the_channel(void)
{
    static const struct {
        const char *what, *bytes;
        size_t len;
    } changes[] = {
#define CHANGE(what, bytes) {what, bytes, sizeof(bytes) - 1}
        CHANGE("longer than the buffer", "\x93\x00\x96\xc0\xc0\xc0\xc0\xc4\x05newer\xc0\xc0"),
        CHANGE("shorter than the buffer", "\x93\x00\x96\xc0\xc0\xc0\xc0\xc4\x03new\xc0\xc0"),
        CHANGE("an input", "\x93\x00\x96\xc4\x04" "deed\xc0\xc0\xc0\xc0\xc0\xc0"),
        CHANGE("the length of an input", "\x93\x00\x96\xc0\x05\xc0\xc0\xc0\xc0\xc0"),
        CHANGE("what was NULL", "\x93\x00\x96\xc0\xc0\xc4\x00\xc0\xc0\xc0\xc0"),
        CHANGE("a field too few", "\x93\x00\x95\xc0\xc0\xc0\xc0\xc0\xc0"),
        CHANGE("bytes for a struct", "\x93\x00\xc4\x04" "four\xc0"),
        CHANGE("true for a buffer", "\x93\x00\x96\xc0\xc0\xc0\xc0\xc3\xc0\xc0"),
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct ends *e = ends_begin(&functions[FN_C_DeriveKey]);
        CK_MECHANISM *m = fence_alloc(sizeof *m);
        CK_TLS_PRF_PARAMS *prf = fence_alloc(sizeof *prf);
        CK_ULONG *room = fence_alloc(sizeof *room);
        *room = 4;
        *prf = (CK_TLS_PRF_PARAMS){fence_alloc(4), 4, NULL, 0, fence_alloc(4), room};
        *m = (CK_MECHANISM){CKM_TLS_PRF, prf, sizeof *prf};
        e->caller[1] = (uintptr_t)m;
        test_case("%s", changes[i].what);
        visit_call(&leaves, e->shim.function, e->caller, NULL, NULL);
        fence_snapshot();
        message_set(&e->message, changes[i].bytes, changes[i].len);
        ends_read_response(e, 0);
        expect_number(-EBADMSG, e->reader.error);
        expect_only_outputs_touched();
    }
}

static const struct test tests[] = {
    TEST(every_value_of_a_response_replaced, "no wrong value anywhere in a response is written where no output is"),
    TEST(every_value_of_a_changed_parameter_replaced, "nor in what is said to have changed in a parameter"),
    TEST(flipped_responses, "damaged and truncated responses write nowhere but to outputs"),
    TEST(a_lie_ends_the_channel, "an answer that does not fit its call is malformed"),
    TEST(a_lie_about_a_change_ends_the_channel, "a change that does not fit what was sent is malformed"),
};

TEST_MAIN(tests)
