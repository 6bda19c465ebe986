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

static CK_FUNCTION_LIST list = {.version = {2, 40}, .C_Initialize = initialize};
static CK_FUNCTION_LIST_3_0 list_3_0 = {.version = {3, 1}, .C_Initialize = initialize};
static CK_FUNCTION_LIST_3_2 list_3_2 = {.version = {3, 2}, .C_Initialize = initialize};

EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST **ret_list)
{
    static CK_FUNCTION_LIST empty = {.version = {2, 20}};
    *ret_list = is_mode("null") ? NULL : is_mode("empty") ? &empty : &list;
    return is_mode("error") ? CKR_FUNCTION_FAILED : CKR_OK;
}

EXPORT CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **ret_interface, CK_FLAGS flags)
{
    static CK_INTERFACE interface_3_0 = {NULL, &list_3_0, 0}, interface_3_2 = {NULL, &list_3_2, 0}, hollow;
    (void)name, (void)flags;
    if (is_mode("3.2") && version->minor == 2)
        *ret_interface = &interface_3_2;
    else if (is_mode("3.0") || is_mode("3.0-for-all"))
        *ret_interface = &interface_3_0;
    else if (is_mode("hollow"))
        *ret_interface = &hollow;
    else if (!is_mode("nothing"))
        return CKR_ARGUMENTS_BAD;
    return is_mode("3.0") && version->minor == 2 ? CKR_ARGUMENTS_BAD : CKR_OK;
}

#endif
