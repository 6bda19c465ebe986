/* Where every generated entry point leads: which module a call belongs to. */
#include "call.h"

#include <string.h>

#include "events.h"
#include "exchange.h"
#include "family.h"
#include "merge.h"
#include "root.h"

/* A program may know a slot's id from its configuration and never list any. */
static bool find_slot(struct call *call, unsigned *ret_number)
{
    if (slot_to_server(call->words[0], ret_number, &call->slot))
        return true;
    merge_learn_slots(call);
    return slot_to_server(call->words[0], ret_number, &call->slot);
}

static CK_RV to_slot(struct call *call)
{
    unsigned number;
    if (!find_slot(call, &number))
        return CKR_SLOT_ID_INVALID;
    call->module = state_module_by_number(call->state, number);
    if (!call->module)
        return CKR_SLOT_ID_INVALID;
    return module_lasts(call->module) ? family_slot(call) : exchange_anew(call);
}

static CK_RV to_session_once(struct call *call)
{
    CK_ULONG client = call->words[0];
    uint32_t of_sessions = handle_generation(client);
    call->module = state_module_of_sessions(call->state, of_sessions, &call->generation);
    if (!call->module)
        return family_inherited(call);
    if (!handle_to_server(&call->module->large, of_sessions, client, &call->session))
        return CKR_SESSION_HANDLE_INVALID;
    return module_lasts(call->module) ? family_session(call) : exchange(call);
}

/* What turns out not to have reached a helper that has died is for the next one, if its sessions last. */
static CK_RV to_session(struct call *call)
{
    enum { LIVES = 3 };
    CK_RV rv = to_session_once(call);
    for (int life = 1; life < LIVES && call->unsent && call->module->resumes; life++) {
        call->unsent = false;
        rv = to_session_once(call);
    }
    return rv;
}

static CK_RV dispatch(struct call *call, unsigned fn)
{
    switch (fn) {
    case FN_C_GetInfo: return merge_info(call);
    case FN_C_GetSlotList: return merge_slots(call);
    case FN_C_WaitForSlotEvent: return events_wait(call);
    case FN_C_GetSlotInfo:
    case FN_C_GetTokenInfo: return merge_look(call, to_slot(call));
    default: return call->function->args[0].kind == ARG_SLOT ? to_slot(call) : to_session(call);
    }
}

/* What a provider tells of a flag that there is not, told without it. */
static void clear_flag(const struct without *without, const uintptr_t *words)
{
    uint8_t *told = (uint8_t *)words[without->pos] + without->offset;
    CK_FLAGS flags;
    memcpy(&flags, told, sizeof flags);
    flags &= ~without->flag;
    memcpy(told, &flags, sizeof flags);
}

static CK_RV dispatch_without(const struct without *without, struct call *call, unsigned fn)
{
    if (!without->told && (call->words[without->pos] & without->flag))
        return without->refusal;
    CK_RV rv = dispatch(call, fn);
    if (without->told && rv == CKR_OK && call->words[without->pos])
        clear_flag(without, call->words);
    return rv;
}

static bool tells_of_slots(unsigned fn)
{
    return fn == FN_C_GetSlotList || fn == FN_C_GetSlotInfo || fn == FN_C_GetTokenInfo;
}

CK_RV call(unsigned fn, uintptr_t *words)
{
    struct call it = {.function = &functions[fn], .words = words};
    CK_RV rv = state_enter(&it.state);
    if (rv != CKR_OK)
        return rv;
    const struct without *without = it.function->without;
    rv = without ? dispatch_without(without, &it, fn) : dispatch(&it, fn);
    if (tells_of_slots(fn))
        events_told(&it, fn, rv);
    state_leave(it.state);
    return rv;
}
