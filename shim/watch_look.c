#include "watch_look.h"

#include <string.h>

#include "tables.h"
#include "view.h"

static CK_RV get_slots(struct provider *provider, CK_SLOT_ID *slots, CK_ULONG *count)
{
    uintptr_t words[] = {CK_FALSE, (uintptr_t)slots, (uintptr_t)count};
    return view_call(provider, FN_C_GetSlotList, words, 0);
}

/* Asking how many there are is what makes a provider look for new ones (section 5.5 of the standard). */
static bool list_slots(struct provider *provider, CK_SLOT_ID slots[LIMIT_MODULE_SLOTS], CK_ULONG *ret_count)
{
    *ret_count = 0;
    if (get_slots(provider, NULL, ret_count) != CKR_OK)
        return false;
    *ret_count = LIMIT_MODULE_SLOTS;
    return get_slots(provider, slots, ret_count) == CKR_OK && *ret_count <= LIMIT_MODULE_SLOTS;
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
    CK_RV rv = provider_call(provider, FN_C_GetTokenInfo, words);
    if (rv == CKR_OK)
        token_face_of(&seen->token, &info);
    else if (says_empty(rv))
        seen->state = SLOT_EMPTY;
    else
        seen->unclear = rv != CKR_TOKEN_NOT_RECOGNIZED;
}

static void look_at_slot(struct provider *provider, bool deep, struct slot_look *seen)
{
    CK_SLOT_INFO info;
    uintptr_t words[] = {seen->slot, (uintptr_t)&info};
    memset(&info, 0, sizeof info);
    CK_RV rv = provider_call(provider, FN_C_GetSlotInfo, words);
    if (rv != CKR_OK)
        seen->state = rv == CKR_SLOT_ID_INVALID ? SLOT_NONE : says_empty(rv) ? SLOT_EMPTY : SLOT_UNKNOWN;
    else
        seen->state = info.flags & CKF_TOKEN_PRESENT ? SLOT_TOKEN : SLOT_EMPTY;
    seen->unclear = !deep;
    if (deep && seen->state == SLOT_TOKEN)
        look_at_token(provider, seen);
}

bool watch_look(struct provider *provider, bool deep, struct slot_look *ret_seen, unsigned *ret_count)
{
    CK_SLOT_ID slots[LIMIT_MODULE_SLOTS];
    CK_ULONG count;
    *ret_count = 0;
    if (!list_slots(provider, slots, &count))
        return false;
    for (CK_ULONG i = 0; i < count; i++) {
        struct slot_look *seen = &ret_seen[*ret_count];
        *seen = (struct slot_look){.slot = slots[i]};
        look_at_slot(provider, deep, seen);
        *ret_count += seen->state != SLOT_NONE;
    }
    return true;
}
