/*
 * A provider with one token whose C_GenerateRandom takes a millisecond and no processor time, as one operation of
 * a card or a network HSM does. For the benchmark: it shows whether calls of many threads run at the same time.
 * The bytes it makes are zeros: it is of no other use.
 */
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "cryptoki.h"
#include "frame.h"

enum { SLOT = 0, MILLISECOND = 1000000 };
#define NAME "sleepy"
#include "single.h"

static atomic_ulong next_session = 1;

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    if (slot != SLOT)
        return CKR_SLOT_ID_INVALID;
    memset(info, 0, sizeof *info);
    pad(info->label, sizeof info->label, "sleepy");
    pad(info->manufacturerID, sizeof info->manufacturerID, "p11host");
    pad(info->model, sizeof info->model, "sleepy");
    pad(info->serialNumber, sizeof info->serialNumber, "1");
    info->flags = CKF_RNG | CKF_TOKEN_INITIALIZED | CKF_USER_PIN_INITIALIZED;
    pad(info->utcTime, sizeof info->utcTime, "");
    return CKR_OK;
}

static CK_RV get_mechanism_list(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count)
{
    (void)list;
    *count = 0;
    return slot == SLOT ? CKR_OK : CKR_SLOT_ID_INVALID;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
                          CK_SESSION_HANDLE *session)
{
    (void)flags, (void)application, (void)notify;
    if (slot != SLOT)
        return CKR_SLOT_ID_INVALID;
    *session = atomic_fetch_add(&next_session, 1);
    return CKR_OK;
}

static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    (void)session;
    *info = (CK_SESSION_INFO){SLOT, CKS_RW_USER_FUNCTIONS, CKF_SERIAL_SESSION | CKF_RW_SESSION, 0};
    return CKR_OK;
}

static CK_RV close_session(CK_SESSION_HANDLE session)
{
    (void)session;
    return CKR_OK;
}

static CK_RV close_all_sessions(CK_SLOT_ID slot)
{
    return slot == SLOT ? CKR_OK : CKR_SLOT_ID_INVALID;
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG len)
{
    (void)session, (void)user, (void)pin, (void)len;
    return CKR_OK;
}

static CK_RV generate_random(CK_SESSION_HANDLE session, CK_BYTE *bytes, CK_ULONG count)
{
    struct timespec millisecond = {0, MILLISECOND};
    (void)session;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &millisecond, NULL);
    memset(bytes, 0, count);
    return CKR_OK;
}

static void fill(CK_FUNCTION_LIST *list)
{
    fill_single(list);
    list->C_GetTokenInfo = get_token_info;
    list->C_GetMechanismList = get_mechanism_list;
    list->C_OpenSession = open_session;
    list->C_CloseSession = close_session;
    list->C_CloseAllSessions = close_all_sessions;
    list->C_GetSessionInfo = get_session_info;
    list->C_Login = login;
    list->C_Logout = close_session;
    list->C_GenerateRandom = generate_random;
}
