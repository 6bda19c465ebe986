/*
 * What a provider with one slot says of itself and of that slot. Before this stand its NAME, a string, and SLOT, a number.
 */
#ifndef SINGLE_H
#define SINGLE_H

#include <string.h>

#include "cryptoki.h"
#include "frame.h"

static CK_RV get_info(CK_INFO *info)
{
    memset(info, 0, sizeof *info);
    info->cryptokiVersion = (CK_VERSION){2, 40};
    pad(info->manufacturerID, sizeof info->manufacturerID, "p11host");
    pad(info->libraryDescription, sizeof info->libraryDescription, NAME);
    return CKR_OK;
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    (void)present;
    if (slots && *count < 1)
        return CKR_BUFFER_TOO_SMALL;
    if (slots)
        slots[0] = SLOT;
    *count = 1;
    return CKR_OK;
}

static CK_RV get_slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    if (slot != SLOT)
        return CKR_SLOT_ID_INVALID;
    memset(info, 0, sizeof *info);
    pad(info->slotDescription, sizeof info->slotDescription, NAME);
    pad(info->manufacturerID, sizeof info->manufacturerID, "p11host");
    info->flags = CKF_TOKEN_PRESENT;
    return CKR_OK;
}

/* For `fill`. */
static void fill_single(CK_FUNCTION_LIST *list)
{
    list->C_GetInfo = get_info;
    list->C_GetSlotList = get_slot_list;
    list->C_GetSlotInfo = get_slot_info;
}

#endif
