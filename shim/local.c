/* The functions that never cross the wire, because they are about this library itself. */
#include <string.h>

#include "call.h"
#include "entries.h"
#include "root.h"
#include "selection.h"
#include "state.h"

/* ---- C_Initialize, C_Finalize (section 5.4 of the standard) ---- */

static int count_callbacks(const CK_C_INITIALIZE_ARGS *args)
{
    return (args->CreateMutex != NULL) + (args->DestroyMutex != NULL) + (args->LockMutex != NULL) + (args->UnlockMutex != NULL);
}

/* The standard has pReserved be NULL; here it may say which module is wanted. */
static CK_RV read_selection(const CK_C_INITIALIZE_ARGS *args, struct selection *ret_selection)
{
    const char *reserved = args ? args->pReserved : NULL;
    if (selection_read(ret_selection, reserved) == 0)
        return CKR_OK;
    return reserved ? CKR_ARGUMENTS_BAD : CKR_GENERAL_ERROR;
}

/*
 * We lock with what the system has. A program that offers only mutexes of its own does not allow that: CKR_CANT_LOCK.
 * CKF_LIBRARY_CANT_CREATE_OS_THREADS is no hindrance: this library has no threads.
 */
static CK_RV check_arguments(const CK_C_INITIALIZE_ARGS *args, struct selection *ret_selection)
{
    int callbacks = args ? count_callbacks(args) : 0;
    if (callbacks != 0 && callbacks != 4)
        return CKR_ARGUMENTS_BAD;
    CK_RV rv = read_selection(args, ret_selection);
    if (rv != CKR_OK)
        return rv;
    return callbacks && !(args->flags & CKF_OS_LOCKING_OK) ? CKR_CANT_LOCK : CKR_OK;
}

EXPORT CK_RV C_Initialize(void *pInitArgs)
{
    struct selection selection;
    CK_RV rv = check_arguments(pInitArgs, &selection);
    return rv == CKR_OK ? state_initialize(&selection) : rv;
}

EXPORT CK_RV C_Finalize(void *pReserved)
{
    return pReserved ? CKR_ARGUMENTS_BAD : state_finalize();
}

/* ---- function lists and interfaces ---- */

EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST **ppFunctionList)
{
    if (!ppFunctionList)
        return CKR_ARGUMENTS_BAD;
    *ppFunctionList = (CK_FUNCTION_LIST *)(uintptr_t)&function_list_2_40;
    return CKR_OK;
}

static CK_UTF8CHAR standard_name[] = "PKCS 11";

/*
 * The first is the default. CKF_INTERFACE_FORK_SAFE is not among the flags: it promises a child copies of its parent's
 * sessions, and a child gets new ones of its own.
 */
static CK_INTERFACE interfaces[] = {
    {standard_name, (void *)(uintptr_t)&function_list_3_2, 0},
    {standard_name, (void *)(uintptr_t)&function_list_3_0, 0},
    {standard_name, (void *)(uintptr_t)&function_list_2_40, 0},
};

enum { INTERFACES = sizeof interfaces / sizeof *interfaces };

EXPORT CK_RV C_GetInterfaceList(CK_INTERFACE *pInterfacesList, CK_ULONG *pulCount)
{
    if (!pulCount)
        return CKR_ARGUMENTS_BAD;
    CK_ULONG room = *pulCount;
    *pulCount = INTERFACES;
    if (!pInterfacesList)
        return CKR_OK;
    if (room < INTERFACES)
        return CKR_BUFFER_TOO_SMALL;
    memcpy(pInterfacesList, interfaces, sizeof interfaces);
    return CKR_OK;
}

static int matches(const CK_INTERFACE *interface, const CK_UTF8CHAR *name, const CK_VERSION *version, CK_FLAGS flags)
{
    const CK_VERSION *has = interface->pFunctionList;
    return (!name || !strcmp((const char *)name, (const char *)interface->pInterfaceName)) &&
           (!version || (version->major == has->major && version->minor == has->minor)) &&
           (interface->flags & flags) == flags;
}

EXPORT CK_RV C_GetInterface(CK_UTF8CHAR *pInterfaceName, CK_VERSION *pVersion, CK_INTERFACE **ppInterface, CK_FLAGS flags)
{
    for (unsigned i = 0; ppInterface && i < INTERFACES; i++)
        if (matches(&interfaces[i], pInterfaceName, pVersion, flags)) {
            *ppInterface = &interfaces[i];
            return CKR_OK;
        }
    return CKR_ARGUMENTS_BAD;
}

/*
 * ---- asynchronous sessions (3.2) ----
 * No session is asynchronous (`without` in specs/functions.toml), so there is never anything to complete, name or join.
 */

static CK_RV not_asynchronous(CK_SESSION_HANDLE session)
{
    struct state *state;
    CK_RV rv = state_enter(&state);
    if (rv != CKR_OK)
        return rv;
    bool known = state_knows_session(state, session);
    state_leave(state);
    return known ? CKR_FUNCTION_NOT_SUPPORTED : CKR_SESSION_HANDLE_INVALID;
}

EXPORT CK_RV C_AsyncComplete(CK_SESSION_HANDLE hSession, CK_UTF8CHAR *pFunctionName, CK_ASYNC_DATA *pResult)
{
    (void)pFunctionName, (void)pResult;
    return not_asynchronous(hSession);
}

EXPORT CK_RV C_AsyncGetID(CK_SESSION_HANDLE hSession, CK_UTF8CHAR *pFunctionName, CK_ULONG *pulID)
{
    (void)pFunctionName, (void)pulID;
    return not_asynchronous(hSession);
}

EXPORT CK_RV C_AsyncJoin(CK_SESSION_HANDLE hSession, CK_UTF8CHAR *pFunctionName, CK_ULONG ulID, CK_BYTE *pData, CK_ULONG ulData)
{
    (void)pFunctionName, (void)ulID, (void)pData, (void)ulData;
    return not_asynchronous(hSession);
}
