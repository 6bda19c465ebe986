/* The negative vectors of specs/vectors: a helper that is sent them, a shim that is answered with them. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd_count.h"
#include "message.h"
#include "rig.h"
#include "serve.h"
#include "test.h"
#include "vectors.h"
#include "visit.h"

enum { MAX_ARGS = 16 };

/* ---- requests ---- */

struct service {
    struct channel *helper, *caller;
    pthread_t thread;
};

static struct provider provider; /* without a function */

static void *run(void *argument)
{
    struct service *s = argument;
    serve(s->helper, &provider);
    shutdown(s->helper->from, SHUT_RDWR);
    return NULL;
}

static void begin(struct service *s)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int ends[2];
    pthread_once(&once, serve_init);
    make_pair(SOCK_STREAM, ends);
    s->helper = channel_new(ends[0], ends[0]);
    s->caller = channel_new(ends[1], ends[1]);
    expect(s->helper && s->caller);
    expect_number(0, pthread_create(&s->thread, NULL, run, s));
}

static void end(struct service *s)
{
    shutdown(s->caller->from, SHUT_RDWR);
    expect_number(0, pthread_join(s->thread, NULL));
    channel_free(s->helper);
    channel_free(s->caller);
}

/* The helper may have heard enough before it has heard all. */
static void say(int fd, const struct octets *what, size_t portion)
{
    for (size_t at = 0; at < what->len; at += portion)
        if (send(fd, what->bytes + at, what->len - at < portion ? what->len - at : portion, MSG_NOSIGNAL) < 0)
            return;
}

static void expect_code(struct channel *c, const char *expected)
{
    char code[LIMIT_NAME + 1];
    channel_begin(c, 0);
    expect_number(4, read_array(&c->in));
    expect_number(1, read_uint(&c->in));
    read_uint(&c->in);
    expect_number(2, read_array(&c->in));
    read_text(&c->in, code, sizeof code);
    expect_text(expected, code);
    read_skip(&c->in);
    read_skip(&c->in);
    expect_number(0, c->in.error);
}

static void expect_closed(struct channel *c)
{
    channel_begin(c, 0);
    read_skip(&c->in);
    expect(c->in.error == -ENODATA || c->in.error == -ECONNRESET);
}

static void expect_served(struct channel *c)
{
    const struct octets *call = &vector_call("session alone")->request;
    say(c->to, call, call->len);
    channel_begin(c, 0);
    expect_number(4, read_array(&c->in));
    read_skip(&c->in);
    read_skip(&c->in);
    expect(read_nil_if(&c->in));
    read_skip(&c->in);
    expect_number(0, c->in.error);
}

static void send_in_portions(size_t portion)
{
    for (const struct vector *v = NULL; (v = vector_next("requests", v));) {
        struct service s;
        test_case("%s, %zu bytes at a time", v->name, portion);
        begin(&s);
        say(s.caller->to, &v->send, portion);
        if (v->answer[0])
            expect_code(s.caller, v->answer);
        if (!strcmp(v->after, "stays"))
            expect_served(s.caller);
        else
            expect_closed(s.caller);
        end(&s);
    }
}

static void a_helper_names_the_fault(void)
{
    send_in_portions(SIZE_MAX / 2);
}

static void a_helper_names_the_fault_byte_by_byte(void)
{
    send_in_portions(1);
}

/* ---- responses ---- */

/* A call's arguments, as an application would have them, and how they were before the call. */
struct side {
    struct arena memory, image;
    uintptr_t words[MAX_ARGS];
    struct recall recall;
};

static struct side now, before; /* before: of the call that began the operation */
static struct leaves leaves;
static const struct vector *said;

static void answer(struct channel *c)
{
    if (rig_take_request(c))
        say(c->to, &said->send, said->send.len);
    rig_take_request(c); /* the end */
}

/* What is no output is as it was: nothing was written where nothing belongs. */
static void take_image(struct side *s)
{
    arena_finish(&s->image);
    expect_number(0, arena_init(&s->image, (size_t)1 << 32));
    expect(arena_commit(&s->image, s->memory.committed));
    memcpy(s->image.base, s->memory.base, s->memory.committed);
}

static const struct function *make_call(struct side *s, const struct vector *v)
{
    static struct message message;
    static uint8_t buffer[READER_BUFFER];
    struct reader r;
    struct walk walk = {
        .function = vector_function(v), .tables = &standard_tables, .words = s->words, .r = &r, .arena = &s->memory,
        .recall = &s->recall,
    };
    arena_finish(&s->memory);
    expect_number(0, arena_init(&s->memory, (size_t)1 << 32));
    operations_recall(NULL, 0, 0, &s->recall);
    message_set(&message, v->request.bytes, v->request.len);
    reader_init(&r, buffer, message_source, &message);
    read_array(&r);
    for (int i = 0; i < 3; i++)
        read_skip(&r);
    get_request(&walk);
    expect_number(0, r.error);
    visit_operation = v->operation;
    visit_call(&leaves, walk.function, s->words, NULL, NULL);
    take_image(s);
    return walk.function;
}

static void remember_operation(const struct function *f)
{
    struct operations *operations = operations_find_or_map(&rig_state.operations);
    struct operation *operation = operations ? operations_reserve(operations) : NULL;
    expect(operation);
    operations_remember(operations, operation, now.words[0], f->operations, &before.recall);
}

/* As if the operation it is about had begun. */
static const struct function *prepare(const struct vector *v)
{
    operations_recall(NULL, 0, 0, &before.recall);
    if (v->begun[0])
        make_call(&before, vector_call(v->begun));
    if (v->operation)
        before.recall.mechanism = v->operation;
    const struct function *f = make_call(&now, v);
    if (v->begun[0] || v->operation)
        remember_operation(f);
    return f;
}

static void expect_only_outputs_changed(const struct vector *v)
{
    for (size_t i = 0; i < leaves.count; i++) {
        const struct leaf *leaf = &leaves.list[i];
        if (leaf->dir & DIR_OUT)
            memcpy(leaf->at, now.image.base + (leaf->at - now.memory.base), leaf->size);
    }
    expect_bytes(now.image.base, now.memory.base, now.memory.committed);
    if (v->begun[0])
        expect_bytes(before.image.base, before.memory.base, before.memory.committed);
}

static bool is_kept(void)
{
    for (unsigned i = 0; i < IDLE_CHANNELS; i++)
        if (atomic_load(&rig_module()->idle[i]))
            return true;
    return false;
}

static void expect_told(const struct vector *v)
{
    const struct vector *asked = vector_call(v->call);
    test_case("%s", v->name);
    said = v;
    rig_begin(answer);
    const struct function *f = prepare(asked);
    expect_number(v->rv, rig_call((unsigned)(f - functions), now.words, now.words[0]));
    expect(is_kept() == !strcmp(v->after, "kept"));
    rig_end();
    operations_unmap(&rig_state.operations);
    expect_only_outputs_changed(asked);
}

static void an_application_is_told(void)
{
    for (const struct vector *v = NULL; (v = vector_next("responses", v));)
        expect_told(v);
}

static const struct test tests[] = {
    TEST(a_helper_names_the_fault, "a request that cannot be served is answered with whose fault it is"),
    TEST(a_helper_names_the_fault_byte_by_byte, "however it is cut"),
    TEST(an_application_is_told, "an answer that cannot be is a CK_RV, and nothing is written but the call's outputs"),
};

TEST_MAIN(tests)
