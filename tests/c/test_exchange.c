/* The shim's half of a call against a helper in a thread: channels taken and given, failures and what they mean. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach.h"
#include "door.h"
#include "exchange.h"
#include "fd_count.h"
#include "root.h"
#include "serve.h"
#include "test.h"

enum { MOST_CHANNELS = 64, TICK_MS = 20, LONG_MS = 60000 };

/* ---- the parts of the shim that are not here ---- */

pthread_mutex_t *root_names_lock(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    return &lock;
}

static int next_door = -1; /* what the broker offers next */

CK_RV attach(const char *module, struct offer *ret_offers, unsigned *ret_count)
{
    *ret_count = 1;
    ret_offers[0] = (struct offer){.door = next_door, .short_ms = LONG_MS, .long_ms = LONG_MS};
    strcpy(ret_offers[0].name, module);
    next_door = -1;
    return ret_offers[0].door < 0 ? CKR_GENERAL_ERROR : CKR_OK;
}

/* ---- a helper ---- */

/* What it does with a channel after its hello. */
typedef void conversation(struct channel *channel);

struct helper {
    int door;
    conversation *converse;
    CK_RV rv; /* other than CKR_OK: what the hello says instead */
    pthread_t thread, channels[MOST_CHANNELS];
    struct channel *open[MOST_CHANNELS];
    _Atomic unsigned count;
};

struct seat {
    struct helper *helper;
    struct channel *channel;
};

/* As closing would; what is in its buffers stays. */
static void hang_up(struct channel *channel)
{
    shutdown(channel->from, SHUT_RDWR);
    shutdown(channel->to, SHUT_RDWR);
}

static void *run_channel(void *argument)
{
    struct seat seat = *(struct seat *)argument;
    struct hello hello = hello_ours();
    free(argument);
    hello.rv = seat.helper->rv;
    hello.bell = seat.channel->bell.page != NULL;
    if (hello.rv)
        strcpy(hello.error, "not today");
    write_hello(&seat.channel->out, &hello);
    if (channel_send(seat.channel) == 0 && !hello.rv)
        seat.helper->converse(seat.channel);
    hang_up(seat.channel);
    return NULL;
}

static void seat_channel(struct helper *h, struct channel *channel)
{
    struct seat *seat = malloc(sizeof *seat);
    unsigned n = atomic_load(&h->count);
    expect(seat && n < MOST_CHANNELS);
    *seat = (struct seat){h, channel};
    h->open[n] = channel;
    atomic_store(&h->count, n + 1); /* before the caller hears of it */
    expect_number(0, pthread_create(&h->channels[n], NULL, run_channel, seat));
}

static void *run_helper(void *argument)
{
    struct helper *h = argument;
    struct pollfd p = {.fd = h->door, .events = POLLIN};
    for (int error = 0; !error;) {
        struct hello hello;
        pid_t pid;
        poll(&p, 1, -1);
        struct channel *channel = door_receive(h->door, &hello, &pid, &error);
        if (channel)
            seat_channel(h, channel);
    }
    return NULL;
}

/* Returns the caller's end of its door. */
static int helper_start(struct helper *h, conversation *converse)
{
    int ends[2], on = 1;
    make_pair(SOCK_SEQPACKET, ends);
    expect_number(0, setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    *h = (struct helper){.door = ends[1], .converse = converse};
    expect_number(0, pthread_create(&h->thread, NULL, run_helper, h));
    return ends[0];
}

/* As if the process had ended: nothing is behind the door, every channel is closed. */
static void helper_dies(struct helper *h)
{
    shutdown(h->door, SHUT_RDWR);
    expect_number(0, pthread_join(h->thread, NULL));
    for (unsigned i = 0; i < atomic_load(&h->count); i++) {
        hang_up(h->open[i]);
        expect_number(0, pthread_join(h->channels[i], NULL));
        channel_free(h->open[i]);
    }
    close(h->door);
}

/* ---- a provider ---- */

static CK_RV random_bytes(CK_SESSION_HANDLE session, CK_BYTE *bytes, CK_ULONG len)
{
    memset(bytes, (int)session, len);
    return CKR_OK;
}

static CK_RV digest(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG len, CK_BYTE *out, CK_ULONG *out_len)
{
    (void)session;
    for (CK_ULONG i = 0; i < len && i < *out_len; i++)
        out[i] = (CK_BYTE)~data[i];
    *out_len = len;
    return CKR_OK;
}

/* Half of the handles are too large to be tagged. */
static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, CK_ULONG max, CK_ULONG *count)
{
    for (CK_ULONG i = 0; i < max; i++)
        objects[i] = i % 2 ? CK_UNAVAILABLE_INFORMATION - session - i : session + i;
    *count = max;
    return CKR_OK;
}

static CK_RV session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    *info = (CK_SESSION_INFO){.slotID = session + 1000};
    return CKR_OK;
}

static CK_RV decrypt(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG len, CK_BYTE *out, CK_ULONG *out_len)
{
    return digest(session, data, len, out, out_len);
}

static CK_FUNCTION_LIST list = {
    .C_GenerateRandom = random_bytes, .C_Digest = digest, .C_FindObjects = find_objects, .C_GetSessionInfo = session_info, .C_Decrypt = decrypt,
};
static struct provider provider = {.v2 = &list};

static void serve_provider(struct channel *channel)
{
    serve(channel, &provider);
}

/* ---- an application with one module ---- */

static struct state state;
static struct helper helper;

static struct module *module(void)
{
    return &state.modules[0];
}

static void begin(conversation *converse)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct offer offer = {.name = "one", .door = helper_start(&helper, converse), .short_ms = LONG_MS, .long_ms = LONG_MS};
    pthread_once(&once, serve_init);
    memset(&state, 0, sizeof state);
    state.n_modules = 1;
    module_init(module(), &offer, &state.calls);
    expect_number(CKR_OK, module_await(module(), module_greet(module()), LONG_MS));
}

static void end(void)
{
    module_finish(module());
    helper_dies(&helper);
}

static CK_RV call_with(unsigned fn, uintptr_t *words, CK_ULONG session)
{
    struct call call = {
        .state = &state, .module = module(), .generation = atomic_load(&module()->generation),
        .function = &functions[fn], .words = words, .session = session,
    };
    return exchange(&call);
}

static CK_RV call_random(CK_ULONG session, uint8_t *bytes, CK_ULONG len)
{
    uintptr_t words[16] = {0, (uintptr_t)bytes, len};
    return call_with(FN_C_GenerateRandom, words, session);
}

static void expect_random(CK_ULONG session)
{
    uint8_t bytes[20] = {0}, same[20];
    memset(same, (int)session, sizeof same);
    expect_number(CKR_OK, call_random(session, bytes, sizeof bytes));
    expect_bytes(same, bytes, sizeof bytes);
}

static CK_RV random_rv(void)
{
    uint8_t bytes[20];
    return call_random(1, bytes, sizeof bytes);
}

/* ---- calls ---- */

static void a_call_goes_there_and_back(void)
{
    begin(serve_provider);
    expect_random(7);
    end();
}

static void one_thread_needs_one_channel(void)
{
    begin(serve_provider);
    for (CK_ULONG i = 0; i < 100; i++)
        expect_random(i);
    expect_number(1, atomic_load(&helper.count));
    expect_number(0, atomic_load(&state.calls));
    end();
}

static void everything_is_closed_at_the_end(void)
{
    unsigned before = open_descriptors();
    begin(serve_provider);
    expect_random(7);
    end();
    expect_number(before, open_descriptors());
}

static void a_long_call_goes_there_and_back(void)
{
    enum { LONG = 1200000 }; /* both ways together more than the shelf has room for */
    static uint8_t data[LONG], out[LONG];
    CK_ULONG len = LONG;
    begin(serve_provider);
    for (size_t i = 0; i < LONG; i++)
        data[i] = (uint8_t)(i * 5 >> 3);
    for (unsigned round = 0; round < 3; round++) {
        uintptr_t words[16] = {0, (uintptr_t)data, LONG - round, (uintptr_t)out, (uintptr_t)&len};
        len = LONG;
        expect_number(CKR_OK, call_with(FN_C_Digest, words, 1));
        expect_number(LONG - round, len);
        for (size_t i = 0; i < len; i++)
            expect_number((uint8_t)~data[i], out[i]);
    }
    end();
}

static void objects_are_renamed(void)
{
    CK_OBJECT_HANDLE objects[6];
    CK_ULONG count = 0, server;
    uintptr_t words[16] = {0, (uintptr_t)objects, 6, (uintptr_t)&count};
    begin(serve_provider);
    uint32_t generation = atomic_load(&module()->generation);
    expect_number(CKR_OK, call_with(FN_C_FindObjects, words, 100));
    expect_number(6, count);
    for (CK_ULONG i = 0; i < 6; i++) {
        expect_number(generation, handle_generation(objects[i]));
        expect(handle_to_server(&module()->large, generation, objects[i], &server));
        expect_number(i % 2 ? CK_UNAVAILABLE_INFORMATION - 100 - i : 100 + i, server);
    }
    end();
}

static void slots_are_renamed(void)
{
    CK_SESSION_INFO info;
    uintptr_t words[16] = {0, (uintptr_t)&info};
    unsigned of;
    CK_ULONG server;
    begin(serve_provider);
    expect_number(CKR_OK, call_with(FN_C_GetSessionInfo, words, 7));
    expect(slot_to_server(info.slotID, &of, &server));
    expect_number(1007, server);
    expect_number(module()->number, of);
    end();
}

/* A plaintext was on the shelf, which stays when the call is over. */
static void the_shelf_is_wiped_after_secrets(void)
{
    enum { LONG = 100000 };
    static uint8_t data[LONG], out[LONG];
    CK_ULONG len = LONG;
    uintptr_t words[16] = {0, (uintptr_t)data, LONG, (uintptr_t)out, (uintptr_t)&len};
    begin(serve_provider);
    memset(data, 0x5a, LONG);
    expect(functions[FN_C_Decrypt].secret);
    expect_number(CKR_OK, call_with(FN_C_Decrypt, words, 1));
    expect_number((uint8_t)~0x5a, out[LONG - 1]);
    struct channel *channel = module_take(module(), atomic_load(&module()->generation));
    const struct shelf *shelf = &channel->bell.shelf;
    expect(shelf->base != NULL);
    for (size_t i = 0; i < shelf->size; i++)
        if (shelf->base[i] != 0)
            test_failed(__FILE__, __LINE__, "byte %zu of the shelf: 0x%02x", i, shelf->base[i]);
    module_give(module(), channel);
    end();
}

/* Buffers that the helper has no room for, not even as addresses. */
static void a_call_too_large_costs_no_other(void)
{
    enum { COUNT = 6 };
    CK_ATTRIBUTE template[COUNT];
    uintptr_t words[16] = {0, 0, (uintptr_t)template, COUNT};
    begin(serve_provider);
    for (unsigned i = 0; i < COUNT; i++)
        template[i] = (CK_ATTRIBUTE){CKA_VALUE, words, LIMIT_BYTES};
    expect_number(CKR_HOST_MEMORY, call_with(FN_C_GetAttributeValue, words, 1));
    expect_random(7);
    end();
}

static void what_cannot_be_sent_leaves_the_channel(void)
{
    begin(serve_provider);
    uintptr_t words[16] = {0, (uintptr_t)"x", (uintptr_t)1 << 63};
    expect_number(CKR_ARGUMENTS_BAD, call_with(FN_C_SeedRandom, words, 1));
    expect_random(7);
    expect_number(1, atomic_load(&helper.count));
    end();
}

/* ---- threads ---- */

enum { THREADS = 12, CALLS = 150 };

static void *call_often(void *argument)
{
    CK_ULONG session = (uintptr_t)argument;
    for (unsigned i = 0; i < CALLS; i++) {
        CK_OBJECT_HANDLE objects[4];
        CK_ULONG count = 0, server;
        uintptr_t words[16] = {0, (uintptr_t)objects, 4, (uintptr_t)&count};
        expect_random(session);
        expect_number(CKR_OK, call_with(FN_C_FindObjects, words, session));
        expect(handle_to_server(&module()->large, atomic_load(&module()->generation), objects[3], &server));
        expect_number(CK_UNAVAILABLE_INFORMATION - session - 3, server);
    }
    return NULL;
}

static void threads_do_not_disturb_each_other(void)
{
    pthread_t threads[THREADS];
    begin(serve_provider);
    for (uintptr_t i = 0; i < THREADS; i++)
        expect_number(0, pthread_create(&threads[i], NULL, call_often, (void *)(i + 1)));
    for (unsigned i = 0; i < THREADS; i++)
        expect_number(0, pthread_join(threads[i], NULL));
    expect(atomic_load(&helper.count) <= THREADS + 1);
    expect_number(0, atomic_load(&state.calls));
    end();
}

/* ---- helpers that misbehave ---- */

static _Atomic unsigned rounds;

/* Reads a request and tells its id. */
static uint32_t take_request(struct channel *c)
{
    channel_begin(c, 0);
    read_array(&c->in);
    read_uint(&c->in);
    uint32_t id = (uint32_t)read_uint(&c->in);
    read_skip(&c->in);
    read_skip(&c->in);
    return c->in.error ? 0 : id;
}

static void write_fault(struct writer *w, uint32_t id, const char *code)
{
    write_array(w, 4), write_uint(w, 1), write_uint(w, id);
    write_array(w, 2), write_str(w, code, strlen(code)), write_str(w, "because", 7);
    write_nil(w);
}

static void write_random(struct writer *w, uint32_t id)
{
    uint8_t bytes[20];
    memset(bytes, 1, sizeof bytes);
    write_array(w, 4), write_uint(w, 1), write_uint(w, id), write_nil(w);
    write_array(w, 2), write_uint(w, CKR_OK), write_bin(w, bytes, sizeof bytes);
}

static void die_when_asked(struct channel *c)
{
    take_request(c);
    shutdown(helper.door, SHUT_RDWR);
}

static void a_helper_that_dies_during_a_call_is_told(void)
{
    begin(die_when_asked);
    expect_number(functions[FN_C_GenerateRandom].gone, random_rv());
    expect_number(0, atomic_load(&module()->generation));
    expect_number(functions[FN_C_GenerateRandom].absent, random_rv());
    end();
}

static void every_function_has_its_word_for_it(void)
{
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++) {
        uintptr_t words[16] = {0};
        bool sent = !functions[fn].local;
        for (unsigned i = 0; i < functions[fn].n_args; i++)
            sent = sent && functions[fn].args[i].kind != ARG_MESSAGE;
        if (!sent)
            continue;
        test_case("%s", functions[fn].name);
        begin(die_when_asked);
        expect_number(functions[fn].gone, call_with(fn, words, 1));
        expect_number(functions[fn].absent, call_with(fn, words, 1));
        end();
    }
}

static void hang_up_once(struct channel *c)
{
    if (atomic_fetch_add(&rounds, 1) == 0)
        take_request(c);
    else
        serve(c, &provider);
}

/* The helper is there still, so the life goes on. */
static void a_channel_that_dies_costs_one_call(void)
{
    atomic_store(&rounds, 0);
    begin(hang_up_once);
    uint32_t generation = atomic_load(&module()->generation);
    expect_number(functions[FN_C_GenerateRandom].gone, random_rv());
    expect_random(5);
    expect_number(generation, atomic_load(&module()->generation));
    end();
}

static const char *fault;

/* As the protocol says: unknown, refused and failed keep the channel, the others close it. */
static void find_fault_once(struct channel *c)
{
    bool closes = !strcmp(fault, "malformed") || !strcmp(fault, "limit");
    if (atomic_fetch_add(&rounds, 1) == 0) {
        write_fault(&c->out, take_request(c), fault);
        if (channel_send(c) != 0 || closes)
            return;
    }
    serve(c, &provider);
}

static void a_fault_costs_one_call(void)
{
    static const struct {
        const char *code;
        CK_RV rv;
        unsigned channels;
    } rows[] = {
        {"unknown", CKR_FUNCTION_NOT_SUPPORTED, 1}, {"limit", CKR_HOST_MEMORY, 2}, {"failed", CKR_HOST_MEMORY, 1}, {"malformed", CKR_DEVICE_ERROR, 2}, {"something", CKR_DEVICE_ERROR, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        atomic_store(&rounds, 0);
        fault = rows[i].code;
        test_case("%s", fault);
        begin(find_fault_once);
        expect_number(rows[i].rv, random_rv());
        expect_random(5);
        expect_number(rows[i].channels, atomic_load(&helper.count));
        end();
    }
}

static void answer_another_question(struct channel *c)
{
    write_random(&c->out, take_request(c) + 1);
    channel_send(c);
    take_request(c);
}

static void answer_nonsense(struct channel *c)
{
    take_request(c);
    write_str(&c->out, "nonsense", 8);
    channel_send(c);
    take_request(c);
}

static void an_answer_that_is_none_is_a_device_error(void)
{
    conversation *const conversations[] = {answer_another_question, answer_nonsense};
    for (unsigned i = 0; i < 2; i++) {
        test_case("conversation %u", i);
        begin(conversations[i]);
        expect_number(CKR_DEVICE_ERROR, random_rv());
        end();
    }
}

static void answer_twice(struct channel *c)
{
    if (atomic_fetch_add(&rounds, 1) == 0) {
        uint32_t id = take_request(c);
        write_random(&c->out, id);
        write_random(&c->out, id + 1);
        channel_send(c);
        take_request(c);
    }
    serve(c, &provider);
}

/* What it said too much would be taken for the answer to the next call. */
static void an_answer_too_many_ends_the_channel(void)
{
    atomic_store(&rounds, 0);
    begin(answer_twice);
    expect_random(1);
    expect_random(5);
    expect_number(2, atomic_load(&helper.count));
    end();
}

static void say_nothing_once(struct channel *c)
{
    if (atomic_fetch_add(&rounds, 1) > 0) {
        serve(c, &provider);
        return;
    }
    take_request(c);
    take_request(c); /* until the caller has hung up */
}

static void a_helper_that_hangs_hangs_nobody(void)
{
    atomic_store(&rounds, 0);
    begin(say_nothing_once);
    module()->patience[PATIENCE_SHORT] = module()->patience[PATIENCE_LONG] = TICK_MS;
    struct channel *channel = module_take(module(), atomic_load(&module()->generation));
    channel_set_ticks(channel, TICK_MS, TICK_MS);
    module_give(module(), channel);
    expect_number(CKR_DEVICE_ERROR, random_rv());
    module()->patience[PATIENCE_SHORT] = module()->patience[PATIENCE_LONG] = LONG_MS;
    expect_random(5);
    end();
}

static void an_ending_application_says_so(void)
{
    begin(die_when_asked);
    atomic_store(&state.ending, true);
    expect_number(CKR_CRYPTOKI_NOT_INITIALIZED, random_rv());
    end();
}

/* ---- hellos ---- */

static void a_provider_that_failed_says_why(void)
{
    static struct helper failing;
    static struct module absent;
    struct offer offer = {.name = "two", .door = helper_start(&failing, serve_provider), .short_ms = LONG_MS, .long_ms = LONG_MS};
    failing.rv = CKR_TOKEN_NOT_RECOGNIZED;
    module_init(&absent, &offer, &state.calls);
    expect_number(CKR_TOKEN_NOT_RECOGNIZED, module_await(&absent, module_greet(&absent), LONG_MS));
    expect_number(0, atomic_load(&absent.generation));
    expect_number(-1, absent.door);
    module_finish(&absent);
    helper_dies(&failing);
}

/* It takes the channel and says no hello. */
static void a_silent_helper_is_no_helper(void)
{
    static struct module silent;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    struct offer offer = {.name = "two", .door = ends[0], .short_ms = LONG_MS, .long_ms = LONG_MS};
    module_init(&silent, &offer, &state.calls);
    expect_number(CKR_GENERAL_ERROR, module_await(&silent, module_greet(&silent), TICK_MS));
    expect_number(0, atomic_load(&silent.generation));
    module_finish(&silent);
    close(ends[1]);
}

static void a_module_without_a_door_is_no_helper(void)
{
    static struct module absent;
    struct offer offer = {.name = "two", .door = -1, .error = "there is no such file", .short_ms = LONG_MS, .long_ms = LONG_MS};
    module_init(&absent, &offer, &state.calls);
    expect(module_greet(&absent) == NULL);
    expect_number(CKR_GENERAL_ERROR, module_await(&absent, NULL, LONG_MS));
    module_finish(&absent);
}

static void nobody_behind_the_door_is_no_helper(void)
{
    static struct module absent;
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    close(ends[1]);
    struct offer offer = {.name = "two", .door = ends[0], .short_ms = LONG_MS, .long_ms = LONG_MS};
    module_init(&absent, &offer, &state.calls);
    expect_number(CKR_GENERAL_ERROR, module_await(&absent, module_greet(&absent), LONG_MS));
    module_finish(&absent);
}

/* ---- a new life ---- */

static void a_new_helper_is_a_new_life(void)
{
    static struct helper second;
    CK_ULONG server;
    begin(die_when_asked);
    uint32_t before = atomic_load(&module()->generation);
    CK_ULONG session = handle_to_client(&module()->large, before, 5), large = handle_to_client(&module()->large, before, CK_UNAVAILABLE_INFORMATION);
    random_rv();
    next_door = helper_start(&second, serve_provider);
    expect_number(CKR_OK, module_revive(module()));
    uint32_t after = atomic_load(&module()->generation);
    expect(after != 0 && after != before);
    expect(!handle_to_server(&module()->large, after, session, &server));
    expect(!handle_to_server(&module()->large, after, large, &server));
    expect_random(5);
    expect_number(CKR_OK, module_revive(module()));
    expect_number(after, atomic_load(&module()->generation));
    module_finish(module());
    helper_dies(&second);
    helper_dies(&helper);
}

static void no_new_helper_is_no_life(void)
{
    begin(die_when_asked);
    random_rv();
    expect_number(CKR_GENERAL_ERROR, module_revive(module()));
    expect_number(0, atomic_load(&module()->generation));
    end();
}

static void a_channel_of_another_life_is_not_used(void)
{
    begin(serve_provider);
    uint32_t generation = atomic_load(&module()->generation);
    expect(module_take(module(), generation + 1) == NULL);
    expect(module_take(module(), 0) == NULL);
    struct channel *channel = module_take(module(), generation);
    expect(channel != NULL);
    channel->generation = generation + 1; /* left over from another */
    module_give(module(), channel);
    expect_random(5);
    expect_number(2, atomic_load(&helper.count));
    end();
}

static const struct test tests[] = {
    TEST(a_call_goes_there_and_back, "a call reaches the provider and its answer the caller"),
    TEST(one_thread_needs_one_channel, "a thread that calls one by one uses one channel"),
    TEST(everything_is_closed_at_the_end, "an application that has ended has nothing open"),
    TEST(a_long_call_goes_there_and_back, "inputs and outputs of a megabyte arrive whole"),
    TEST(objects_are_renamed, "an application sees handles of its own life"),
    TEST(slots_are_renamed, "an application sees slots by its own ids"),
    TEST(the_shelf_is_wiped_after_secrets, "no secret stays on the shelf"),
    TEST(a_call_too_large_costs_no_other, "a call that is too large for the helper fails, and the next one does not"),
    TEST(what_cannot_be_sent_leaves_the_channel, "a call that cannot be sent does no harm"),
    TEST(threads_do_not_disturb_each_other, "many threads call at the same time"),
    TEST(a_helper_that_dies_during_a_call_is_told, "the first call that is affected tells, later ones say what is so"),
    TEST(every_function_has_its_word_for_it, "every function says it in the words the standard has for it"),
    TEST(a_channel_that_dies_costs_one_call, "a channel that dies is replaced while the helper lives"),
    TEST(a_fault_costs_one_call, "a request at fault costs its own call and no other"),
    TEST(an_answer_that_is_none_is_a_device_error, "an answer that is none is not believed"),
    TEST(an_answer_too_many_ends_the_channel, "an answer too many is not taken for the next"),
    TEST(a_helper_that_hangs_hangs_nobody, "a helper that does not answer in time is not waited for"),
    TEST(an_ending_application_says_so, "a call that is interrupted by C_Finalize says so"),
    TEST(a_provider_that_failed_says_why, "what the provider's C_Initialize answered is what the application hears"),
    TEST(a_silent_helper_is_no_helper, "a helper that does not say hello is not waited for for ever"),
    TEST(a_module_without_a_door_is_no_helper, "a module that the broker could not start is absent"),
    TEST(nobody_behind_the_door_is_no_helper, "a module without a helper is told at once"),
    TEST(a_new_helper_is_a_new_life, "a new helper is a new life: nothing of the old one is valid"),
    TEST(no_new_helper_is_no_life, "without a new helper there is no new life"),
    TEST(a_channel_of_another_life_is_not_used, "a channel of another life is never used"),
};

TEST_MAIN(tests)
