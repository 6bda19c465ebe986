#include "share.h"

#include <stddef.h>

#include "bound.h"
#include "tables.h"

enum {
    NOBODY = 0,
    FOUNDER = 1, /* the first to come: what it made, its children have inherited */
};

static CK_RV call_with(struct provider *provider, unsigned fn, CK_ULONG session)
{
    uintptr_t words[] = {session};
    return bound_call(provider, fn, words);
}

/* ---- what a process does to its own ---- */

static CK_RV open_session(struct provider *provider, uintptr_t *words, uint32_t owner)
{
    CK_RV rv = bound_call(provider, FN_C_OpenSession, words);
    const CK_ULONG *opened = (const CK_ULONG *)words[4];
    if (rv != CKR_OK || !opened)
        return rv;
    struct session session = {.handle = *opened, .slot = words[0], .flags = words[1], .life = owner};
    if (sessions_put(&provider->share->sessions, &session))
        return CKR_OK;
    call_with(provider, FN_C_CloseSession, session.handle);
    return CKR_HOST_MEMORY;
}

/* Forgotten first: once it is closed, another may have its number. */
static CK_RV close_session(struct provider *provider, CK_ULONG handle)
{
    struct session session;
    if (!sessions_take(&provider->share->sessions, handle, &session))
        return CKR_SESSION_HANDLE_INVALID;
    CK_RV rv = call_with(provider, FN_C_CloseSession, handle);
    if (rv != CKR_OK && rv != CKR_SESSION_HANDLE_INVALID)
        sessions_put(&provider->share->sessions, &session);
    return rv;
}

/* Those of one process in one slot. */
static CK_RV close_all_sessions(struct provider *provider, CK_ULONG slot, uint32_t owner)
{
    struct session session;
    CK_RV rv = CKR_OK;
    while (rv == CKR_OK && sessions_find(&provider->share->sessions, slot, owner, false, &session)) {
        rv = close_session(provider, session.handle);
        if (rv == CKR_SESSION_HANDLE_INVALID)
            rv = CKR_OK;
    }
    return rv;
}

static bool owns(const struct provider *provider, CK_ULONG handle, uint32_t owner)
{
    struct session session;
    return sessions_get(&provider->share->sessions, handle, &session) && session.life == owner;
}

CK_RV share_call(struct provider *provider, unsigned fn, uintptr_t *words, uint32_t owner)
{
    if (!provider->share)
        return bound_call(provider, fn, words);
    if (fn == FN_C_OpenSession)
        return open_session(provider, words, owner);
    if (fn == FN_C_CloseAllSessions)
        return close_all_sessions(provider, words[0], owner);
    if (functions[fn].args[0].kind != ARG_SESSION)
        return bound_call(provider, fn, words);
    if (!owns(provider, words[0], owner))
        return CKR_SESSION_HANDLE_INVALID;
    return fn == FN_C_CloseSession ? close_session(provider, words[0]) : bound_call(provider, fn, words);
}

/* ---- who may still call ---- */

enum { HOLDS = sizeof((struct share *)NULL)->holds / sizeof(struct hold) };

/* Under the lock: the place of an owner, or a free one. There is always one. */
static struct hold *hold_of(struct share *share, uint32_t owner)
{
    struct hold *place = NULL;
    for (unsigned i = 0; i < HOLDS; i++) {
        if (share->holds[i].owner == owner)
            return &share->holds[i];
        if (share->holds[i].owner == 0)
            place = &share->holds[i];
    }
    return place;
}

void share_hold(struct share *share, uint32_t owner)
{
    pthread_mutex_lock(&share->holds_lock);
    struct hold *hold = hold_of(share, owner);
    hold->owner = owner;
    hold->count++;
    pthread_mutex_unlock(&share->holds_lock);
}

bool share_release(struct share *share, uint32_t owner)
{
    pthread_mutex_lock(&share->holds_lock);
    struct hold *hold = hold_of(share, owner);
    bool last = --hold->count == 0;
    if (last)
        hold->owner = 0;
    pthread_mutex_unlock(&share->holds_lock);
    return last;
}

/* ---- what is left of a process that has ended ---- */

static bool is_logged_in(struct provider *provider, CK_ULONG session)
{
    CK_SESSION_INFO info;
    uintptr_t words[] = {session, (uintptr_t)&info};
    return bound_call(provider, FN_C_GetSessionInfo, words) == CKR_OK && info.state != CKS_RO_PUBLIC_SESSION &&
           info.state != CKS_RW_PUBLIC_SESSION;
}

/* The last one of a slot keeps the login. */
static bool keeps_login(struct provider *provider, const struct session *session)
{
    struct session other;
    return !sessions_find(&provider->share->sessions, session->slot, session->life, true, &other) &&
           is_logged_in(provider, session->handle);
}

void share_bury(struct provider *provider, uint32_t owner)
{
    struct session session, taken;
    while (provider->share && owner != FOUNDER && sessions_find_of(&provider->share->sessions, owner, &session)) {
        bool kept = keeps_login(provider, &session);
        if (!sessions_take(&provider->share->sessions, session.handle, &taken))
            continue;
        taken.life = NOBODY;
        if (!kept || !sessions_put(&provider->share->sessions, &taken))
            call_with(provider, FN_C_CloseSession, session.handle);
    }
}
