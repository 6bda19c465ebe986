#include "family.h"

#include "code.h"
#include "log.h"
#include "resume.h"
#include "seen.h"

static bool is(const struct call *call, unsigned fn)
{
    return call->function == &functions[fn];
}

/* Another call to the same module, in the same generation. */
static CK_RV also(const struct call *call, unsigned fn, uintptr_t *words)
{
    struct call one = *call;
    one.function = &functions[fn];
    one.words = words;
    return exchange(&one);
}

/* ---- sessions that this process opens and closes ---- */

static CK_ULONG server_of(const struct call *call, CK_ULONG client)
{
    CK_ULONG server = 0;
    handle_to_server(&call->module->large, handle_generation(client), client, &server);
    return server;
}

/* What the token is called that is in the call's slot, as a number; 0 if that cannot be told. Its flags may change. */
static uint64_t face_of_token(const struct call *call)
{
    CK_TOKEN_INFO info;
    struct token_face face;
    uintptr_t words[] = {0, (uintptr_t)&info};
    if (also(call, FN_C_GetTokenInfo, words) != CKR_OK)
        return 0;
    token_face_of(&face, &info);
    face.flags = 0;
    return seen_face(&face);
}

/* Of one that was opened now. Where others are open it counts as theirs: if it is not, none of them is opened again. */
static uint64_t face_of_new(const struct call *call)
{
    struct session other;
    bool found = sessions_find(&call->module->sessions, call->slot, call->generation, false, &other);
    return found ? other.face : face_of_token(call);
}

static CK_RV open_session(struct call *call)
{
    CK_ULONG *client = (CK_ULONG *)call->words[4];
    CK_RV rv = exchange_anew(call);
    if (rv != CKR_OK || !client)
        return rv;
    struct session session = {
        .handle = *client, .slot = call->slot, .flags = call->words[1], .life = call->generation, .server = server_of(call, *client),
        .face = face_of_new(call),
    };
    call->session = session.server;
    if (sessions_put(&call->module->sessions, &session)) {
        if (call->module->resumes)
            resume_login(call, session.face);
        return CKR_OK;
    }
    uintptr_t words[] = {*client};
    also(call, FN_C_CloseSession, words);
    return CKR_HOST_MEMORY;
}

/* Its number may be another session's as soon as it is closed. */
static CK_RV close_session(struct call *call)
{
    struct session session;
    bool known = sessions_take(&call->module->sessions, call->words[0], &session);
    CK_RV rv = exchange(call);
    if (known && rv != CKR_OK && rv != CKR_SESSION_HANDLE_INVALID)
        sessions_put(&call->module->sessions, &session);
    else if (known)
        resume_closed(call->module, session.slot);
    return rv;
}

/* The helper closes those of this process. */
static CK_RV close_all_sessions(struct call *call)
{
    CK_RV rv = exchange_anew(call);
    if (rv != CKR_OK)
        return rv;
    sessions_forget_slot(&call->module->sessions, call->slot);
    resume_closed(call->module, call->slot);
    return CKR_OK;
}

CK_RV family_slot(struct call *call)
{
    if (is(call, FN_C_OpenSession))
        return open_session(call);
    return is(call, FN_C_CloseAllSessions) ? close_all_sessions(call) : exchange_anew(call);
}

/* ---- logging out ---- */

static bool is_public(CK_STATE state)
{
    return state == CKS_RO_PUBLIC_SESSION || state == CKS_RW_PUBLIC_SESSION;
}

/* Those that are open with the helper of this generation. */
static void close_what_is_open(const struct call *call)
{
    struct session session;
    while (sessions_find_of(&call->module->sessions, call->generation, &session)) {
        struct call one = *call;
        uintptr_t words[] = {session.handle};
        one.session = session.server;
        sessions_settle(&call->module->sessions, session.handle, 0, 0);
        also(&one, FN_C_CloseSession, words);
    }
}

/*
 * A login is the provider's, for all who share its helper. Whoever has inherited it and logs out leaves the others, and goes on
 * with a helper of its own in which nobody ever logged in.
 */
static CK_RV log_out(struct call *call)
{
    CK_SESSION_INFO info;
    if (!atomic_load(&call->module->is_heir))
        return exchange(call);
    uintptr_t words[] = {call->words[0], (uintptr_t)&info};
    CK_RV rv = also(call, FN_C_GetSessionInfo, words);
    if (rv != CKR_OK)
        return rv;
    if (is_public(info.state))
        return exchange(call);
    close_what_is_open(call);
    module_leave(call->module, call->generation);
    return CKR_OK;
}

static CK_RV use_session(struct call *call)
{
    if (is(call, FN_C_CloseSession))
        return close_session(call);
    return call->function->effect == EFFECT_LOGOUT ? log_out(call) : exchange(call);
}

/*
 * The provider, or its helper, says that a session is no more, or the token of all in its slot: what is there then is not what they were opened
 * on, so none of them is opened again, neither in a child nor with the next helper, nor is the login made again.
 */
static void forget_lost(const struct call *call, CK_RV rv)
{
    struct module *module = call->module;
    struct session session;
    if (call->silent || module_calls_broken(module, rv) || !sessions_get(&module->sessions, call->words[0], &session))
        return;
    if (session.life != call->generation)
        return;
    if (rv == CKR_DEVICE_REMOVED)
        sessions_forget_slot(&module->sessions, session.slot);
    else
        sessions_take(&module->sessions, session.handle, &session);
    resume_closed(module, session.slot);
}

CK_RV family_session(struct call *call)
{
    if (call->module->resumes)
        resume_foresee(call);
    CK_RV rv = use_session(call);
    if (rv == CKR_DEVICE_REMOVED || rv == CKR_SESSION_HANDLE_INVALID)
        forget_lost(call, rv);
    if (call->module->resumes)
        resume_follow(call, rv);
    return rv;
}

/* ---- sessions that this process has inherited ---- */

/* What any function may return; other refusals of a C_OpenSession that the program never made mean nothing to it. */
static CK_RV meaning_of(const struct call *call, CK_RV rv)
{
    switch (rv) {
    case CKR_HOST_MEMORY:
    case CKR_DEVICE_ERROR:
    case CKR_DEVICE_MEMORY:
    case CKR_DEVICE_REMOVED:
    case CKR_FUNCTION_FAILED:
    case CKR_GENERAL_ERROR:
    case CKR_CRYPTOKI_NOT_INITIALIZED:
        return rv;
    default:
        log_event("session.lost module=%s rv=\"%s\"", call->module->name, code_name(rv, (char[CODE_ROOM]){0}));
        return CKR_SESSION_HANDLE_INVALID;
    }
}

/* A thread that opened one in vain, since another was faster, closes it again. */
static CK_RV settle(struct call *call, CK_ULONG client, CK_ULONG own)
{
    CK_ULONG opened = server_of(call, own);
    call->session = sessions_settle(&call->module->sessions, client, call->generation, opened);
    if (call->session == opened)
        return CKR_OK;
    struct call surplus = *call;
    uintptr_t words[] = {own};
    surplus.session = opened;
    also(&surplus, FN_C_CloseSession, words);
    return call->session ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
}

/* What was meant for one token does not begin on another. */
static CK_RV forget_exchanged(const struct call *call, const struct session *session)
{
    struct session forgotten;
    log_event("session.lost module=%s reason=\"another token\"", call->module->name);
    sessions_take(&call->module->sessions, session->handle, &forgotten);
    return CKR_SESSION_HANDLE_INVALID;
}

/* The first use here of a session that an ancestor opened: one of the same kind takes its place. */
static CK_RV reopen(struct call *call, const struct session *session)
{
    CK_ULONG own = 0;
    uintptr_t words[] = {0, session->flags, 0, 0, (uintptr_t)&own};
    call->slot = session->slot;
    uint64_t face = session->face ? face_of_token(call) : 0;
    if (face && face != session->face)
        return forget_exchanged(call, session);
    CK_RV rv = also(call, FN_C_OpenSession, words);
    rv = rv == CKR_OK ? settle(call, session->handle, own) : meaning_of(call, rv);
    if (rv == CKR_OK)
        operations_forget(atomic_load(&call->state->operations), session->handle, ALL_OPERATIONS);
    if (rv == CKR_OK && call->module->resumes)
        resume_login(call, session->face);
    return rv;
}

/* A process that has left its family gets its next helper here. */
static CK_RV begin_generation(struct call *call)
{
    CK_RV rv = module_revive(call->module);
    if (atomic_load(&call->state->ending))
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    call->generation = atomic_load(&call->module->generation);
    call->of_sessions = atomic_load(&call->module->of_sessions);
    return rv == CKR_OK ? CKR_OK : call->function->absent;
}

CK_RV family_inherited(struct call *call)
{
    struct session session;
    call->module = state_module_of_inherited(call->state, call->words[0], &session);
    if (!call->module)
        return CKR_SESSION_HANDLE_INVALID;
    CK_RV rv = begin_generation(call);
    call->unsent = rv != CKR_OK;
    if (rv != CKR_OK)
        return rv;
    if (!sessions_get(&call->module->sessions, call->words[0], &session)) /* anew: the helper may have been another */
        return CKR_SESSION_HANDLE_INVALID;
    bool open = session.life == call->generation;
    if (!open && is(call, FN_C_CloseSession))
        return sessions_take(&call->module->sessions, session.handle, &session) ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
    call->session = session.server;
    rv = open ? CKR_OK : reopen(call, &session);
    if (rv == CKR_OK)
        return family_session(call);
    call->unsent = atomic_load(&call->module->generation) != call->generation; /* the next helper died, too */
    return call->unsent ? call->function->gone : rv;
}
