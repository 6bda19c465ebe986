/*
 * A provider that lies about lengths: asked to fill something, it returns CKR_OK and says that it wrote more than there is
 * room for. C_GetOperationState and C_GetMechanismList say one too many; all others write a pointer where the length belongs.
 */
#include <stddef.h>
#include <string.h>

#include "cryptoki.h"

#if defined __GNUC__
#pragma GCC visibility push(default)
#endif

static CK_RV initialize(void *args)
{
    (void)args;
    return CKR_OK;
}

static CK_RV get_info(CK_INFO *info)
{
    memset(info, ' ', sizeof *info);
    info->cryptokiVersion = (CK_VERSION){2, 40};
    info->flags = 0;
    return CKR_OK;
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    (void)present;
    if (slots && *count)
        slots[0] = 1;
    *count = 1;
    return CKR_OK;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    (void)slot, (void)flags, (void)application, (void)notify;
    *session = 1;
    return CKR_OK;
}

static CK_RV get_operation_state(CK_SESSION_HANDLE session, CK_BYTE *state, CK_ULONG *len)
{
    (void)session;
    memset(state, 'x', *len);
    *len += 1;
    return CKR_OK;
}

static CK_RV get_mechanism_list(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count)
{
    (void)slot;
    memset(list, 0, *count * sizeof *list);
    *count += 1;
    return CKR_OK;
}

static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    (void)session, (void)object;
    for (CK_ULONG i = 0; i < count; i++)
        template[i].ulValueLen = (CK_ULONG)template[i].pValue;
    return CKR_OK;
}

static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, CK_ULONG most, CK_ULONG *count)
{
    (void)session;
    memset(objects, 0, most * sizeof *objects);
    *count = (CK_ULONG)objects;
    return CKR_OK;
}

static CK_RV digest(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG data_len, CK_BYTE *out, CK_ULONG *len)
{
    (void)session, (void)data, (void)data_len;
    *len = (CK_ULONG)out;
    return CKR_OK;
}

static CK_RV wrap_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE by, CK_OBJECT_HANDLE key, CK_BYTE *wrapped,
                      CK_ULONG *len)
{
    (void)session, (void)by, (void)key, (void)wrapped;
    *len = (CK_ULONG)mechanism;
    return CKR_OK;
}

static CK_RV random_bytes(CK_SESSION_HANDLE session, CK_BYTE *bytes, CK_ULONG len)
{
    (void)session;
    memset(bytes, 7, len);
    return CKR_OK;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    static CK_FUNCTION_LIST functions = {
        .version = {2, 40},
        .C_Initialize = initialize,
        .C_Finalize = initialize,
        .C_GetInfo = get_info,
        .C_GetFunctionList = C_GetFunctionList,
        .C_GetSlotList = get_slot_list,
        .C_GetMechanismList = get_mechanism_list,
        .C_OpenSession = open_session,
        .C_GetOperationState = get_operation_state,
        .C_GetAttributeValue = get_attribute_value,
        .C_FindObjects = find_objects,
        .C_Digest = digest,
        .C_WrapKey = wrap_key,
        .C_GenerateRandom = random_bytes,
    };
    *list = &functions;
    return CKR_OK;
}
