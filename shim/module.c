#include "module.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "descriptors.h"
#include "door.h"
#include "log.h"
#include "root.h"

enum { LAST_BREATH_MS = 50 };

static void set_patience(struct module *module, const struct offer *offer)
{
    module->patience[PATIENCE_SHORT] = (uint32_t)offer->short_ms;
    module->patience[PATIENCE_LONG] = (uint32_t)offer->long_ms;
    module->patience[PATIENCE_FOREVER] = 0;
}

static void set_door(struct module *module, int door)
{
    struct timeval patience = {.tv_sec = DEADLINE_START / 1000};
    module->door = door;
    if (door < 0)
        return;
    setsockopt(door, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    descriptor_identify(door, &module->door_identity);
    if (module->inherited)
        descriptor_remember_shared(door);
    else
        descriptor_remember(door);
}

static bool is_same(const struct rows *a, const struct rows *b)
{
    return a->len == b->len && !memcmp(a->packed, b->packed, a->len);
}

/* The configuration seldom changes: what it says again is found again. */
static void set_rows(struct module *module, struct rows *rows)
{
    struct rows *known = rows ? module->kept : NULL;
    while (known && !is_same(known, rows))
        known = known->older;
    if (known) {
        rows_free(rows);
        rows = known;
    } else if (rows) {
        rows->older = module->kept;
        module->kept = rows;
    }
    atomic_store(&module->rows, rows);
}

static void free_rows(struct module *module)
{
    atomic_store(&module->rows, NULL);
    while (module->kept) {
        struct rows *rows = module->kept;
        module->kept = rows->older;
        rows_free(rows);
    }
}

static void close_door(struct module *module)
{
    if (module->door < 0)
        return;
    descriptor_forget(module->door);
    close(module->door);
    module->door = -1;
}

void module_init(struct module *module, const struct offer *offer, _Atomic unsigned *calls)
{
    module->calls = calls;
    memcpy(module->name, offer->name, sizeof module->name);
    module->number = module_number(module->name);
    module->inherited = offer->inherited;
    set_patience(module, offer);
    set_rows(module, offer->rows);
    set_door(module, offer->door);
    if (offer->door < 0)
        log_event("module.absent module=%s reason=\"%s\"", module->name, offer->error);
}

static struct channel *free_channel(struct channel *channel)
{
    if (channel) {
        descriptor_forget(channel->from);
        descriptor_forget(channel->to);
    }
    return channel_free(channel);
}

/* Who reads the first of the two before the second never takes a handle of this generation's sessions for one of another. */
static void begin_generation(struct module *module, uint32_t generation, uint32_t of_sessions)
{
    atomic_store(&module->of_sessions, of_sessions);
    atomic_store(&module->generation, generation);
}

static void end_generation(struct module *module)
{
    atomic_store(&module->generation, 0);
    atomic_store(&module->of_sessions, 0);
}

static void drop_idle(struct module *module)
{
    for (unsigned i = 0; i < IDLE_CHANNELS; i++)
        free_channel(atomic_exchange(&module->idle[i], NULL));
}

void module_finish(struct module *module)
{
    drop_idle(module);
    close_door(module);
    large_handles_finish(&module->large);
    free_rows(module);
    sessions_finish(&module->sessions);
    end_generation(module);
}

/* ---- in a child ---- */

bool module_has_heirs(const struct module *parent)
{
    return parent->inherited && atomic_load(&parent->generation) && descriptor_is(parent->door, &parent->door_identity);
}

/* Between C_Logout and its next call: there is no helper, but sessions that will be open in the next one. */
static bool has_left(const struct module *parent)
{
    return parent->inherited && !atomic_load(&parent->generation);
}

bool module_inherit(struct module *module, const struct module *parent, _Atomic unsigned *calls)
{
    module->calls = calls;
    memcpy(module->name, parent->name, sizeof module->name);
    module->number = parent->number;
    module->inherited = parent->inherited;
    for (unsigned i = 0; i < sizeof module->patience / sizeof *module->patience; i++)
        atomic_store(&module->patience[i], atomic_load(&parent->patience[i]));
    module->door = -1;
    if (has_left(parent))
        return sessions_inherit(&module->sessions, &parent->sessions);
    if (!module_has_heirs(parent))
        return true;
    if (!sessions_inherit(&module->sessions, &parent->sessions) || !large_handles_inherit(&module->large, &parent->large))
        return false;
    atomic_store(&module->rows, atomic_load(&parent->rows)); /* never freed here: it is not in `kept` */
    set_door(module, parent->door);
    atomic_store(&module->slots_known, atomic_load(&parent->slots_known));
    atomic_store(&module->is_heir, true);
    begin_generation(module, atomic_load(&parent->generation), generation_next());
    return true;
}

/* ---- channels ---- */

/* The smallest of the deadlines: a longer one is that many ticks, and the socket need not be told at each call. */
static uint32_t tick_of(const struct module *module)
{
    uint32_t a = module->patience[PATIENCE_SHORT], b = module->patience[PATIENCE_LONG];
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static struct channel *open_channel(struct module *module)
{
    struct hello hello = hello_ours();
    int error = -EPIPE;
    strncpy(hello.program, program_invocation_short_name, LIMIT_NAME);
    struct channel *channel = module->door >= 0 ? door_open(module->door, &hello, DOOR_OF_HELPER, &error) : NULL;
    if (channel) {
        channel_belongs_to(channel, root_life(), root_life_page(), root_life);
        channel->from = descriptor_raise(channel->from);
        channel->to = descriptor_raise(channel->to);
        descriptor_remember(channel->from);
        descriptor_remember(channel->to);
    }
    return channel;
}

/* The helper's hello. CKR_OK when it is ready. */
static CK_RV hear_hello(struct module *module, struct channel *channel, uint32_t within_ms)
{
    struct hello hello;
    channel_set_ticks(channel, within_ms, within_ms);
    channel_set_deadline(channel, within_ms);
    channel_begin(channel, 0);
    read_hello(&channel->in, &hello);
    if (channel->in.error) {
        log_event("module.silent module=%s error=\"%s\"", module->name, strerror(-channel->in.error));
        return CKR_GENERAL_ERROR;
    }
    if (hello.error[0] || !hello_fits(&hello)) {
        log_event("module.failed module=%s rv=0x%lx reason=\"%s\"", module->name, (unsigned long)hello.rv, hello.error);
        return hello.rv ? (CK_RV)hello.rv : CKR_GENERAL_ERROR;
    }
    channel->theirs = hello_width(&hello);
    channel_set_ticks(channel, tick_of(module), tick_of(module));
    atomic_store(&module->serial, hello.serial);
    if (hello.bell) {
        bell_heed(&channel->bell, module->calls, false);
        channel_use_shelf(channel);
    }
    return CKR_OK;
}

struct channel *module_greet(struct module *module)
{
    return open_channel(module);
}

CK_RV module_await(struct module *module, struct channel *greeting, uint32_t within_ms)
{
    CK_RV rv = greeting ? hear_hello(module, greeting, within_ms) : CKR_GENERAL_ERROR;
    if (rv != CKR_OK) {
        free_channel(greeting);
        close_door(module);
        return rv;
    }
    greeting->generation = generation_next();
    begin_generation(module, greeting->generation, greeting->generation);
    module_give(module, greeting);
    return CKR_OK;
}

static CK_RV reopen(struct module *module)
{
    struct offer offers[LIMIT_MODULES];
    unsigned count;
    CK_RV rv = attach(module->name, offers, &count);
    if (rv != CKR_OK || count != 1)
        return CKR_GENERAL_ERROR;
    drop_idle(module);
    close_door(module);
    large_handles_finish(&module->large);
    module->inherited = offers[0].inherited;
    set_patience(module, &offers[0]);
    set_rows(module, offers[0].rows);
    atomic_store(&module->is_heir, false);
    set_door(module, offers[0].door);
    return module_await(module, module_greet(module), DEADLINE_START);
}

CK_RV module_revive(struct module *module)
{
    CK_RV rv = CKR_OK;
    if (atomic_load(&module->generation))
        return CKR_OK;
    pthread_mutex_lock(&module->lock);
    if (!atomic_load(&module->generation))
        rv = reopen(module);
    pthread_mutex_unlock(&module->lock);
    return rv;
}

static struct channel *take_idle(struct module *module, uint32_t generation)
{
    for (unsigned i = 0; i < IDLE_CHANNELS; i++) {
        if (!atomic_load_explicit(&module->idle[i], memory_order_relaxed))
            continue;
        struct channel *channel = atomic_exchange(&module->idle[i], NULL);
        if (channel && channel->generation == generation)
            return channel;
        free_channel(channel);
    }
    return NULL;
}

/* Of a process that is killed the kernel closes channels and door one after the other, in no order we know of. */
static bool is_hung_up(int door)
{
    struct pollfd p = {.fd = door, .events = POLLRDHUP};
    return poll(&p, 1, LAST_BREATH_MS) > 0 && (p.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL));
}

/* Under the module's lock: notices that its helper has gone. */
static void bury(struct module *module)
{
    if (module->door < 0 || !is_hung_up(module->door))
        return;
    log_event("module.gone module=%s generation=%u", module->name, atomic_load(&module->generation));
    sessions_finish(&module->sessions); /* first: a child that finds no generation takes what sessions there are for good */
    end_generation(module);
    drop_idle(module);
}

void module_leave(struct module *module, uint32_t generation)
{
    pthread_mutex_lock(&module->lock);
    if (atomic_load(&module->generation) == generation) {
        log_event("module.left module=%s generation=%u", module->name, generation);
        end_generation(module);
        atomic_store(&module->is_heir, false);
        drop_idle(module);
        close_door(module);
    }
    pthread_mutex_unlock(&module->lock);
}

static struct channel *take_new(struct module *module, uint32_t generation)
{
    pthread_mutex_lock(&module->lock);
    bool current = atomic_load(&module->generation) == generation;
    struct channel *channel = current ? open_channel(module) : NULL;
    if (current && !channel)
        bury(module);
    pthread_mutex_unlock(&module->lock);
    if (!channel)
        return NULL;
    channel->generation = generation;
    if (hear_hello(module, channel, DEADLINE_START) == CKR_OK)
        return channel;
    module_drop(module, channel);
    return NULL;
}

struct channel *module_take(struct module *module, uint32_t generation)
{
    if (generation == 0 || atomic_load(&module->generation) != generation)
        return NULL;
    struct channel *channel = take_idle(module, generation);
    return channel ? channel : take_new(module, generation);
}

void module_give(struct module *module, struct channel *channel)
{
    bool clean = channel->in.pos == channel->in.end; /* more than one answer to a call is one too many */
    for (unsigned i = 0; clean && i < IDLE_CHANNELS; i++) {
        struct channel *none = NULL;
        if (!atomic_load_explicit(&module->idle[i], memory_order_relaxed) &&
            atomic_compare_exchange_strong(&module->idle[i], &none, channel))
            return;
    }
    free_channel(channel);
}

void module_drop(struct module *module, struct channel *channel)
{
    uint32_t generation = channel->generation;
    free_channel(channel);
    pthread_mutex_lock(&module->lock);
    if (atomic_load(&module->generation) == generation)
        bury(module);
    pthread_mutex_unlock(&module->lock);
}
