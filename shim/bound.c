#include "bound.h"

#include "bound_slot.h"
#include "slate.h"
#include "tables.h"
#include "thread.h"
#include "watch_look.h"

/* ---- closing what was opened on a token that has gone ---- */

static CK_RV close_with_provider(struct provider *provider, CK_ULONG session)
{
    uintptr_t words[] = {session};
    return provider_call(provider, FN_C_CloseSession, words);
}

static bool is_closed(CK_RV rv)
{
    return rv == CKR_OK || rv == CKR_SESSION_HANDLE_INVALID;
}

/* Under the gate. With the last one the provider ends the login, which is not one to the token that is there now. */
static void close_lost(struct provider *provider, struct bound_slot *slot)
{
    struct session session;
    while (sessions_find(&bound_sessions, slot->id, BOUND_LOST, false, &session)) {
        sessions_settle(&bound_sessions, session.handle, BOUND_CLOSED, 0);
        if (!is_closed(close_with_provider(provider, session.handle)))
            sessions_settle(&bound_sessions, session.handle, BOUND_STUBBORN, 0);
    }
    bound_slot_all_closed(slot);
}

/* Unless a session is being opened there: then whoever opens the next will. */
static void close_lost_at_once(struct provider *provider, struct bound_slot *slot)
{
    if (!bound_slot_has_unclosed(slot) || pthread_rwlock_trywrlock(&slot->gate) != 0)
        return;
    close_lost(provider, slot);
    pthread_rwlock_unlock(&slot->gate);
}

static void look(struct provider *provider, struct bound_slot *slot)
{
    struct slot_look seen;
    uint64_t prompts = bound_slot_prompts(slot), began = slate_clock();
    watch_look_at(provider, slot->id, &seen);
    bound_slot_looked(slot, &seen, prompts, began);
    close_lost_at_once(provider, slot);
}

/* ---- opening ---- */

/* Those that got a number that is not free yet: `server` is the number of the one before. */
static void close_surplus(struct provider *provider, CK_ULONG last)
{
    struct session session;
    while (last && sessions_get(&bound_sessions, last, &session)) {
        sessions_settle(&bound_sessions, last, BOUND_CLOSED, 0);
        close_with_provider(provider, last);
        last = session.server;
    }
}

/* Whoever has an old session's number and has not been told yet would call with it. */
static CK_RV open_with_free_number(struct provider *provider, uintptr_t *words)
{
    const CK_ULONG *opened = (const CK_ULONG *)words[4];
    struct session old;
    CK_ULONG last = 0;
    CK_RV rv = provider_call(provider, FN_C_OpenSession, words);
    while (rv == CKR_OK && opened && sessions_get(&bound_sessions, *opened, &old) && old.life != BOUND_OPEN) {
        if (old.life == BOUND_SURPLUS) {
            rv = CKR_DEVICE_ERROR; /* it goes round */
            break;
        }
        sessions_settle(&bound_sessions, *opened, BOUND_SURPLUS, last);
        last = *opened;
        rv = provider_call(provider, FN_C_OpenSession, words);
    }
    close_surplus(provider, last);
    return rv;
}

/* What is none is told as it came. */
static bool is_number(const CK_ULONG *handle)
{
    return handle && *handle != CK_INVALID_HANDLE && *handle != CK_UNAVAILABLE_INFORMATION;
}

static CK_RV open_in(struct provider *provider, struct bound_slot *slot, uintptr_t *words, uint64_t losses)
{
    const CK_ULONG *opened = (const CK_ULONG *)words[4];
    CK_RV rv = open_with_free_number(provider, words);
    if (rv != CKR_OK || !is_number(opened) || bound_slot_put(slot, *opened, losses))
        return rv;
    close_with_provider(provider, *opened);
    return CKR_HOST_MEMORY;
}

/* What is left of an earlier token goes, and is not what the session will be opened on. After how many losses that was so. */
static uint64_t prepare_to_open(struct provider *provider, struct bound_slot *slot)
{
    uint64_t losses;
    do {
        losses = bound_slot_losses(slot);
        if (bound_slot_is_doubtful(slot))
            look(provider, slot);
        if (bound_slot_has_unclosed(slot)) {
            pthread_rwlock_wrlock(&slot->gate);
            close_lost(provider, slot);
            pthread_rwlock_unlock(&slot->gate);
        }
        if (bound_slot_is_unused(slot))
            look(provider, slot);
    } while (losses != bound_slot_losses(slot));
    return losses;
}

static CK_RV open_session(struct provider *provider, uintptr_t *words)
{
    struct bound_slot *slot = bound_slot_find_or_add((CK_SLOT_ID)words[0]);
    if (!slot)
        return provider_call(provider, FN_C_OpenSession, words);
    uint64_t losses = prepare_to_open(provider, slot);
    pthread_rwlock_rdlock(&slot->gate);
    CK_RV rv = open_in(provider, slot, words, losses);
    pthread_rwlock_unlock(&slot->gate);
    return rv;
}

/* ---- other calls ---- */

/* Forgotten first: once it is closed, another may have its number. */
static CK_RV close_session(struct provider *provider, struct bound_slot *slot, CK_ULONG handle)
{
    uint64_t losses;
    if (!bound_slot_take(slot, handle, BOUND_OPEN, &losses))
        return CKR_SESSION_HANDLE_INVALID;
    CK_RV rv = close_with_provider(provider, handle);
    if (!is_closed(rv))
        bound_slot_put(slot, handle, losses);
    return rv;
}

static CK_RV close_all_sessions(struct provider *provider, uintptr_t *words)
{
    CK_RV rv = provider_call(provider, FN_C_CloseAllSessions, words);
    if (rv == CKR_OK)
        bound_slot_forget_all((CK_SLOT_ID)words[0]);
    return rv;
}

/* The first who asks is told what has happened, others what has come of it. */
static CK_RV refuse(struct provider *provider, struct bound_slot *slot, unsigned fn, CK_ULONG handle)
{
    uint64_t losses;
    close_lost_at_once(provider, slot);
    bound_slot_take(slot, handle, BOUND_CLOSED, &losses);
    bool told = bound_slot_tell(slot) || fn == FN_C_CloseSession;
    return told ? CKR_SESSION_HANDLE_INVALID : functions[fn].gone;
}

/* What the provider says of a session, or of a token, it may know better than any look; but only the former is for good. */
static CK_RV call_and_hear(struct provider *provider, unsigned fn, uintptr_t *words, CK_ULONG opened)
{
    CK_RV rv = provider_call(provider, fn, words);
    if (rv == CKR_SESSION_HANDLE_INVALID)
        bound_slot_told(words[0], opened);
    else if (rv == CKR_DEVICE_REMOVED)
        bound_slot_warn(words[0]);
    return rv;
}

/* What became of the session is read last: who has lost it has ended the doubt. */
static CK_RV call_with_care(struct provider *provider, unsigned fn, uintptr_t *words, CK_ULONG opened)
{
    struct session session;
    struct bound_slot *slot = bound_slot_of(words[0], &session);
    if (!slot)
        return call_and_hear(provider, fn, words, opened);
    if (bound_slot_is_doubtful(slot))
        look(provider, slot);
    if (!sessions_get(&bound_sessions, words[0], &session))
        return CKR_SESSION_HANDLE_INVALID;
    if (session.life != BOUND_OPEN)
        return refuse(provider, slot, fn, words[0]);
    return fn == FN_C_CloseSession ? close_session(provider, slot, words[0]) : call_and_hear(provider, fn, words, opened);
}

static CK_RV call_with_session(struct provider *provider, unsigned fn, uintptr_t *words)
{
    CK_ULONG opened = atomic_load_explicit(&bound_opened, memory_order_relaxed);
    bool carefully = fn == FN_C_CloseSession || atomic_load_explicit(&bound_alert, memory_order_relaxed);
    return carefully ? call_with_care(provider, fn, words, opened) : call_and_hear(provider, fn, words, opened);
}

CK_RV bound_check_call(struct provider *provider, unsigned fn, uintptr_t *words)
{
    if (functions[fn].args[0].kind == ARG_SESSION)
        return call_with_session(provider, fn, words);
    if (fn == FN_C_OpenSession)
        return open_session(provider, words);
    return fn == FN_C_CloseAllSessions ? close_all_sessions(provider, words) : provider_call(provider, fn, words);
}

/* ---- reasons to look ---- */

static struct {
    _Atomic uint64_t prompts;
    _Atomic bool looking; /* a thread is at it */
} prompted;

static void look_at_doubtful(struct provider *provider)
{
    unsigned place = 0;
    for (struct bound_slot *slot; (slot = bound_slot_at(place)); place++)
        if (bound_slot_is_doubtful(slot))
            look(provider, slot);
}

/* A prompt that comes after the last look finds nobody looking, or is seen here. */
static void *run_looks(void *provider)
{
    uint64_t prompts;
    bool idle = false;
    do {
        prompts = atomic_load(&prompted.prompts);
        look_at_doubtful(provider);
        atomic_store(&prompted.looking, false);
    } while (prompts != atomic_load(&prompted.prompts) && atomic_compare_exchange_strong(&prompted.looking, &idle, true));
    return NULL;
}

void bound_prompt(struct provider *provider)
{
    if (!provider->bound || !bound_slot_doubt_all())
        return;
    atomic_fetch_add(&prompted.prompts, 1);
    if (!atomic_exchange(&prompted.looking, true) && !thread_start(run_looks, provider))
        atomic_store(&prompted.looking, false);
}

/* A slot that there is no more is not among those seen. */
static const struct slot_look *seen_in(CK_SLOT_ID id, const struct slot_look *seen, unsigned n_seen)
{
    static const struct slot_look none = {.state = SLOT_NONE};
    for (unsigned i = 0; i < n_seen; i++)
        if (seen[i].slot == id)
            return &seen[i];
    return &none;
}

void bound_saw(struct provider *provider, const struct slot_look *seen, unsigned n_seen, uint64_t began)
{
    unsigned place = 0;
    if (!provider->bound)
        return;
    for (struct bound_slot *slot; (slot = bound_slot_at(place)); place++)
        if (!bound_slot_is_unused(slot) && bound_slot_saw(slot, seen_in(slot->id, seen, n_seen), began))
            close_lost_at_once(provider, slot);
}

bool bound_is_busy(void)
{
    return atomic_load(&prompted.looking);
}
