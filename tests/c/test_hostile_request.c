/* Requests that lie: whatever an application sends, its provider is given nothing it cannot use. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ends.h"
#include "evil.h"
#include "fence.h"
#include "stand_in.h"
#include "test.h"
#include "visit.h"

enum { MOST = 4096, SMALL_MESSAGE = 2000, EXACT_MOST = 1 << 16, FLIPS = 300 };

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

static bool answers_too_much(const struct ends *e)
{
    int i = make_find_arg(e->helper.function, ARG_OUT_EXACT);
    return i >= 0 && e->provider[e->helper.function->args[i].len] > EXACT_MOST;
}

/* What got through must be something a provider can work with, and its answer a message again. */
static void expect_sound(struct ends *e)
{
    struct dice dice = dice_from_seed(tried);
    visit_call(&leaves, e->helper.function, e->provider, ends_gave, e);
    const char *fault = stand_in_finds_fault(&leaves, e);
    expect_text("none", fault ? fault : "none");
    for (unsigned i = 0; e->helper.recall && i < e->helper.recall->count; i++)
        expect(ends_gave(e, e->helper.recall->list[i].at, e->helper.recall->list[i].size));
    stand_in_reads(&leaves);
    stand_in_writes(&dice, &leaves, CKR_OK, MOST);
    if (answers_too_much(e))
        return;
    ends_write_response(e, CKR_OK);
    expect_number(0, e->message.error);
    expect(evil_places(&e->message, places) > 0);
}

/* The helper's side of a message that is there already. */
static void take_request(struct ends *e)
{
    static struct recall recall;
    const struct function *f = e->helper.function;
    arena_reset(&e->arena, false);
    operations_recall(NULL, 0, 0, &recall);
    e->helper = (struct walk){
        .function = f, .tables = &standard_tables, .words = e->provider, .w = &e->writer, .r = &e->reader, .arena = &e->arena,
        .recall = f->role ? &recall : NULL,
    };
    ends_read_request(e, 0);
    tried++;
    if (e->reader.error) {
        expect(evil_is_wire_error(e->reader.error));
        return;
    }
    accepted++;
    expect_sound(e);
}

static struct ends *make_request(const struct function *f, uint64_t seed)
{
    struct dice dice = dice_from_seed(seed);
    struct ends *e = ends_begin(f);
    make_call(&dice, f, e->caller);
    ends_write_request(e);
    message_set(&original, e->message.bytes, e->message.len);
    return e;
}

static size_t begin_request(unsigned fn, unsigned round)
{
    struct ends *e = make_request(&functions[fn], fn * 100 + round);
    return original.len < SMALL_MESSAGE && e->shim.refusal == CKR_OK ? evil_places(&original, places) : 0;
}

static void every_value_of_a_request_replaced(void)
{
    static struct place all[PLACES];
    tried = accepted = 0;
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned round = 0; round < 6 && make_crosses(&functions[fn]); round++) {
            size_t n = begin_request(fn, round);
            memcpy(all, places, sizeof all);
            for (size_t i = 0; i < n * evil_count; i++) {
                struct ends *e = ends_begin(&functions[fn]);
                const struct evil *evil = &evils[i % evil_count];
                const struct place *place = &all[i / evil_count];
                test_case("%s, round %u, bytes %zu to %zu, %s", functions[fn].name, round, place->from, place->to, evil->name);
                if (round % 2)
                    ends_use_shelf(e);
                evil_replace(&e->message, &original, *place, evil);
                take_request(e);
            }
        }
    test_note("%lu requests, %lu of them accepted", tried, accepted);
}

/* A seventh of them each: mechanisms share their structs. */
static void replace_some(const struct way *way, unsigned first)
{
    static struct place all[PLACES];
    const struct function *f = make_function_for(way->choice);
    struct dice dice = dice_from_seed(first);
    struct ends *e = ends_begin(f);
    ends_give_mechanism(e, make_mechanism(&dice, way->mechanism, way->choice));
    ends_write_request(e);
    message_set(&original, e->message.bytes, e->message.len);
    size_t n = original.len < SMALL_MESSAGE ? evil_places(&original, places) : 0;
    memcpy(all, places, sizeof all);
    for (size_t i = first % 7; i < n * evil_count; i += 7) {
        const struct evil *evil = &evils[i % evil_count];
        const struct place *place = &all[i / evil_count];
        e = ends_begin(f);
        test_case("mechanism 0x%lx, choice %u, bytes %zu to %zu, %s", way->mechanism->value, (unsigned)(way->choice - choices),
                  place->from, place->to, evil->name);
        evil_replace(&e->message, &original, *place, evil);
        take_request(e);
    }
}

static void every_parameter_of_a_request_replaced(void)
{
    unsigned n = 0;
    tried = accepted = 0;
    for (struct way way = {0}; make_next_way(&way);)
        replace_some(&way, n++);
    test_note("%lu requests, %lu of them accepted", tried, accepted);
}

static void flipped_requests(void)
{
    tried = accepted = 0;
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned round = 0; round < FLIPS && make_crosses(&functions[fn]); round++) {
            struct dice dice = dice_from_seed(fn * FLIPS + round);
            struct ends *e = make_request(&functions[fn], fn * 100 + round % 10);
            test_case("%s, round %u", functions[fn].name, round);
            evil_flip(&dice, &e->message);
            take_request(e);
        }
    test_note("%lu requests, %lu of them accepted", tried, accepted);
}

/* ---- parameters that are not what the tables say ---- */

static CK_ULONG struct_size(const struct choice *choice)
{
    return choice->kind == VALUE_STRUCT ? layouts[choice->type].size : 0;
}

/* A call of `f` with nothing but a mechanism, whose parameter the caller of this writes next. */
static struct ends *begin_parameter(const struct function *f, CK_MECHANISM_TYPE type)
{
    struct ends *e = ends_begin(f);
    CK_MECHANISM *m = fence_alloc(sizeof *m);
    *m = (CK_MECHANISM){.mechanism = type};
    ends_give_mechanism(e, m);
    ends_write_request(e);
    message_set(&original, e->message.bytes, e->message.len);
    return e;
}

/* The nil of the parameter: the first that ends a pair. */
static struct place find_parameter(void)
{
    size_t n = evil_places(&original, places);
    for (size_t i = 1; i + 1 < n; i++) {
        bool is_pair = original.bytes[places[i].from] == 0x92 && places[i + 2].to == places[i].to;
        if (is_pair && original.bytes[places[i + 2].from] == 0xc0)
            return places[i + 2];
    }
    test_failed(__FILE__, __LINE__, "no parameter");
}

static void expect_refused_parameter(const struct function *f, CK_MECHANISM_TYPE type, const uint8_t *bytes, size_t len)
{
    struct ends *e = begin_parameter(f, type);
    const struct evil parameter = {"parameter", (const char *)bytes, (uint8_t)len};
    evil_replace(&e->message, &original, find_parameter(), &parameter);
    put_back(e, &e->message);
    ends_read_request(e, 0);
    expect_number(-EBADMSG, e->reader.error);
}

/* Bytes would become the struct, pointers and all. */
static void a_struct_as_bytes_is_malformed(void)
{
    unsigned n = 0;
    for (struct way way = {0}; make_next_way(&way);) {
        CK_ULONG size = struct_size(way.choice);
        uint8_t bytes[2 + UINT8_MAX] = {0xc4, (uint8_t)size};
        if (way.choice->kind != VALUE_STRUCT)
            continue;
        memset(bytes + 2, 'p', size);
        test_case("mechanism 0x%lx, %s", way.mechanism->value, layouts[way.choice->type].name);
        expect_refused_parameter(make_function_for(way.choice), way.mechanism->value, bytes, 2 + size);
        n++;
    }
    expect(n > 0);
}

static bool is_choice_of(const struct mechanism *m, uint8_t context, unsigned layout)
{
    for (unsigned k = 0; k < m->n_choices; k++) {
        const struct choice *c = &choices[m->choices + k];
        if (c->kind == VALUE_STRUCT && c->type == layout && (c->context == CONTEXT_ANY || c->context == context))
            return true;
    }
    return false;
}

/* `[name, [nil…]]` or, with zeros where nil cannot be, as good as empty. */
static size_t write_empty(const struct layout *layout, uint8_t *bytes)
{
    size_t len = 0;
    bytes[len++] = 0x92;
    bytes[len++] = 0xd9;
    bytes[len++] = layout->name_len;
    memcpy(bytes + len, layout->name, layout->name_len);
    len += layout->name_len;
    bytes[len++] = 0xdc;
    bytes[len++] = 0;
    bytes[len++] = layout->n_fields;
    memset(bytes + len, 0xc0, layout->n_fields);
    return len + layout->n_fields;
}

static bool is_flat(const struct layout *layout)
{
    for (unsigned i = 0; i < layout->n_fields; i++)
        if (layout->fields[i].kind == FIELD_STRUCT)
            return false;
    return true;
}

/* Whether it could come in place of the way's own, as long, and of fields that may all be nil. */
static bool could_be_taken_for(unsigned other, const struct way *way)
{
    uint8_t context = make_function_for(way->choice)->context;
    return layouts[other].size == struct_size(way->choice) && is_flat(&layouts[other]) && !is_choice_of(way->mechanism, context, other);
}

/* A struct of another mechanism may have bytes where this one's has a pointer. */
static void another_struct_is_malformed(void)
{
    unsigned n = 0;
    for (struct way way = {0}; make_next_way(&way);)
        for (unsigned other = 0; other < layout_count && way.choice->kind == VALUE_STRUCT; other++) {
            uint8_t bytes[UINT8_MAX];
            if (!could_be_taken_for(other, &way))
                continue;
            test_case("mechanism 0x%lx, %s for %s", way.mechanism->value, layouts[other].name, layouts[way.choice->type].name);
            expect_refused_parameter(make_function_for(way.choice), way.mechanism->value, bytes, write_empty(&layouts[other], bytes));
            n++;
        }
    expect(n > 0);
}

static void bytes_for_an_unknown_mechanism_are_malformed(void)
{
    expect_refused_parameter(&functions[FN_C_EncryptInit], CKM_VENDOR_DEFINED + 3, (const uint8_t *)"\xc4\x08 pointer", 10);
}

/* ---- templates that are not what the tables say ---- */

static struct ends *with_elements(unsigned fn, const char *bytes, size_t len)
{
    struct ends *e = ends_begin(&functions[fn]);
    message_set(&e->message, bytes, len);
    ends_read_request(e, 0);
    return e;
}

static void a_nested_template_as_bytes_is_malformed(void)
{
    static const char request[] = "\x92\x01\x91\x92\xce\x40\x00\x02\x11\xc4\x18 pointer, so to say, 24.";
    expect_number(-EBADMSG, with_elements(FN_C_FindObjectsInit, request, sizeof request - 1)->reader.error);
}

static void a_nested_template_as_a_buffer_is_malformed(void)
{
    static const char request[] = "\x93\x01\x02\x91\x93\xce\x40\x00\x02\x11\xc3\x18";
    expect_number(-EBADMSG, with_elements(FN_C_GetAttributeValue, request, sizeof request - 1)->reader.error);
}

static size_t write_nested(uint8_t *bytes, unsigned levels)
{
    size_t len = 0;
    bytes[len++] = 0x92;
    bytes[len++] = 0x01;
    for (unsigned i = 0; i < levels; i++) {
        memcpy(bytes + len, "\x91\x92\xce\x40\x00\x02\x11", 7);
        len += 7;
    }
    bytes[len++] = 0xc0;
    return len;
}

static void nesting_is_bounded(void)
{
    uint8_t request[32 * 7];
    struct ends *e = with_elements(FN_C_FindObjectsInit, (char *)request, write_nested(request, LIMIT_NESTING));
    expect_number(0, e->reader.error);
    e = with_elements(FN_C_FindObjectsInit, (char *)request, write_nested(request, LIMIT_NESTING + 1));
    expect_number(-EMSGSIZE, e->reader.error);
}

static int error_of_mechanisms(unsigned levels)
{
    static const char kip[] = "\x92\xcd\x05\x10\x92\xad" "CK_KIP_PARAMS\x94";
    uint8_t request[1024] = "\x95\x01";
    size_t len = 2;
    for (unsigned i = 0; i < levels; i++, len += sizeof kip - 1)
        memcpy(request + len, kip, sizeof kip - 1);
    request[len++] = 0xc0;
    for (unsigned i = 0; i < levels; i++, len += 3)
        memcpy(request + len, "\x00\xc0\x00", 3);
    memcpy(request + len, "\x02\x00\xc3", 3);
    return with_elements(FN_C_DeriveKey, (char *)request, len + 3)->reader.error;
}

static void nesting_of_mechanisms_is_bounded(void)
{
    expect_number(0, error_of_mechanisms(LIMIT_NESTING));
    expect_number(-EMSGSIZE, error_of_mechanisms(LIMIT_NESTING + 1));
}

static void a_claimed_count_allocates_nothing(void)
{
    static const char request[] = "\x92\x01\xdd\x00\x10\x00\x00";
    struct ends *e = with_elements(FN_C_FindObjectsInit, request, sizeof request - 1);
    expect_number(-ENODATA, e->reader.error);
    expect(e->arena.used <= LIMIT_ELEMENTS * sizeof(CK_ATTRIBUTE) + 64);
}

/* Pages of the arena that hold memory. */
static size_t resident_pages(const struct ends *e)
{
    static unsigned char there[1 << 20];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (e->arena.used + page - 1) / page, n = 0;
    expect(pages <= sizeof there);
    expect_number(0, mincore(e->arena.base, e->arena.used, there));
    for (size_t i = 0; i < pages; i++)
        n += there[i] & 1;
    return n;
}

/* The capacities of buffers: for an argument, an attribute, random bytes, and in a parameter, where it may be refused. */
static void a_claimed_buffer_is_no_memory(void)
{
    static const struct {
        unsigned fn;
        const char *request;
        size_t len;
    } rows[] = {
#define ROW(fn, request) {fn, request, sizeof(request) - 1}
        ROW(FN_C_Sign, "\x93\x01\xc4\x00\x92\xc3\xce\x40\x00\x00\x00"),
        ROW(FN_C_GenerateRandom, "\x92\x01\x92\xc3\xce\x40\x00\x00\x00"),
        ROW(FN_C_GetAttributeValue, "\x93\x01\x02\x91\x93\x03\xc3\xce\x40\x00\x00\x00"),
        ROW(FN_C_GetSlotList, "\x92\xc3\x92\xc3\xce\x00\x10\x00\x00"),
        ROW(FN_C_FindObjects, "\x92\x01\x93\xc3\xce\x00\x10\x00\x00\xc3"),
        ROW(FN_C_DeriveKey, "\x95\x01\x92\xcd\x03\x78\x92\xb1" "CK_TLS_PRF_PARAMS\x96\xc0\x00\xc0\x00\xc3\xce\x40\x00\x00\x00\x02\x00\xc3"),
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ends *e = ends_begin(&functions[rows[i].fn]);
        test_case("%s", functions[rows[i].fn].name);
        message_set(&e->message, rows[i].request, rows[i].len);
        ends_read_request(e, 0);
        expect(e->reader.error == 0 || e->reader.error == -EMSGSIZE || e->reader.error == -EBADMSG);
        expect(e->reader.error != 0 || e->arena.used > LIMIT_ELEMENTS);
        expect(resident_pages(e) * 4096 <= 2 * ARENA_KEEP); /* what earlier tests left, and a little */
    }
}

static const struct test tests[] = {
    TEST(every_value_of_a_request_replaced, "no wrong value anywhere in a request reaches the provider as anything it cannot use"),
    TEST(every_parameter_of_a_request_replaced, "nor in the parameter of any mechanism"),
    TEST(flipped_requests, "damaged and truncated requests are refused or harmless"),
    TEST(a_struct_as_bytes_is_malformed, "a parameter that is a struct never comes as bytes: pointers do not cross the wire"),
    TEST(another_struct_is_malformed, "a parameter is the struct the tables say, not another as long"),
    TEST(bytes_for_an_unknown_mechanism_are_malformed, "a parameter that the tables do not describe is not passed on"),
    TEST(a_nested_template_as_bytes_is_malformed, "a template in an attribute never comes as bytes"),
    TEST(a_nested_template_as_a_buffer_is_malformed, "a template to be filled never comes as a plain buffer"),
    TEST(nesting_is_bounded, "templates nest as deep as the limit says and no deeper"),
    TEST(nesting_of_mechanisms_is_bounded, "so do mechanisms"),
    TEST(a_claimed_count_allocates_nothing, "a claimed count becomes no memory"),
    TEST(a_claimed_buffer_is_no_memory, "a claimed capacity becomes no memory until the provider writes"),
};

TEST_MAIN(tests)
