#include "watch_look.h"

#include <string.h>

#include "slate.h"
#include "tables.h"
#include "view.h"

struct slot_list {
    CK_ULONG count;
    CK_SLOT_ID slots[LIMIT_MODULE_SLOTS];
};

/* If the provider dies in there, the mark tells the broker where. */
static CK_RV list(struct provider *provider, uintptr_t *words)
{
    slate_enter(&slate->watchers[SLATE_LOOKER], FN_C_GetSlotList);
    CK_RV rv = view_call(provider, FN_C_GetSlotList, words, 0);
    slate_leave(&slate->watchers[SLATE_LOOKER]);
    return rv;
}

/* Of a slot that is shown. */
static CK_RV get_token_info(struct provider *provider, uintptr_t *words)
{
    slate_enter(&slate->watchers[SLATE_LOOKER], FN_C_GetTokenInfo);
    CK_RV rv = provider_call(provider, FN_C_GetTokenInfo, words);
    slate_leave(&slate->watchers[SLATE_LOOKER]);
    return rv;
}

const char *watch_look_is_in(void)
{
    int fn = slate_function(&slate->watchers[SLATE_LOOKER]);
    return fn < 0 ? "none" : functions[fn].name;
}

/* Asking how many there are is what makes a provider look for new ones (section 5.5 of the standard). */
static bool list_slots(struct provider *provider, bool present, struct slot_list *ret)
{
    uintptr_t how_many[] = {present, 0, (uintptr_t)&ret->count};
    uintptr_t which[] = {present, (uintptr_t)ret->slots, (uintptr_t)&ret->count};
    ret->count = 0;
    if (!present && list(provider, how_many) != CKR_OK)
        return false;
    ret->count = LIMIT_MODULE_SLOTS;
    return list(provider, which) == CKR_OK && ret->count <= LIMIT_MODULE_SLOTS;
}

/* They mostly come in the same order: where it left off is where the next one is. */
static bool has(const struct slot_list *list, CK_SLOT_ID slot, CK_ULONG *from)
{
    for (CK_ULONG i = 0; i < list->count; i++) {
        CK_ULONG at = (*from + i) % list->count;
        if (list->slots[at] != slot)
            continue;
        *from = at + 1;
        return true;
    }
    return false;
}

static bool says_empty(CK_RV rv)
{
    return rv == CKR_TOKEN_NOT_PRESENT || rv == CKR_DEVICE_REMOVED;
}

static void look_at_token(struct provider *provider, struct slot_look *seen)
{
    CK_TOKEN_INFO info;
    uintptr_t words[] = {seen->slot, (uintptr_t)&info};
    memset(&info, 0, sizeof info);
    CK_RV rv = get_token_info(provider, words);
    if (rv == CKR_OK)
        token_face_of(&seen->token, &info);
    else if (says_empty(rv))
        seen->state = SLOT_EMPTY;
    else
        seen->unclear = rv != CKR_TOKEN_NOT_RECOGNIZED;
}

bool watch_look(struct provider *provider, bool deep, struct slot_look *ret_seen, unsigned *ret_count)
{
    struct slot_list all, present;
    CK_ULONG from = 0;
    *ret_count = 0;
    if (!list_slots(provider, false, &all) || !list_slots(provider, true, &present))
        return false;
    for (CK_ULONG i = 0; i < all.count; i++) {
        struct slot_look *seen = &ret_seen[(*ret_count)++];
        *seen = (struct slot_look){.slot = all.slots[i], .state = SLOT_EMPTY, .unclear = !deep};
        if (has(&present, seen->slot, &from))
            seen->state = SLOT_TOKEN;
        if (deep && seen->state == SLOT_TOKEN)
            look_at_token(provider, seen);
    }
    return true;
}

void watch_look_at(struct provider *provider, CK_SLOT_ID slot, struct slot_look *ret_seen)
{
    CK_SLOT_INFO info;
    uintptr_t words[] = {slot, (uintptr_t)&info};
    memset(&info, 0, sizeof info);
    *ret_seen = (struct slot_look){.slot = slot, .state = SLOT_TOKEN};
    CK_RV rv = provider_call(provider, FN_C_GetSlotInfo, words);
    if (rv == CKR_SLOT_ID_INVALID)
        ret_seen->state = SLOT_NONE;
    else if (rv == CKR_OK && !(info.flags & CKF_TOKEN_PRESENT))
        ret_seen->state = SLOT_EMPTY;
    else
        look_at_token(provider, ret_seen);
}
