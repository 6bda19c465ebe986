/*
 * What every small provider has: a list of PKCS#11 2.40 in which every entry is there (section 5.4 of the standard).
 * The provider's own `fill` puts its functions into it.
 */
#ifndef FRAME_H
#define FRAME_H

#include <stddef.h>
#include <string.h>

#include "cryptoki.h"

static void fill(CK_FUNCTION_LIST *list);

static void pad(CK_UTF8CHAR *field, size_t size, const char *text)
{
    memset(field, ' ', size);
    memcpy(field, text, strlen(text));
}

/* Of C_Initialize and C_Finalize. */
static CK_RV nothing_to_do(void *argument)
{
    (void)argument;
    return CKR_OK;
}

/* It looks at no argument, so it may stand for every function. */
static CK_RV not_supported(void)
{
    return CKR_FUNCTION_NOT_SUPPORTED;
}

typedef CK_RV (*entry)(void);

enum { ENTRIES = (sizeof(CK_FUNCTION_LIST) - offsetof(CK_FUNCTION_LIST, C_Initialize)) / sizeof(entry) };

static union {
    CK_FUNCTION_LIST list;
    struct {
        CK_VERSION version;
        entry entries[ENTRIES];
    } all;
} functions = {.all.version = {2, 40}};

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    if (!list)
        return CKR_ARGUMENTS_BAD;
    for (size_t i = 0; i < ENTRIES; i++)
        functions.all.entries[i] = not_supported;
    functions.list.C_Initialize = nothing_to_do;
    functions.list.C_Finalize = nothing_to_do;
    functions.list.C_GetFunctionList = C_GetFunctionList;
    fill(&functions.list);
    *list = &functions.list;
    return CKR_OK;
}

#endif
