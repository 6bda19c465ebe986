/*
 * Conversations as specs/vectors has them: what a provider is given, what is answered, what the caller has then, and the
 * bytes in between. Whatever of it is cut short is no message.
 */
#include <errno.h>
#include <string.h>

#include "door.h"
#include "message.h"
#include "test.h"
#include "told.h"
#include "vectors.h"
#include "walk.h"

enum { MAX_ARGS = 16, HEAD = 4 /* of a response without error: [1, 1, nil, … */ };

static bool object_to_wire(void *context, CK_ULONG client, CK_ULONG *ret_server)
{
    (void)context;
    *ret_server = client;
    return true;
}

static CK_ULONG from_wire(void *context, CK_ULONG server)
{
    (void)context;
    return server;
}

static const struct names same_names = {NULL, object_to_wire, from_wire, from_wire, from_wire};

/* One end: the arguments of a vector's call, in an arena of its own. */
struct side {
    struct walk walk;
    struct reader reader;
    struct message message;
    struct arena arena;
    struct leaves leaves;
    struct recall recall;
    uintptr_t words[MAX_ARGS];
    uint8_t buffer[READER_BUFFER];
};

static struct side caller, provider;
static struct side caller_before, provider_before; /* of the call that began the operation */
static struct writer writer;

static void listen(struct side *s, const void *bytes, size_t len)
{
    message_set(&s->message, bytes, len);
    reader_init(&s->reader, s->buffer, message_source, &s->message);
}

static void read_head(struct reader *r, const struct function *f)
{
    char method[LIMIT_NAME + 1];
    expect_number(4, read_array(r));
    expect_number(0, read_uint(r));
    expect_number(1, read_uint(r));
    read_text(r, method, sizeof method);
    expect_text(f->name, method);
}

/* As a helper reads it. */
static void begin_side(struct side *s, const struct vector *v)
{
    const struct function *f = vector_function(v);
    arena_finish(&s->arena);
    expect_number(0, arena_init(&s->arena, (size_t)1 << 32));
    listen(s, v->request.bytes, v->request.len);
    operations_recall(NULL, 0, 0, &s->recall);
    s->walk = (struct walk){
        .function = f, .tables = &standard_tables, .words = s->words, .w = &writer, .r = &s->reader, .arena = &s->arena,
        .recall = &s->recall,
    };
    read_head(&s->reader, f);
    get_request(&s->walk);
    expect_number(0, s->reader.error);
    expect(message_is_read(&s->message, &s->reader));
    visit_call(&s->leaves, f, s->words, NULL, NULL);
}

/* What is known of the operation that the call is about. */
static void recall_operation(struct side *s, struct side *before, const struct vector *v)
{
    if (v->begun[0]) {
        begin_side(before, vector_call(v->begun));
        s->recall = before->recall;
        expect(s->recall.count > 0);
    }
    s->recall.known = v->operation != 0;
    s->recall.mechanism = v->operation;
}

/* The same arguments in a caller's hands: nothing in its buffers yet. */
static void begin_caller(const struct vector *v)
{
    begin_side(&caller, v);
    tell_blank(&caller.leaves);
    caller.walk = (struct walk){
        .function = caller.walk.function, .tables = &standard_tables, .words = caller.words, .w = &writer,
        .r = &caller.reader, .names = &same_names, .slot = caller.words[0], .session = caller.words[0],
        .recall = &caller.recall,
    };
    recall_operation(&caller, &caller_before, v);
}

static void begin(const struct vector *v)
{
    test_case("%s: %s", v->file, v->name);
    visit_operation = v->operation;
    if (!writer.buffer.base)
        expect_number(0, writer_init(&writer));
    writer_reset(&writer);
    begin_side(&provider, v);
    recall_operation(&provider, &provider_before, v);
    begin_caller(v);
}

static void expect_message(const void *expected, size_t len)
{
    static struct message written;
    message_take(&written, &writer);
    expect_number(0, written.error);
    expect_number(len, written.len);
    expect_bytes(expected, written.bytes, len);
}

static void check_request(const struct vector *v)
{
    char given[TOLD];
    tell_given(&provider.leaves, given);
    expect_text(v->given, given);
    write_array(&writer, 4);
    write_uint(&writer, 0);
    write_uint(&writer, 1);
    write_str(&writer, v->function, strlen(v->function));
    if (!v->begun[0])
        caller.recall.count = 0;
    put_request(&caller.walk);
    expect_number(CKR_OK, caller.walk.refusal);
    expect_message(v->request.bytes, v->request.len);
    expect_number(provider.recall.count, caller.recall.count);
}

/* Written by the one, it is at the other, each in its own memory. */
static void expect_late(void)
{
    expect(!caller.recall.lost);
    for (unsigned i = 0; i < provider.recall.count; i++) {
        const struct late *theirs = &provider.recall.list[i], *ours = &caller.recall.list[i];
        expect_number(theirs->size, ours->size);
        expect_bytes(theirs->at, ours->at, theirs->size);
    }
}

static void check_response(const struct vector *v)
{
    char got[TOLD];
    expect(tell_write(&provider.leaves, v->wrote));
    expect(!v->late[0] || tell_write_late(&provider.recall, v->late));
    put_response(&provider.walk, v->rv);
    expect_message(v->response.bytes + HEAD, v->response.len - HEAD);
    listen(&caller, v->response.bytes + HEAD, v->response.len - HEAD);
    expect_number(v->rv, get_response(&caller.walk));
    expect_number(0, caller.reader.error);
    expect(message_is_read(&caller.message, &caller.reader));
    tell_outputs(&caller.leaves, got);
    expect_text(v->got[0] ? v->got : v->wrote, got);
    expect_late();
}

static void converse(const char *file, void (*check)(const struct vector *))
{
    unsigned n = 0;
    for (const struct vector *v = NULL; (v = vector_next(file, v)); n++) {
        begin(v);
        check(v);
    }
    expect(n > 0);
}

static void requests_arrive(void)
{
    converse("calls", check_request);
}

static void parameters_arrive(void)
{
    converse("structs", check_request);
}

static void responses_arrive(void)
{
    converse("calls", check_response);
}

static void parameters_come_back(void)
{
    converse("structs", check_response);
}

/* ---- cut short ---- */

/* The head is read by those who read the whole. */
static size_t params_of(const struct vector *v)
{
    return 4 + strlen(v->function);
}

static void cut_request(const struct vector *v)
{
    for (size_t len = params_of(v); len < v->request.len; len++) {
        test_case("%s: %s, after %zu bytes", v->file, v->name, len);
        arena_reset(&provider.arena, true);
        listen(&provider, v->request.bytes + params_of(v), len - params_of(v));
        get_request(&provider.walk);
        expect_number(-ENODATA, provider.reader.error);
    }
}

static void cut_response(const struct vector *v)
{
    for (size_t len = HEAD; len < v->response.len; len++) {
        test_case("%s: %s, after %zu bytes", v->file, v->name, len);
        begin_caller(v);
        listen(&caller, v->response.bytes + HEAD, len - HEAD);
        get_response(&caller.walk);
        expect_number(-ENODATA, caller.reader.error);
    }
}

static void a_request_cut_short_is_none(void)
{
    converse("calls", cut_request);
    converse("structs", cut_request);
}

static void a_response_cut_short_is_none(void)
{
    converse("calls", cut_response);
    converse("structs", cut_response);
}

/* ---- hellos ---- */

static const char *answer_to(const struct vector *v, size_t portion)
{
    struct hello hello;
    listen(&caller, v->send.bytes, v->send.len);
    caller.message.portion = portion;
    read_hello(&caller.reader, &hello);
    switch (caller.reader.error) {
    case 0: return message_is_read(&caller.message, &caller.reader) ? "hello" : "bytes behind the hello";
    case -EMSGSIZE: return "limit";
    case -EBADMSG: return "malformed";
    default: return strerror(-caller.reader.error);
    }
}

static void hellos_are_told_from_others(void)
{
    for (const struct vector *v = NULL; (v = vector_next("hellos", v));) {
        test_case("%s", v->name);
        expect_text(v->answer, answer_to(v, 0));
        expect_text(v->answer, answer_to(v, 1));
    }
}

static const struct test tests[] = {
    TEST(requests_arrive, "for every pattern of an argument: the provider is given what the caller gave"),
    TEST(parameters_arrive, "so it is for every kind of field"),
    TEST(responses_arrive, "the caller has what the provider wrote, and nothing else"),
    TEST(parameters_come_back, "what the provider wrote into a parameter comes back"),
    TEST(a_request_cut_short_is_none, "a request that ends too early, wherever, is no request"),
    TEST(a_response_cut_short_is_none, "a response that ends too early, wherever, is no response"),
    TEST(hellos_are_told_from_others, "a hello is one, or the fault is named"),
};

TEST_MAIN(tests)
