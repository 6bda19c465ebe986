/*
 * The provider's own wait, in a thread of its own, and whether it is any good: judged by what it does.
 *
 * What it says is never passed on as it is: it is a reason to look. One that is not supported, or returns at once again and again where nothing has
 * changed, is not used any more; one that never returns costs a thread.
 */
#include "say.h"
#include "slate.h"
#include "tables.h"
#include "watch.h"

#define MS UINT64_C(1000000)

enum {
    AT_ONCE_MS = 50,  /* what returns sooner did not wait */
    NAP_MS = 10,      /* of one that returns so again and again */
};

struct judgement {
    unsigned vain, swift;
    unsigned nap_ms; /* after the next error */
    bool useless;
};

static CK_RV own_wait(struct provider *provider, CK_FLAGS flags, CK_SLOT_ID *ret_slot)
{
    uintptr_t words[] = {flags, (uintptr_t)ret_slot, 0};
    *ret_slot = CK_UNAVAILABLE_INFORMATION;
    slate_enter(&slate->watchers[SLATE_WAITER], FN_C_WaitForSlotEvent);
    CK_RV rv = provider_call(provider, FN_C_WaitForSlotEvent, words);
    slate_leave(&slate->watchers[SLATE_WAITER]);
    return rv;
}

static void condemn(struct judgement *judgement, const char *why)
{
    judgement->useless = true;
    say("events.wait.unused reason=\"%s\"", why);
}

/* What it has to say of the time before the first look is no change since. */
static void drain(struct provider *provider, struct judgement *judgement)
{
    CK_SLOT_ID slot;
    CK_RV rv = CKR_OK;
    for (unsigned i = 0; i <= LIMIT_MODULE_SLOTS && rv == CKR_OK && !watch_is_ending(); i++)
        rv = own_wait(provider, CKF_DONT_BLOCK, &slot);
    judgement->useless = rv == CKR_FUNCTION_NOT_SUPPORTED;
    if (rv == CKR_OK)
        condemn(judgement, "it has events without an end");
}

/* Of a slot that is not shown nothing is known. */
static enum stirred look_into(const struct provider *provider, CK_SLOT_ID slot)
{
    enum stirred found = watch_stirred(slot);
    return found == STIRRED_NO_SLOT && provider->view ? STIRRED_NOTHING : found;
}

static void judge_event(struct judgement *judgement, enum stirred found, bool at_once)
{
    judgement->nap_ms = DEADLINE_REST;
    judgement->swift = at_once ? judgement->swift + 1 : 0;
    if (found != STIRRED_CHANGE)
        judgement->vain += at_once || found == STIRRED_NO_SLOT;
    else if (!at_once)
        judgement->vain = 0;
    watch_trusts_wait(found == STIRRED_CHANGE);
    if (judgement->vain == LIMIT_VAIN)
        condemn(judgement, found == STIRRED_NO_SLOT ? "it names slots that there are not" : "it returns where nothing has changed");
    else if (judgement->swift > LIMIT_SWIFT)
        watch_nap(NAP_MS);
}

/* A reader's service may come back. */
static void judge_error(struct judgement *judgement, CK_RV rv)
{
    judgement->useless = rv == CKR_FUNCTION_NOT_SUPPORTED; /* which is no fault */
    if (rv == CKR_NO_EVENT || rv == CKR_ARGUMENTS_BAD)
        condemn(judgement, "it does not wait");
    if (judgement->useless)
        return;
    watch_trusts_wait(false);
    watch_nap(judgement->nap_ms);
    judgement->nap_ms = judgement->nap_ms < DEADLINE_REST_MOST / 2 ? judgement->nap_ms * 2 : DEADLINE_REST_MOST;
}

void watch_wait(struct provider *provider)
{
    struct judgement judgement = {.nap_ms = DEADLINE_REST};
    drain(provider, &judgement);
    watch_waits();
    while (!judgement.useless && !watch_is_ending()) {
        CK_SLOT_ID slot;
        uint64_t since = slate_clock();
        CK_RV rv = own_wait(provider, 0, &slot);
        bool at_once = slate_clock() - since < AT_ONCE_MS * MS;
        if (watch_is_ending())
            return;
        if (rv == CKR_OK)
            judge_event(&judgement, look_into(provider, slot), at_once);
        else
            judge_error(&judgement, rv);
    }
    watch_trusts_wait(false);
}
