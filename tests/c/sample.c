/*
 * Small libraries for the tests of loading. Which one is chosen by a macro; what a provider among them does is chosen by
 * the string it is initialised with, and by the environment where that comes too late.
 */
#include <stdlib.h>
#include <string.h>

#include "cryptoki.h"

#define EXPORT __attribute__((visibility("default")))

#if defined SAMPLE_ALMOST

/* Names that only look like it. */
EXPORT int C_GetFunctionLists = 1;
EXPORT int my_C_GetFunctionList = 2;

#elif defined SAMPLE_USER

/* Needs it, and does not have it. */
EXPORT CK_RV use(CK_FUNCTION_LIST **list);

EXPORT CK_RV use(CK_FUNCTION_LIST **list)
{
    return C_GetFunctionList(list);
}

#else

#ifdef SAMPLE_BROKEN /* looks fit, and cannot be loaded */
extern int nowhere_to_be_found(void);
EXPORT int need(void);

EXPORT int need(void)
{
    return nowhere_to_be_found();
}
#endif

static int is_mode(const char *mode)
{
    const char *given = getenv("SAMPLE");
    return given && strcmp(given, mode) == 0;
}

/* How it was initialised: the last call's arguments, and how many calls there were. */
EXPORT CK_C_INITIALIZE_ARGS sample_args;
EXPORT int sample_calls, sample_null;

static CK_RV initialize(void *arguments)
{
    const CK_C_INITIALIZE_ARGS *args = arguments;
    const char *reserved = args ? args->pReserved : NULL;
    sample_calls++;
    sample_null = args == NULL;
    sample_args = args ? *args : (CK_C_INITIALIZE_ARGS){0};
    if (reserved && !strcmp(reserved, "fail"))
        return CKR_DEVICE_ERROR;
    if (is_mode("no-threads") && args && (args->flags & CKF_OS_LOCKING_OK))
        return CKR_CANT_LOCK;
    return CKR_OK;
}

/* Which list a call went to. */
static CK_RV logout_2_40(CK_SESSION_HANDLE session)
{
    (void)session;
    return 0x240;
}

static CK_RV logout_3_0(CK_SESSION_HANDLE session)
{
    (void)session;
    return 0x300;
}

static CK_RV logout_3_2(CK_SESSION_HANDLE session)
{
    (void)session;
    return 0x320;
}

static CK_RV cancel(CK_SESSION_HANDLE session, CK_FLAGS flags)
{
    (void)session, (void)flags;
    return 0x300;
}

static CK_RV verify(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG len)
{
    (void)session, (void)data, (void)len;
    return 0x320;
}

static CK_FUNCTION_LIST list = {.version = {2, 40}, .C_Initialize = initialize, .C_Logout = logout_2_40};
static CK_FUNCTION_LIST_3_0 list_3_0 = {
    .version = {3, 0}, .C_Initialize = initialize, .C_Logout = logout_3_0, .C_SessionCancel = cancel,
};
static CK_FUNCTION_LIST_3_0 list_3_1 = {
    .version = {3, 1}, .C_Initialize = initialize, .C_Logout = logout_3_0, .C_SessionCancel = cancel,
};
static CK_FUNCTION_LIST_3_2 list_3_2 = {
    .version = {3, 2}, .C_Initialize = initialize, .C_Logout = logout_3_2, .C_SessionCancel = cancel, .C_VerifySignature = verify,
};
static CK_FUNCTION_LIST_3_2 list_with_holes = {.version = {3, 2}, .C_VerifySignature = verify};
static CK_FUNCTION_LIST_3_2 list_4_0 = {.version = {4, 0}, .C_Logout = logout_3_2, .C_VerifySignature = verify};

EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST **ret_list)
{
    static CK_FUNCTION_LIST empty = {.version = {2, 20}};
    *ret_list = is_mode("null") ? NULL : is_mode("empty") ? &empty : &list;
    return is_mode("error") ? CKR_FUNCTION_FAILED : CKR_OK;
}

static CK_UTF8CHAR standard[] = "PKCS 11", vendor[] = "Vendor Sample";

/* What each mode has to offer, the default first; `lies` gives the first whatever is asked for. */
static const struct offer {
    const char *mode;
    int lies;
    CK_INTERFACE interfaces[3];
} offers[] = {
    {"3.0", 0, {{standard, &list_3_0, 0}}},
    {"3.1", 0, {{standard, &list_3_1, 0}}},
    {"3.2", 0, {{standard, &list_3_2, 0}, {standard, &list_3_0, 0}}},
    {"old default", 0, {{standard, &list, 0}, {standard, &list_3_0, 0}, {standard, &list_3_2, 0}}},
    {"holes", 0, {{standard, &list_with_holes, 0}}},
    {"3.0 for all", 1, {{standard, &list_3_0, 0}}},
    {"2.40 for all", 1, {{standard, &list, 0}}},
    {"4.0 for all", 1, {{standard, &list_4_0, 0}}},
    {"vendor's for all", 1, {{vendor, &list_3_2, 0}}},
    {"nameless", 1, {{NULL, &list_3_2, 0}}},
    {"hollow", 1, {{standard, NULL, 0}}},
};

static int fits(const CK_INTERFACE *interface, const CK_VERSION *version)
{
    if (!interface->pFunctionList)
        return 0;
    return !version || !memcmp(interface->pFunctionList, version, sizeof *version);
}

/* Lies: nothing else that this library says of its interfaces is true. */
EXPORT CK_RV C_GetInterfaceList(CK_INTERFACE *interfaces, CK_ULONG *count)
{
    for (CK_ULONG i = 0; interfaces && i < *count; i++)
        interfaces[i] = (CK_INTERFACE){standard, &list_3_2, 0};
    *count = 3;
    return CKR_OK;
}

EXPORT CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **ret_interface, CK_FLAGS flags)
{
    if (is_mode("nothing"))
        return CKR_OK;
    if (is_mode("0x54") || strcmp((const char *)name, "PKCS 11") != 0 || flags != 0)
        return CKR_FUNCTION_NOT_SUPPORTED;
    for (size_t i = 0; i < sizeof offers / sizeof *offers; i++)
        for (int j = 0; is_mode(offers[i].mode) && j < 3; j++)
            if (offers[i].lies || fits(&offers[i].interfaces[j], version)) {
                *ret_interface = (CK_INTERFACE *)&offers[i].interfaces[j];
                return CKR_OK;
            }
    return CKR_ARGUMENTS_BAD;
}

#endif
