/* What the programs of the tests have in common: the shim, loaded, and what must not fail. */
#ifndef LOAD_H
#define LOAD_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cryptoki.h"

/* Says where it was and ends the program. */
static inline void check(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "failed: %s\n", what);
    exit(1);
}

static inline CK_FUNCTION_LIST *load(const char *path)
{
    CK_FUNCTION_LIST *list;
    CK_RV (*get)(CK_FUNCTION_LIST **);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    check(library != NULL, path);
    void *symbol = dlsym(library, "C_GetFunctionList");
    check(symbol != NULL, "C_GetFunctionList");
    memcpy(&get, &symbol, sizeof get);
    check(get(&list) == CKR_OK, "C_GetFunctionList");
    return list;
}

static inline CK_SLOT_ID first_slot(CK_FUNCTION_LIST *list)
{
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    check(list->C_GetSlotList(1, slots, &count) == CKR_OK && count > 0, "C_GetSlotList");
    return slots[0];
}

static inline CK_SESSION_HANDLE open_session(CK_FUNCTION_LIST *list)
{
    CK_SESSION_HANDLE session;
    check(list->C_OpenSession(first_slot(list), CKF_SERIAL_SESSION, NULL, NULL, &session) == CKR_OK, "C_OpenSession");
    return session;
}

static inline CK_SESSION_HANDLE begin(CK_FUNCTION_LIST *list)
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    check(list->C_Initialize(&args) == CKR_OK, "C_Initialize");
    return open_session(list);
}

#endif
