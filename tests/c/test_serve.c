/* A helper's channel: requests in order, faults by whose they are, nothing kept that was secret. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd_count.h"
#include "pin.h"
#include "serve.h"
#include "slate.h"
#include "tables.h"
#include "test.h"

/* ---- a provider of few functions ---- */

static const CK_UTF8CHAR pin[] = "a PIN that must not be found anywhere";

static const CK_UTF8CHAR *seen_pin; /* where the provider was given it */
static CK_ULONG seen_pin_len;
static struct slate_mark *mark; /* of the next channel; NULL: it has none */
static int seen_mark;

static CK_RV random_bytes(CK_SESSION_HANDLE session, CK_BYTE *bytes, CK_ULONG len)
{
    memset(bytes, (int)session, len);
    return CKR_OK;
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *given, CK_ULONG len)
{
    (void)session, (void)user;
    seen_pin = given;
    seen_pin_len = len;
    seen_mark = mark ? slate_function(mark) : -1;
    return len == sizeof pin - 1 && memcmp(given, pin, len) == 0 ? CKR_OK : CKR_PIN_INCORRECT;
}

static CK_RV session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    *info = (CK_SESSION_INFO){session, 1, 2, 3};
    return CKR_OK;
}

static CK_RV digest(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG len, CK_BYTE *out, CK_ULONG *out_len)
{
    (void)session;
    if (out && *out_len < 1)
        return CKR_BUFFER_TOO_SMALL;
    for (CK_ULONG i = 0; out && i < len; i++)
        out[0] = (CK_BYTE)(i ? out[0] ^ data[i] : data[i]);
    *out_len = 1;
    return CKR_OK;
}

/* As much as it is asked for. */
static CK_RV attributes_of(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    (void)session, (void)object;
    for (CK_ULONG i = 0; i < count; i++)
        if (template[i].pValue)
            memset(template[i].pValue, 'v', template[i].ulValueLen);
    return CKR_OK;
}

static struct provider provider = {.list = {
    .C_GenerateRandom = random_bytes, .C_Digest = digest, .C_Login = login,
    .C_GetSessionInfo = session_info, .C_GetAttributeValue = attributes_of,
}};

/* ---- a channel of its own thread ---- */

struct service {
    struct channel *helper, *caller;
    pthread_t thread;
};

static void *run(void *argument)
{
    struct service *s = argument;
    serve(s->helper, &provider);
    shutdown(s->helper->from, SHUT_RDWR); /* what closing it would do; its buffers are looked into later */
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
    s->helper->mark = mark;
    s->helper->tallies = mark ? slate->tallies[0] : NULL;
    expect_number(0, pthread_create(&s->thread, NULL, run, s));
}

static void end(struct service *s)
{
    shutdown(s->caller->from, SHUT_WR);
    expect_number(0, pthread_join(s->thread, NULL));
    channel_free(s->helper);
    channel_free(s->caller);
}

static void send_raw(struct service *s, const void *bytes, size_t len)
{
    expect_number(len, send(s->caller->from, bytes, len, MSG_NOSIGNAL));
}

/* ---- asking ---- */

static void write_call(struct writer *w, uint32_t id, const char *method, size_t count)
{
    write_array(w, 4);
    write_uint(w, 0);
    write_uint(w, id);
    write_str(w, method, strlen(method));
    write_array(w, count);
}

static void ask_random(struct service *s, uint32_t id, CK_ULONG session, CK_ULONG len)
{
    struct writer *w = &s->caller->out;
    write_call(w, id, "C_GenerateRandom", 2);
    write_uint(w, session);
    write_array(w, 2);
    write_bool(w, true);
    write_uint(w, len);
    expect_number(0, channel_send(s->caller));
}

/* The head of a response without error; what follows is the result. */
static struct reader *expect_answer(struct service *s, uint32_t id)
{
    struct reader *r = &s->caller->in;
    channel_begin(s->caller, 0);
    expect_number(4, read_array(r));
    expect_number(1, read_uint(r));
    expect_number(id, read_uint(r));
    expect_number(WIRE_NIL, read_peek(r));
    read_nil(r);
    return r;
}

static void expect_random(struct service *s, uint32_t id, CK_ULONG session, size_t len)
{
    uint8_t bytes[64], same[64];
    struct reader *r = expect_answer(s, id);
    memset(same, (int)session, sizeof same);
    expect_number(2, read_array(r));
    expect_number(CKR_OK, read_uint(r));
    expect_number(len, read_bin(r));
    read_raw(r, bytes, len);
    expect_bytes(same, bytes, len);
    expect_number(0, r->error);
}

static void expect_fault(struct service *s, uint32_t id, const char *expected)
{
    struct reader *r = &s->caller->in;
    char code[LIMIT_NAME + 1], text[256];
    channel_begin(s->caller, 0);
    expect_number(4, read_array(r));
    expect_number(1, read_uint(r));
    expect_number(id, read_uint(r));
    expect_number(2, read_array(r));
    read_text(r, code, sizeof code);
    read_text(r, text, sizeof text);
    expect_number(WIRE_NIL, read_peek(r));
    read_nil(r);
    expect_number(0, r->error);
    expect_text(expected, code);
    expect(text[0] != '\0');
}

static void expect_end(struct service *s)
{
    channel_begin(s->caller, 0);
    read_nil(&s->caller->in);
    expect(s->caller->in.error == -ENODATA || s->caller->in.error == -ECONNRESET);
}

static void expect_still_served(struct service *s)
{
    ask_random(s, 77, 5, 10);
    expect_random(s, 77, 5, 10);
}

/* ---- calls ---- */

static void calls_are_answered(void)
{
    struct service s;
    begin(&s);
    ask_random(&s, 1, 9, 33);
    expect_random(&s, 1, 9, 33);
    write_call(&s.caller->out, UINT32_MAX, "C_GetSessionInfo", 2);
    write_uint(&s.caller->out, 1000);
    write_bool(&s.caller->out, true);
    expect_number(0, channel_send(s.caller));
    struct reader *r = expect_answer(&s, UINT32_MAX);
    expect_number(2, read_array(r));
    expect_number(CKR_OK, read_uint(r));
    expect_number(4, read_array(r));
    expect_number(1000, read_uint(r));
    expect_number(1, read_uint(r));
    expect_number(2, read_uint(r));
    expect_number(3, read_uint(r));
    expect_number(0, r->error);
    end(&s);
}

static void requests_may_come_before_their_turn(void)
{
    struct service s;
    begin(&s);
    for (uint32_t i = 0; i < 50; i++)
        ask_random(&s, i, i, i);
    for (uint32_t i = 0; i < 50; i++)
        expect_random(&s, i, i, i);
    end(&s);
}

static void requests_may_come_byte_by_byte(void)
{
    static const char request[] = "\x94\x00\x07\xb0" "C_GenerateRandom\x92\x05\x92\xc3\x08";
    struct service s;
    begin(&s);
    for (size_t i = 0; i < sizeof request - 1; i++)
        send_raw(&s, request + i, 1);
    expect_random(&s, 7, 5, 8);
    end(&s);
}

static void what_a_provider_lacks_is_not_supported(void)
{
    struct service s;
    begin(&s);
    write_call(&s.caller->out, 1, "C_Logout", 1);
    write_uint(&s.caller->out, 1);
    expect_number(0, channel_send(s.caller));
    struct reader *r = expect_answer(&s, 1);
    expect_number(1, read_array(r));
    expect_number(CKR_FUNCTION_NOT_SUPPORTED, read_uint(r));
    expect_still_served(&s);
    end(&s);
}

static void a_long_input_arrives_whole(void)
{
    enum { LONG = 3 * READER_BUFFER + 7 };
    static uint8_t data[LONG];
    struct service s;
    uint8_t sum = 0, got = 1;
    begin(&s);
    for (size_t i = 0; i < LONG; i++)
        sum ^= data[i] = (uint8_t)(i * 3 >> 2);
    write_call(&s.caller->out, 1, "C_Digest", 3);
    write_uint(&s.caller->out, 1);
    write_bin(&s.caller->out, data, LONG);
    write_array(&s.caller->out, 2);
    write_bool(&s.caller->out, true);
    write_uint(&s.caller->out, 20);
    expect_number(0, channel_send(s.caller));
    struct reader *r = expect_answer(&s, 1);
    expect_number(2, read_array(r));
    expect_number(CKR_OK, read_uint(r));
    expect_number(2, read_array(r));
    expect_number(1, read_uint(r));
    expect_number(1, read_bin(r));
    read_raw(r, &got, 1);
    expect_number(sum, got);
    end(&s);
}

/* ---- faults ---- */

struct fault {
    const char *what;
    uint32_t id; /* as far as it was understood */
    const char *code;
    const char *request;
    size_t len;
};

#define WRAP_TEMPLATE "\x91\x92\xce\x40\x00\x02\x11" /* a template of one, and its value */
#define IN_8_ARRAYS "\x91\x91\x91\x91\x91\x91\x91\x91"

#define FAULT(what, id, code, request) {what, id, code, request, sizeof(request) - 1}

static const struct fault faults[] = {
    FAULT("no MessagePack", 0, "malformed", "GET / HTTP/1.1\r\n\r\n"),
    FAULT("a number", 0, "malformed", "\x05"),
    FAULT("a response", 0, "malformed", "\x94\x01\x05\xc0\x91\x00"),
    FAULT("three elements", 0, "malformed", "\x93\x00\x05\xa9" "C_GetInfo"),
    FAULT("five elements", 0, "malformed", "\x95\x00\x05\xa9" "C_GetInfo\x91\xc3\xc0"),
    FAULT("a map", 0, "malformed", "\x84\x00\x05\xa9" "C_GetInfo\x91\xc3"),
    FAULT("an id that is text", 0, "malformed", "\x94\x00\xa1" "5\xa9" "C_GetInfo\x91\xc3"),
    FAULT("a method that is a number", 5, "malformed", "\x94\x00\x05\x09\x91\xc3"),
    FAULT("a method that is bytes", 5, "malformed", "\x94\x00\x05\xc4\x09" "C_GetInfo\x91\xc3"),
    FAULT("a method with a NUL inside", 5, "malformed", "\x94\x00\x05\xab" "C_GetInfo\0x\x91\xc3"),
    FAULT("params that are no array", 5, "malformed", "\x94\x00\x05\xa9" "C_GetInfo\xc3"),
    FAULT("params that are a map", 5, "malformed", "\x94\x00\x05\xa9" "C_GetInfo\x81\x00\xc3"),
    FAULT("a parameter too few", 5, "malformed", "\x94\x00\x05\xa9" "C_GetInfo\x90"),
    FAULT("a parameter too many", 5, "malformed", "\x94\x00\x05\xa9" "C_GetInfo\x92\xc3\xc3"),
    FAULT("a parameter of another type", 5, "malformed", "\x94\x00\x05\xa9" "C_GetInfo\x91\x05"),
    FAULT("a float", 5, "malformed", "\x94\x00\x05\xa8" "C_Logout\x91\xca\0\0\0\0"),
    FAULT("an extension", 5, "malformed", "\x94\x00\x05\xa8" "C_Logout\x91\xd4\x01x"),
    FAULT("-2", 5, "malformed", "\x94\x00\x05\xa8" "C_Logout\x91\xfe"),
    FAULT("a float for an unknown method", 5, "malformed", "\x94\x00\x05\xa6" "C_Sing\x91\xca\0\0\0\0"),
    FAULT("a name over the limit", 5, "limit",
        "\x94\x00\x05\xd9\x41" "C_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x90"),
    FAULT("a template over the limit", 5, "limit", "\x94\x00\x05\xb1" "C_FindObjectsInit\x92\x01\xdd\x00\x10\x00\x01"),
    FAULT("a byte string over the limit", 5, "limit", "\x94\x00\x05\xac" "C_SeedRandom\x92\x01\xc6\x40\x00\x00\x01"),
    FAULT("a byte string of 4 GiB", 5, "limit", "\x94\x00\x05\xac" "C_SeedRandom\x92\x01\xc6\xff\xff\xff\xff"),
    FAULT("templates nested too deep", 5, "limit", "\x94\x00\x05\xb1" "C_FindObjectsInit\x92\x01"
        WRAP_TEMPLATE WRAP_TEMPLATE WRAP_TEMPLATE WRAP_TEMPLATE WRAP_TEMPLATE
        WRAP_TEMPLATE WRAP_TEMPLATE WRAP_TEMPLATE WRAP_TEMPLATE "\xc0"),
    FAULT("arrays nested too deep for an unknown method", 5, "limit", "\x94\x00\x05\xa6" "C_Sing"
        IN_8_ARRAYS IN_8_ARRAYS IN_8_ARRAYS IN_8_ARRAYS IN_8_ARRAYS "\xc0"),
};

static void faults_end_their_channel(void)
{
    struct service other;
    begin(&other);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct service s;
        begin(&s);
        test_case("%s", faults[i].what);
        ask_random(&s, 3, 4, 5);
        expect_random(&s, 3, 4, 5);
        send_raw(&s, faults[i].request, faults[i].len);
        expect_fault(&s, faults[i].id, faults[i].code);
        expect_end(&s);
        expect_still_served(&other);
        end(&s);
    }
    end(&other);
}

static void an_id_over_the_limit_is_malformed(void)
{
    static const char *const ids[] = {"\xcf\x00\x00\x00\x01\x00\x00\x00\x00", "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"};
    for (size_t i = 0; i < 2; i++) {
        struct service s;
        char code[16];
        begin(&s);
        send_raw(&s, "\x94\x00", 2);
        send_raw(&s, ids[i], 9);
        send_raw(&s, "\xa9" "C_GetInfo\x91\xc3", 12);
        struct reader *r = &s.caller->in;
        channel_begin(s.caller, 0);
        expect_number(4, read_array(r));
        expect_number(1, read_uint(r));
        read_uint(r); /* whatever it was taken for */
        expect_number(2, read_array(r));
        read_text(r, code, sizeof code);
        expect_text("malformed", code);
        end(&s);
    }
}

/* A method nobody has, one that never crosses the wire, and one that only looks like a name. */
static void an_unknown_method_keeps_the_channel(void)
{
    static const char *const methods[] = {
        "C_Sing", "C_Initialize", "C_GetFunctionList", "C_GetInterface", "C_AsyncJoin", "", "c_sign", "C_Sign ", "attach",
        "C_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    };
    struct service s;
    begin(&s);
    for (uint32_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        struct writer *w = &s.caller->out;
        test_case("\"%s\"", methods[i]);
        write_call(w, i, methods[i], 3);
        write_bin(w, methods, sizeof methods);
        write_map(w, 1);
        write_str(w, "key", 3);
        write_array(w, 0);
        write_nil(w);
        expect_number(0, channel_send(s.caller));
        expect_fault(&s, i, "unknown");
        expect_still_served(&s);
    }
    end(&s);
}

/* More attributes than one message has room for, each too short to be sent from where it lies. */
static void a_response_over_the_limit_is_told(void)
{
    enum { COUNT = 5000, EACH = WRITER_BY_REFERENCE - 1 };
    struct service s;
    struct writer *w;
    begin(&s);
    w = &s.caller->out;
    write_call(w, 8, "C_GetAttributeValue", 3);
    write_uint(w, 1);
    write_uint(w, 2);
    write_array(w, COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        write_array(w, 3), write_uint(w, CKA_LABEL), write_bool(w, true), write_uint(w, EACH);
    expect_number(0, channel_send(s.caller));
    expect_fault(&s, 8, "limit");
    end(&s);
}

/* ---- ends ---- */

static void an_end_anywhere_is_an_end(void)
{
    static const char request[] = "\x94\x00\x07\xb0" "C_GenerateRandom\x92\x05\x92\xc3\x08";
    for (size_t len = 0; len < sizeof request - 1; len++) {
        struct service s;
        uint8_t byte;
        begin(&s);
        test_case("after %zu bytes", len);
        send_raw(&s, request, len);
        shutdown(s.caller->from, SHUT_WR);
        expect_number(0, recv(s.caller->from, &byte, 1, 0));
        end(&s);
    }
}

static void a_caller_that_does_not_wait_is_no_signal(void)
{
    struct service s;
    begin(&s);
    ask_random(&s, 1, 2, 64);
    shutdown(s.caller->from, SHUT_RDWR);
    expect_number(0, pthread_join(s.thread, NULL));
    channel_free(s.helper);
    channel_free(s.caller);
}

/* ---- secrets ---- */

static bool holds_pin(const void *memory, size_t size)
{
    return memmem(memory, size, pin, sizeof pin - 1) != NULL;
}

static void ask_login(struct service *s, uint32_t id)
{
    struct writer *w = &s->caller->out;
    write_call(w, id, "C_Login", 3);
    write_uint(w, 1);
    write_uint(w, CKU_USER);
    write_bin(w, pin, sizeof pin - 1);
    expect_number(0, channel_send(s->caller));
    struct reader *r = expect_answer(s, id);
    expect_number(1, read_array(r));
    expect_number(CKR_OK, read_uint(r));
}

/* The answer to the next call says that everything about this one is over. */
static void a_PIN_is_wiped(void)
{
    struct service s;
    begin(&s);
    ask_login(&s, 1);
    expect_still_served(&s);
    expect_number(sizeof pin - 1, seen_pin_len);
    expect(!holds_pin(seen_pin, seen_pin_len));
    shutdown(s.caller->from, SHUT_WR);
    expect_number(0, pthread_join(s.thread, NULL));
    expect(!holds_pin(s.helper->buffer, sizeof s.helper->buffer));
    expect(!holds_pin(s.helper->out.buffer.base, s.helper->out.buffer.committed));
    expect(!holds_pin(s.caller->out.buffer.base, s.caller->out.buffer.committed));
    channel_free(s.helper);
    channel_free(s.caller);
}

/* So it is when the request came with the beginning of another, and was moved in the buffer. */
static void a_PIN_that_came_in_pieces_is_wiped(void)
{
    static const char head[] = "\x94\x00\x01\xa7" "C_Login\x93\x01\x01\xc4";
    static const char next[] = "\x94\x00\x07\xb0" "C_GenerateRandom\x92\x05\x92\xc3\x08";
    for (size_t cut = 1; cut < sizeof next - 1; cut++) {
        struct service s;
        uint8_t request[sizeof head + sizeof pin + sizeof next], *at = request;
        memcpy(at, head, sizeof head - 1), at += sizeof head - 1;
        *at++ = sizeof pin - 1;
        memcpy(at, pin, sizeof pin - 1), at += sizeof pin - 1;
        memcpy(at, next, cut), at += cut;
        begin(&s);
        test_case("%zu bytes of the next", cut);
        send_raw(&s, request, (size_t)(at - request));
        struct reader *r = expect_answer(&s, 1);
        expect_number(1, read_array(r));
        expect_number(CKR_OK, read_uint(r));
        send_raw(&s, next + cut, sizeof next - 1 - cut);
        expect_random(&s, 7, 5, 8);
        shutdown(s.caller->from, SHUT_WR);
        expect_number(0, pthread_join(s.thread, NULL));
        expect(!holds_pin(s.helper->buffer, sizeof s.helper->buffer));
        channel_free(s.helper);
        channel_free(s.caller);
    }
}

/* ---- the broker's PIN ---- */

static void give_pin(void)
{
    int ends[2];
    expect_number(0, pipe(ends));
    expect_number(sizeof pin - 1, write(ends[1], pin, sizeof pin - 1));
    close(ends[1]);
    pin_read(ends[0]);
    close(ends[0]);
}

static void logging_in_again_leaves_a_mark(void)
{
    struct service s;
    expect(slate_make());
    give_pin();
    mark = &slate->marks[0];
    begin(&s);
    write_call(&s.caller->out, 1, "login", 1);
    write_uint(&s.caller->out, 1);
    expect_number(0, channel_send(s.caller));
    struct reader *r = expect_answer(&s, 1);
    expect_number(1, read_array(r));
    expect_number(CKR_OK, read_uint(r));
    end(&s);
    expect_number(FN_C_Login, seen_mark);
    expect_number(-1, slate_function(&slate->marks[0]));
    mark = NULL;
}

/* ---- threads ---- */

enum { CHANNELS = 8, CALLS = 200 };

static void *converse(void *argument)
{
    struct service s;
    uint32_t session = (uint32_t)(uintptr_t)argument;
    begin(&s);
    for (uint32_t i = 0; i < CALLS; i++) {
        ask_random(&s, i, session, i % 60);
        expect_random(&s, i, session, i % 60);
    }
    end(&s);
    return NULL;
}

static void channels_do_not_disturb_each_other(void)
{
    pthread_t threads[CHANNELS];
    for (uintptr_t i = 0; i < CHANNELS; i++)
        expect_number(0, pthread_create(&threads[i], NULL, converse, (void *)(i + 1)));
    for (unsigned i = 0; i < CHANNELS; i++)
        expect_number(0, pthread_join(threads[i], NULL));
}

static const struct test tests[] = {
    TEST(calls_are_answered, "a request is answered with its id and what the provider said"),
    TEST(requests_may_come_before_their_turn, "requests sent ahead are answered in their order"),
    TEST(requests_may_come_byte_by_byte, "a request may arrive in any pieces"),
    TEST(what_a_provider_lacks_is_not_supported, "a function that the provider lacks is answered, and the channel stays"),
    TEST(a_long_input_arrives_whole, "an input longer than any buffer arrives whole"),
    TEST(faults_end_their_channel, "a request at fault is told why and ends its channel, and no other"),
    TEST(an_id_over_the_limit_is_malformed, "an id of more than 32 bits is malformed"),
    TEST(an_unknown_method_keeps_the_channel, "a method that is unknown or not for the wire is told, and the channel stays"),
    TEST(a_response_over_the_limit_is_told, "a response that is over the limit is told instead"),
    TEST(an_end_anywhere_is_an_end, "a channel that ends within a request ends without an answer"),
    TEST(a_caller_that_does_not_wait_is_no_signal, "answering nobody is no SIGPIPE"),
    TEST(a_PIN_is_wiped, "a PIN is nowhere to be found after its call"),
    TEST(a_PIN_that_came_in_pieces_is_wiped, "nor when the next request came with it"),
    TEST(logging_in_again_leaves_a_mark, "a helper that logs in by itself notes where it is, as with any call"),
    TEST(channels_do_not_disturb_each_other, "many channels are served at the same time"),
};

TEST_MAIN(tests)
