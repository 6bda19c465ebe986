#include "rig.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach.h"
#include "door.h"
#include "fd_count.h"
#include "root.h"
#include "serve.h"
#include "test.h"

/* ---- the parts of the shim that are not here ---- */

uint32_t root_life(void)
{
    return 1;
}

const _Atomic uint32_t *root_life_page(void)
{
    return NULL;
}

pthread_mutex_t *root_names_lock(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    return &lock;
}

int rig_next_door = -1;

static struct offer offer_of(const char *name, int door, uint32_t start_ms)
{
    struct offer offer = {.door = door, .helper = HELPER, .short_ms = LONG_MS, .long_ms = LONG_MS, .start_ms = start_ms, .list_ms = LONG_MS};
    strcpy(offer.name, name);
    return offer;
}

uint64_t rig_hung;

void attach_report(const char *module, uint64_t helper, CK_RV rv)
{
    (void)rv;
    expect(module[0]);
    rig_hung = helper;
}

CK_RV attach(const char *module, bool resume, struct offer *ret_offers, unsigned *ret_count)
{
    (void)resume;
    *ret_count = 1;
    ret_offers[0] = offer_of(module, rig_next_door, LONG_MS);
    rig_next_door = -1;
    return ret_offers[0].door < 0 ? CKR_GENERAL_ERROR : CKR_OK;
}

/* ---- a helper ---- */

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

void helper_start_at(struct helper *h, conversation *converse, int door)
{
    int on = 1;
    expect_number(0, setsockopt(door, SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    *h = (struct helper){.door = door, .converse = converse};
    expect_number(0, pthread_create(&h->thread, NULL, run_helper, h));
}

int helper_start(struct helper *h, conversation *converse)
{
    int ends[2];
    make_pair(SOCK_SEQPACKET, ends);
    helper_start_at(h, converse, ends[1]);
    return ends[0];
}

void helper_dies(struct helper *h)
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

static struct provider provider = {.list = {
    .C_GenerateRandom = random_bytes, .C_Digest = digest, .C_Decrypt = decrypt,
    .C_FindObjects = find_objects, .C_GetSessionInfo = session_info,
}};

void rig_serve(struct channel *channel)
{
    serve(channel, &provider);
}

uint32_t rig_take_request(struct channel *c)
{
    channel_begin(c, 0);
    read_array(&c->in);
    read_uint(&c->in);
    uint32_t id = (uint32_t)read_uint(&c->in);
    read_skip(&c->in);
    read_skip(&c->in);
    return c->in.error ? 0 : id;
}

void rig_die(struct channel *c)
{
    rig_take_request(c);
    shutdown(rig_helper.door, SHUT_RDWR);
}

/* ---- an application with one module ---- */

struct state rig_state;
struct helper rig_helper;

struct module *rig_module(void)
{
    return &rig_state.modules[0];
}

void rig_module_init(struct module *module, int door, uint32_t start_ms)
{
    struct offer offer = offer_of("one", door, start_ms);
    module_init(module, &offer, &rig_state.calls);
}

void rig_begin(conversation *converse)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, serve_init);
    memset(&rig_state, 0, sizeof rig_state);
    rig_state.n_modules = 1;
    rig_module_init(rig_module(), helper_start(&rig_helper, converse), LONG_MS);
    module_greet(rig_module());
    expect_number(CKR_OK, module_await(rig_module()));
}

void rig_end(void)
{
    module_finish(rig_module());
    helper_dies(&rig_helper);
}

CK_RV rig_call(unsigned fn, uintptr_t *words, CK_ULONG session)
{
    struct call call = {
        .state = &rig_state, .module = rig_module(), .generation = atomic_load(&rig_module()->generation),
        .function = &functions[fn], .words = words, .session = session,
    };
    return exchange(&call);
}

static CK_RV call_random(CK_ULONG session, uint8_t *bytes, CK_ULONG len)
{
    uintptr_t words[16] = {0, (uintptr_t)bytes, len};
    return rig_call(FN_C_GenerateRandom, words, session);
}

void rig_expect_random(CK_ULONG session)
{
    uint8_t bytes[20] = {0}, same[20];
    memset(same, (int)session, sizeof same);
    expect_number(CKR_OK, call_random(session, bytes, sizeof bytes));
    expect_bytes(same, bytes, sizeof bytes);
}

CK_RV rig_random(void)
{
    uint8_t bytes[20];
    return call_random(1, bytes, sizeof bytes);
}
