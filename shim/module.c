#include "module_channels.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "descriptors.h"
#include "door.h"
#include "log.h"
#include "module_settings.h"
#include "resume.h"
#include "root.h"

enum {
    LAST_BREATH_MS = 50,
    HELLO_MS = 1000, /* for the rest of a hello that has begun to come */
};

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

static void close_door(struct module *module)
{
    if (module->door < 0)
        return;
    descriptor_forget(module->door);
    close(module->door);
    module->door = -1;
}

static void take_offer(struct module *module, const struct offer *offer)
{
    module->inherited = offer->inherited;
    module->helper = offer->helper;
    module->resumes = offer->resumes;
    module_take_settings(module, offer);
    set_door(module, offer->door);
    if (offer->door < 0 && !module->absent)
        log_event("module.absent module=%s reason=\"%s\"", module->name, offer->error);
    module->absent = offer->door < 0;
}

void module_init(struct module *module, const struct offer *offer, _Atomic unsigned *calls)
{
    module->calls = calls;
    memcpy(module->name, offer->name, sizeof module->name);
    module->number = module_number(module->name);
    take_offer(module, offer);
}

/* Who reads the first of the two before the second never takes a handle of this generation's sessions for one of another. */
static void begin_generation(struct module *module, uint32_t generation, uint32_t of_sessions)
{
    for (unsigned i = 0; i < 2; i++)
        atomic_store(&module->slots_told[i], 0);
    atomic_store(&module->of_sessions, of_sessions);
    atomic_store(&module->generation, generation);
}

static void end_generation(struct module *module)
{
    atomic_store(&module->generation, 0);
    atomic_store(&module->of_sessions, 0);
}

static void drop_greeting(struct module *module)
{
    module->greeting = module_free_channel(module->greeting);
}

void module_finish(struct module *module)
{
    module_drop_idle(module);
    drop_greeting(module);
    close_door(module);
    large_handles_finish(&module->large);
    module_free_rows(module);
    sessions_finish(&module->sessions);
    objects_finish(&module->objects);
    atomic_store(&module->user_slot, 0);
    atomic_store(&module->user_lost, 0);
    end_generation(module);
}

bool module_lasts(const struct module *module)
{
    return module->inherited || module->resumes;
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
    module->start_ms = parent->start_ms;
    atomic_store(&module->list_ms, atomic_load(&parent->list_ms));
    module->resumes = parent->resumes;
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
    module->helper = parent->helper;
    set_door(module, parent->door);
    atomic_store(&module->slots_known, atomic_load(&parent->slots_known));
    objects_inherit(&module->objects, &parent->objects);
    atomic_store(&module->user_slot, atomic_load(&parent->user_slot));
    module->user_life = atomic_load(&parent->generation);
    module->user_face = parent->user_face;
    atomic_store(&module->is_heir, true);
    begin_generation(module, atomic_load(&parent->generation), generation_next());
    return true;
}

/* ---- its helpers ---- */

void module_greet(struct module *module)
{
    module->greeting = module_open_channel(module, DOOR_OF_HELPER);
    module->ready_by = channel_now_ms() + module->start_ms;
}

static CK_RV await_until(struct module *module, uint64_t by)
{
    struct channel *greeting = module->greeting;
    if (greeting && !module_has_come(greeting, by)) {
        log_event("module.late module=%s", module->name);
        return CKR_FUNCTION_FAILED;
    }
    module->greeting = NULL;
    CK_RV rv = greeting ? module_hear_hello(module, greeting, HELLO_MS) : CKR_GENERAL_ERROR;
    if (rv != CKR_OK) {
        module_free_channel(greeting);
        close_door(module);
        return rv;
    }
    greeting->generation = generation_next();
    begin_generation(module, greeting->generation, greeting->generation);
    module_give(module, greeting);
    return CKR_OK;
}

CK_RV module_await(struct module *module)
{
    return await_until(module, module->ready_by);
}

/* No list waits longer for a helper than for slots. */
static uint64_t listed_by(const struct module *module)
{
    uint32_t list = atomic_load(&module->list_ms);
    return list != 0 && list < module->start_ms ? module->ready_by - (module->start_ms - list) : module->ready_by;
}

static CK_RV reopen(struct module *module)
{
    struct offer offers[LIMIT_MODULES];
    unsigned count;
    CK_RV rv = attach(module->name, resume_wants_login(module), offers, &count);
    if (rv != CKR_OK || count != 1)
        return CKR_GENERAL_ERROR;
    module_drop_idle(module);
    close_door(module);
    large_handles_finish(&module->large);
    atomic_store(&module->is_heir, false);
    take_offer(module, &offers[0]);
    module_greet(module);
    return module->greeting ? CKR_OK : CKR_GENERAL_ERROR;
}

bool module_is_late(struct module *module)
{
    pthread_mutex_lock(&module->lock);
    bool late = module->greeting && channel_now_ms() >= module->ready_by;
    pthread_mutex_unlock(&module->lock);
    return late;
}

bool module_is_late_for_list(struct module *module)
{
    pthread_mutex_lock(&module->lock);
    bool late = module->greeting && channel_now_ms() >= listed_by(module);
    pthread_mutex_unlock(&module->lock);
    return late;
}

void module_report_late(struct module *module)
{
    if (pthread_mutex_trylock(&module->lock) != 0)
        return; /* somebody waits for it still */
    uint64_t helper = module->greeting ? module->helper : 0;
    pthread_mutex_unlock(&module->lock);
    if (helper)
        attach_report(module->name, helper, CKR_OK);
}

bool module_start(struct module *module)
{
    if (atomic_load(&module->generation))
        return true;
    pthread_mutex_lock(&module->lock);
    bool begun = atomic_load(&module->generation) || module->greeting || reopen(module) == CKR_OK;
    pthread_mutex_unlock(&module->lock);
    return begun;
}

static CK_RV revive(struct module *module, bool for_list)
{
    CK_RV rv = CKR_OK;
    if (atomic_load(&module->generation))
        return CKR_OK;
    pthread_mutex_lock(&module->lock);
    if (!atomic_load(&module->generation)) {
        rv = module->greeting ? CKR_OK : reopen(module);
        rv = rv == CKR_OK ? await_until(module, for_list ? listed_by(module) : module->ready_by) : rv;
    }
    pthread_mutex_unlock(&module->lock);
    return rv;
}

CK_RV module_revive(struct module *module)
{
    return revive(module, false);
}

CK_RV module_revive_for_list(struct module *module)
{
    return revive(module, true);
}

/* Of a process that is killed the kernel closes channels and door one after the other, in no order we know of. */
static bool is_hung_up(int door)
{
    struct pollfd p = {.fd = door, .events = POLLRDHUP};
    return poll(&p, 1, LAST_BREATH_MS) > 0 && (p.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL));
}

/* Before the generation ends: a child that finds none takes what sessions there are for good. */
static void forget_sessions(struct module *module)
{
    if (!module->resumes)
        sessions_finish(&module->sessions);
}

/* Under the module's lock: notices that its helper has gone. */
static void bury(struct module *module)
{
    if (module->door < 0 || !is_hung_up(module->door))
        return;
    log_event("module.gone module=%s generation=%u", module->name, atomic_load(&module->generation));
    forget_sessions(module);
    end_generation(module);
    module_drop_idle(module);
}

void module_give_up(struct module *module, struct channel *channel, CK_RV rv)
{
    uint32_t generation = channel->generation;
    module_free_channel(channel);
    pthread_mutex_lock(&module->lock);
    bool present = atomic_load(&module->generation) == generation;
    uint64_t helper = module->helper;
    if (present) {
        log_event("module.%s module=%s generation=%u", rv ? "broken" : "hung", module->name, generation);
        forget_sessions(module);
        end_generation(module);
        module_drop_idle(module);
        close_door(module); /* a helper that nobody can reach any more ends, if it can, without a broker too */
    }
    pthread_mutex_unlock(&module->lock);
    if (present && helper)
        attach_report(module->name, helper, rv);
}

void module_leave(struct module *module, uint32_t generation)
{
    pthread_mutex_lock(&module->lock);
    if (atomic_load(&module->generation) == generation) {
        log_event("module.left module=%s generation=%u", module->name, generation);
        end_generation(module);
        atomic_store(&module->is_heir, false);
        module_drop_idle(module);
        close_door(module);
    }
    pthread_mutex_unlock(&module->lock);
}

static struct channel *open_current(struct module *module, uint32_t generation, enum door_kind kind)
{
    pthread_mutex_lock(&module->lock);
    bool current = atomic_load(&module->generation) == generation;
    struct channel *channel = current ? module_open_channel(module, kind) : NULL;
    if (current && !channel)
        bury(module);
    pthread_mutex_unlock(&module->lock);
    if (channel)
        channel->generation = generation;
    return channel;
}

struct channel *module_open(struct module *module, uint32_t generation)
{
    return open_current(module, generation, DOOR_OF_HELPER_TO_POLL);
}

CK_RV module_hear(struct module *module, struct channel *channel)
{
    return module_hear_hello(module, channel, HELLO_MS);
}

enum readiness module_try(struct module *module)
{
    enum readiness found = MODULE_STARTING;
    if (atomic_load(&module->generation))
        return MODULE_READY;
    if (pthread_mutex_trylock(&module->lock) != 0)
        return found; /* somebody else sees to it */
    if (atomic_load(&module->generation))
        found = MODULE_READY;
    else if (!module->greeting && reopen(module) != CKR_OK)
        found = MODULE_ABSENT;
    else if (module_has_come(module->greeting, 0))
        found = module_await(module) == CKR_OK ? MODULE_READY : MODULE_ABSENT;
    pthread_mutex_unlock(&module->lock);
    return found;
}

static struct channel *await_hello(struct module *module, struct channel *channel, uint32_t within_ms, bool *ret_late)
{
    uint32_t most = module->start_ms;
    if (module_hear_hello(module, channel, within_ms && within_ms < most ? within_ms : most) == CKR_OK)
        return channel;
    *ret_late = channel->in.error == -ETIMEDOUT;
    if (*ret_late)
        module_give_up(module, channel, CKR_OK);
    else
        module_drop(module, channel);
    return NULL;
}

struct channel *module_take(struct module *module, uint32_t generation, uint32_t within_ms, bool *ret_late)
{
    bool greeting;
    *ret_late = false;
    struct channel *channel = module_take_now(module, generation, &greeting);
    return channel && greeting ? await_hello(module, channel, within_ms, ret_late) : channel;
}

struct channel *module_take_now(struct module *module, uint32_t generation, bool *ret_greeting)
{
    *ret_greeting = false;
    if (generation == 0 || atomic_load(&module->generation) != generation)
        return NULL;
    struct channel *channel = module_take_idle(module, generation);
    *ret_greeting = !channel;
    return channel ? channel : open_current(module, generation, DOOR_OF_HELPER);
}

void module_drop(struct module *module, struct channel *channel)
{
    uint32_t generation = channel->generation;
    module_free_channel(channel);
    pthread_mutex_lock(&module->lock);
    if (atomic_load(&module->generation) == generation)
        bury(module);
    pthread_mutex_unlock(&module->lock);
}
