#include "exchange_steps.h"

#include <errno.h>
#include <string.h>

#include "log.h"
#include "refusal.h"
#include "remember.h"
#include "resume.h"

/* ---- the walker's names ---- */

static bool object_to_wire(void *context, CK_ULONG client, CK_ULONG *ret_server)
{
    struct call *call = context;
    if (call->module->resumes && !call->aside)
        return resume_object(call, client, ret_server);
    return handle_to_server(&call->module->large, call->generation, client, ret_server);
}

static CK_ULONG object_from_wire(void *context, CK_ULONG server)
{
    struct call *call = context;
    return handle_to_client(&call->module->large, call->generation, server);
}

static CK_ULONG session_from_wire(void *context, CK_ULONG server)
{
    struct call *call = context;
    return handle_to_client(&call->module->large, call->of_sessions, server);
}

static CK_ULONG slot_from_wire(void *context, CK_ULONG server)
{
    struct call *call = context;
    return slot_to_client(call->module->number, server);
}

/* ---- one exchange ---- */

/* A request that may have been executed has an unknown outcome: CKR_DEVICE_ERROR where the function may say so. */
static CK_RV unknown_outcome(const struct function *function)
{
    return function->gone == CKR_GENERAL_ERROR ? CKR_GENERAL_ERROR : CKR_DEVICE_ERROR;
}

/* The peer has closed the channel or ended. One that is merely late may still do what it was asked. */
static bool is_gone(int error)
{
    return error == -ENODATA || error == -EPIPE || error == -ECONNRESET;
}

static CK_RV meaning_of(struct call *call, int error)
{
    if (atomic_load(&call->state->ending))
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    if (error == -EFAULT)
        return CKR_ARGUMENTS_BAD; /* the caller's memory ends before it says: no whole request has come to anybody */
    if (error == -ENOMEM)
        return CKR_HOST_MEMORY;
    call->silent = true;
    return is_gone(error) || error == -EOWNERDEAD ? call->function->gone : unknown_outcome(call->function);
}

static CK_RV read_fault(struct call *call, struct reader *r)
{
    char code[LIMIT_NAME + 1], text[LIMIT_TEXT + 1];
    if (read_array(r) != 2)
        reader_fail(r, -EBADMSG);
    read_text(r, code, sizeof code);
    read_text(r, text, sizeof text);
    read_skip(r);
    log_event("call.refused function=%s code=%s reason=\"%s\"", call->function->name, code, text);
    call->over = !strcmp(code, "malformed") || !strcmp(code, "limit");
    if (!strcmp(code, "unknown"))
        return CKR_FUNCTION_NOT_SUPPORTED;
    if (!strcmp(code, "limit") || !strcmp(code, "failed"))
        return CKR_HOST_MEMORY;
    return unknown_outcome(call->function);
}

static CK_RV read_answer(struct call *call, struct walk *walk, uint32_t id)
{
    struct reader *r = walk->r;
    if (read_array(r) != 4 || read_uint(r) != 1 || read_uint(r) != id)
        reader_fail(r, -EBADMSG);
    if (read_nil_if(r))
        return get_response(walk);
    return r->error ? unknown_outcome(call->function) : read_fault(call, r);
}

static void write_request(struct channel *channel, struct walk *walk)
{
    write_array(walk->w, 4);
    write_uint(walk->w, 0);
    write_uint(walk->w, ++channel->next_id);
    write_str(walk->w, walk->function->name, walk->function->name_len);
    put_request(walk);
}

/* What the caller gave cannot be sent: nothing was, and the channel is as before. */
static CK_RV unsendable(const struct call *call, const struct walk *walk)
{
    if (call->lost)
        return call->function->gone;
    if (walk->refusal != CKR_OK)
        return walk->refusal;
    return walk->w->error ? CKR_HOST_MEMORY : CKR_OK;
}

/* What went through buffers of ours; the shelf, if a call with keys or PINs put anything there. */
static void wipe(const struct call *call, struct channel *channel, size_t shelved)
{
    const struct shelf *shelf = &channel->bell.shelf;
    reader_wipe(&channel->in);
    bool may_lie_there = call->function->secret && (shelved || channel->in.shelved);
    if (!may_lie_there || owner_is_another(&channel->owner))
        return;
    explicit_bzero(shelf->base, shelf->size);
}

/* Why a call of ours was refused is said by its helper, whose words are logged. False when the channel is of no more use. */
static bool tell(const struct call *call, struct channel *channel, const struct walk *walk)
{
    struct refusal refusal = {
        .function = call->function->name, .rv = walk->refusal, .count = refusal_count(&call->module->refusals),
        .mechanism = named_mechanism(walk), .length = walk->parameter_len,
    };
    log_event("call.refused function=%s module=%s reason=\"%s\"", call->function->name, call->module->name, walk->reason);
    if (refusal.count == 0)
        return true;
    strncpy(refusal.reason, walk->reason, sizeof refusal.reason - 1);
    write_refusal(&channel->out, &refusal);
    return channel_post(channel) == 0;
}

uint32_t exchange_patience(const struct call *call)
{
    return call->module->patience[call->function->patience];
}

/* What is written goes to the helper, whose answer can be read then. 0 or a negative errno. */
static int send_request(struct call *call, struct channel *channel, uint32_t patience)
{
    channel_set_deadline(channel, patience);
    int error = channel_send(channel);
    call->unsent = is_gone(error); /* nobody has read the whole of it */
    if (error)
        return error;
    channel_set_deadline(channel, patience);
    channel_begin(channel, channel->sent);
    return 0;
}

/* Of the answer that was read: 0 or a negative errno. */
static int error_of_answer(struct call *call, const struct channel *channel)
{
    int error = channel->in.error;
    if (!error && owner_is_another(&channel->owner)) /* what was read may have been pulled away */
        error = -EOWNERDEAD;
    call->unsent = is_gone(error) && bell_was_untouched(&channel->bell);
    return error;
}

/* What has become of a call: `rv`, unless there was an error. */
static CK_RV conclude(struct call *call, int error, CK_RV rv)
{
    call->lost = error == -EOWNERDEAD;
    call->hung = error == -ETIMEDOUT && !atomic_load(&call->state->ending);
    if (!error)
        return rv;
    log_event("call.failed function=%s module=%s error=\"%s\"", call->function->name, call->module->name, strerror(-error));
    return meaning_of(call, error);
}

bool exchange_send(struct talk *talk)
{
    struct call *call = talk->call;
    struct channel *channel = talk->channel;
    write_request(channel, &talk->walk);
    if (call->lost_object)
        refuse(&talk->walk, call->lost_rv, call->lost_object);
    call->lost = channel->out.error == -EOWNERDEAD;
    talk->rv = unsendable(call, &talk->walk);
    talk->usable = !call->lost;
    if (talk->rv != CKR_OK) {
        writer_reset(&channel->out);
        talk->usable = talk->usable && (talk->walk.refusal == CKR_OK || tell(call, channel, &talk->walk));
        return false;
    }
    talk->shelved = channel->out.shelved;
    int error = send_request(call, channel, exchange_patience(call));
    if (!error)
        return true;
    talk->usable = false;
    talk->rv = conclude(call, error, talk->rv);
    return false;
}

void exchange_hear(struct talk *talk)
{
    struct call *call = talk->call;
    struct walk *walk = &talk->walk;
    CK_RV rv = read_answer(call, walk, talk->channel->next_id);
    int error = error_of_answer(call, talk->channel);
    if (walk->refusal != CKR_OK)
        log_event("answer.refused function=%s module=%s reason=\"%s\"", call->function->name, call->module->name, walk->reason);
    if (error != -EOWNERDEAD)
        wipe(call, talk->channel, talk->shelved);
    if (!error && walk->recall)
        remember_follow(call, walk, rv);
    talk->usable = error == 0 && !call->over;
    talk->rv = conclude(call, error, rv);
}

void exchange_prepare(struct talk *talk, struct call *call, struct channel *channel)
{
    talk->call = call;
    talk->channel = channel;
    talk->names = (struct names){call, object_to_wire, object_from_wire, session_from_wire, slot_from_wire};
    talk->walk = (struct walk){
        .function = call->function, .tables = rows_tables(atomic_load(&call->module->rows)),
        .words = call->words, .w = &channel->out, .r = &channel->in,
        .names = &talk->names, .slot = call->slot, .session = call->session, .theirs = channel->theirs,
    };
}

/* A channel for the call. What is opened while C_Finalize shuts down what it finds would otherwise never be woken. */
static struct channel *take_channel(const struct call *call, bool *ret_late)
{
    struct channel *channel = module_take(call->module, call->generation, exchange_patience(call), ret_late);
    if (!channel || !atomic_load(&call->state->ending))
        return channel;
    module_give(call->module, channel);
    return NULL;
}

CK_RV exchange_no_channel(struct call *call, bool late)
{
    if (atomic_load(&call->state->ending))
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    call->silent = true;
    if (late)
        return unknown_outcome(call->function);
    bool alive = call->generation && atomic_load(&call->module->generation) == call->generation;
    return alive ? CKR_FUNCTION_FAILED : call->function->absent;
}

/* After a child of the call, forked within it, no lock of its module's is ours to take. */
void exchange_give_back(const struct call *call, struct channel *channel, bool usable, CK_RV rv)
{
    if (usable && module_is_broken(call->module, rv))
        module_give_up(call->module, channel, rv);
    else if (usable)
        module_give(call->module, channel);
    else if (call->hung)
        module_give_up(call->module, channel, CKR_OK);
    else if (!call->lost)
        module_drop(call->module, channel);
}

CK_RV exchange(struct call *call)
{
    bool late;
    struct talk talk;
    struct recall recall;
    struct channel *channel = take_channel(call, &late);
    call->unsent = !channel && !late;
    if (!channel)
        return exchange_no_channel(call, late);
    atomic_fetch_add(&call->state->calls, 1);
    exchange_prepare(&talk, call, channel);
    if (call->function->role)
        remember_recall(call, &talk.walk, &recall);
    if (exchange_send(&talk))
        exchange_hear(&talk);
    atomic_fetch_sub(&call->state->calls, 1);
    exchange_give_back(call, channel, talk.usable, talk.rv);
    return talk.rv;
}

CK_RV exchange_enter_life(struct call *call)
{
    CK_RV rv = call->hasty ? module_revive_for_list(call->module) : module_revive(call->module);
    if (atomic_load(&call->state->ending))
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    call->silent = rv != CKR_OK;
    if (call->silent)
        return call->function->absent;
    call->generation = atomic_load(&call->module->generation);
    call->of_sessions = atomic_load(&call->module->of_sessions);
    return CKR_OK;
}

static CK_RV exchange_in_this_life(struct call *call)
{
    CK_RV rv = exchange_enter_life(call);
    return rv == CKR_OK ? exchange(call) : rv;
}

bool exchange_is_for_the_next(const struct call *call)
{
    return call->unsent && atomic_load(&call->module->generation) != call->generation;
}

CK_RV exchange_anew(struct call *call)
{
    enum { LIVES = 3 };
    CK_RV rv = exchange_in_this_life(call);
    for (int life = 1; life < LIVES && exchange_is_for_the_next(call); life++) {
        call->unsent = false;
        rv = exchange_in_this_life(call);
    }
    return rv;
}

/* ---- what is not in the tables ---- */

static CK_RV read_login(struct reader *r, uint32_t id)
{
    if (read_array(r) != 4 || read_uint(r) != 1 || read_uint(r) != id || !read_nil_if(r) || read_array(r) != 1)
        reader_fail(r, -EBADMSG);
    return (CK_RV)read_uint(r);
}

static void write_login(struct channel *channel, CK_ULONG session)
{
    struct writer *w = &channel->out;
    write_array(w, 4);
    write_uint(w, 0);
    write_uint(w, ++channel->next_id);
    write_str(w, "login", 5);
    write_array(w, 1);
    write_number(w, session);
}

CK_RV exchange_login(const struct call *call)
{
    struct call login = *call;
    bool late;
    struct channel *channel = take_channel(&login, &late);
    if (!channel)
        return exchange_no_channel(&login, late);
    write_login(channel, login.session);
    CK_RV rv = CKR_GENERAL_ERROR;
    int error = send_request(&login, channel, login.module->patience[PATIENCE_LONG]);
    if (!error) {
        rv = read_login(&channel->in, channel->next_id);
        error = error_of_answer(&login, channel);
    }
    rv = conclude(&login, error, rv);
    exchange_give_back(&login, channel, error == 0, rv);
    return rv;
}
