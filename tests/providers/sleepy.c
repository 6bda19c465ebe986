/*
 * A provider whose C_GenerateRandom takes a millisecond and no processor time, as one operation of
 * a card or a network HSM does. For the benchmark: it shows whether calls of many threads run at the same time.
 * The bytes it makes are zeros: it is of no other use.
 *
 *     SLEEPY_SLOTS=N        slots it has, numbered from 0, each with a token (1)
 *     SLEEPY_LABEL=LABEL    of these tokens (sleepy)
 *     SLEEPY_LIST=N         microseconds that C_GetSlotList takes (0)
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cryptoki.h"
#include "frame.h"

enum { SLOT = 0, MICROSECOND = 1000, MILLISECOND = 1000000 };
#define NAME "sleepy"
#include "single.h"

static atomic_ulong next_session = 1;
static CK_ULONG slot_count = 1;
static long list_us;
static const char *label = NAME;

static CK_RV initialize(void *args)
{
    const char *slots = getenv("SLEEPY_SLOTS"), *list = getenv("SLEEPY_LIST"), *name = getenv("SLEEPY_LABEL");
    (void)args;
    slot_count = slots ? strtoul(slots, NULL, 10) : slot_count;
    list_us = list ? strtol(list, NULL, 10) : list_us;
    label = name && strlen(name) <= sizeof ((CK_TOKEN_INFO *)NULL)->label ? name : label;
    return CKR_OK;
}

static void sleep_for(long nanoseconds)
{
    struct timespec time = {.tv_nsec = nanoseconds};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

static CK_RV get_all_slots(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    CK_ULONG room = *count;
    (void)present;
    if (list_us)
        sleep_for(list_us * MICROSECOND);
    *count = slot_count;
    if (slots && room < slot_count)
        return CKR_BUFFER_TOO_SMALL;
    for (CK_ULONG i = 0; slots && i < slot_count; i++)
        slots[i] = i;
    return CKR_OK;
}

static CK_RV get_any_slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    return slot < slot_count ? get_slot_info(SLOT, info) : CKR_SLOT_ID_INVALID;
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    if (slot >= slot_count)
        return CKR_SLOT_ID_INVALID;
    memset(info, 0, sizeof *info);
    pad(info->label, sizeof info->label, label);
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
    return slot < slot_count ? CKR_OK : CKR_SLOT_ID_INVALID;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
                          CK_SESSION_HANDLE *session)
{
    (void)flags, (void)application, (void)notify;
    if (slot >= slot_count)
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
    return slot < slot_count ? CKR_OK : CKR_SLOT_ID_INVALID;
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG len)
{
    (void)session, (void)user, (void)pin, (void)len;
    return CKR_OK;
}

static CK_RV generate_random(CK_SESSION_HANDLE session, CK_BYTE *bytes, CK_ULONG count)
{
    (void)session;
    sleep_for(MILLISECOND);
    memset(bytes, 0, count);
    return CKR_OK;
}

static void fill(CK_FUNCTION_LIST *list)
{
    fill_single(list);
    list->C_Initialize = initialize;
    list->C_GetSlotList = get_all_slots;
    list->C_GetSlotInfo = get_any_slot_info;
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
