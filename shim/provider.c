#include "provider.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "code.h"
#include "elf_symbols.h"
#include "invoke.h"

/* NSS's softokn reads a string here, and one more pointer after the structure. */
struct initialize_args {
    CK_C_INITIALIZE_ARGS args;
    void *after;
};

/* With locks of the system; without any, and one call at a time, where that was asked for or is all the provider can. */
static CK_RV initialize(struct provider *provider, const char *reserved)
{
    struct initialize_args with = {
        .args = {.flags = CKF_OS_LOCKING_OK, .pReserved = (void *)(uintptr_t)reserved},
    };
    if (!provider->list.C_Initialize)
        return CKR_FUNCTION_NOT_SUPPORTED;
    CK_RV rv = provider->serialize ? CKR_CANT_LOCK : provider->list.C_Initialize(&with.args);
    if (rv != CKR_CANT_LOCK)
        return rv;
    provider->serialize = true;
    with.args.flags = 0;
    return provider->list.C_Initialize(reserved ? &with.args : NULL);
}

/* ---- its functions ---- */

typedef CK_RV (*entry)(void);
typedef CK_RV (*get_interface)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);

enum { LIST_HEAD = offsetof(CK_FUNCTION_LIST, C_Initialize) };

#define ENTRIES(list) ((sizeof(list) - LIST_HEAD) / sizeof(entry))

/* As many entries as its version has, and not one more. What is there already is newer. */
static void adopt(struct provider *provider, const void *list, size_t count)
{
    uint8_t *ours = (uint8_t *)&provider->list + LIST_HEAD;
    const uint8_t *theirs = (const uint8_t *)list + LIST_HEAD;
    static const entry none;
    for (size_t at = 0; at < count * sizeof none; at += sizeof none)
        if (!memcmp(ours + at, &none, sizeof none))
            memcpy(ours + at, theirs + at, sizeof none);
}

/* A list of version 3, NULL if the provider has none to give for that version; NULL asks for its default. */
static const CK_VERSION *ask(get_interface get, const CK_VERSION *wanted)
{
    static const char standard[] = "PKCS 11";
    CK_UTF8CHAR name[sizeof standard];
    CK_VERSION version = wanted ? *wanted : (CK_VERSION){0};
    CK_INTERFACE *found = NULL;
    memcpy(name, standard, sizeof name);
    if (get(name, wanted ? &version : NULL, &found, 0) != CKR_OK || !found || !found->pFunctionList)
        return NULL;
    if (!found->pInterfaceName || strcmp((const char *)found->pInterfaceName, standard) != 0)
        return NULL;
    const CK_VERSION *has = found->pFunctionList;
    return has->major == 3 ? has : NULL;
}

/*
 * The newest of its lists. Asked for by version, since the default may be an older one; and believed by the version that
 * stands in the list itself, whatever was asked for.
 */
static const CK_VERSION *find_newest(get_interface get)
{
    static const CK_VERSION wanted[] = {{3, 2}, {3, 1}, {3, 0}};
    const CK_VERSION *best = ask(get, NULL);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const CK_VERSION *found = ask(get, &wanted[i]);
        if (found && (!best || found->minor > best->minor))
            best = found;
    }
    return best;
}

/* A provider whose C_GetInterface is missing or broken is used by C_GetFunctionList alone. */
static void adopt_interfaces(struct provider *provider, void *library)
{
    get_interface get;
    void *symbol = dlsym(library, "C_GetInterface");
    if (!symbol)
        return;
    memcpy(&get, &symbol, sizeof get);
    const CK_VERSION *newest = find_newest(get);
    if (!newest)
        return;
    provider->version = *newest;
    adopt(provider, newest, newest->minor < 2 ? ENTRIES(CK_FUNCTION_LIST_3_0) : ENTRIES(CK_FUNCTION_LIST_3_2));
}

static CK_RV find_lists(struct provider *provider, void *library)
{
    CK_RV (*get)(CK_FUNCTION_LIST **);
    CK_FUNCTION_LIST *list = NULL;
    void *symbol = dlsym(library, "C_GetFunctionList");
    if (!symbol)
        return CKR_GENERAL_ERROR;
    memcpy(&get, &symbol, sizeof get);
    CK_RV rv = get(&list);
    if (rv != CKR_OK || !list)
        return rv ? rv : CKR_GENERAL_ERROR;
    provider->version = list->version;
    adopt_interfaces(provider, library);
    adopt(provider, list, ENTRIES(CK_FUNCTION_LIST));
    return CKR_OK;
}

CK_RV provider_load(struct provider *provider, const char *path, char *ret_error, size_t size)
{
    const char *unfit = elf_lacks_symbol(path, "C_GetFunctionList");
    if (unfit) {
        snprintf(ret_error, size, "%s: %s", path, unfit);
        return CKR_GENERAL_ERROR;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(ret_error, size, "%s", dlerror());
        return CKR_GENERAL_ERROR;
    }
    CK_RV rv = find_lists(provider, library);
    if (rv != CKR_OK)
        snprintf(ret_error, size, "%s: C_GetFunctionList answered %s", path, code_name(rv, (char[CODE_ROOM]){0}));
    return rv;
}

CK_RV provider_initialize(struct provider *provider, const char *path, const char *reserved, char *ret_error, size_t size)
{
    CK_RV rv = initialize(provider, reserved);
    if (rv != CKR_OK)
        snprintf(ret_error, size, "%s: C_Initialize answered %s", path, code_name(rv, (char[CODE_ROOM]){0}));
    return rv;
}

CK_RV provider_call(struct provider *provider, unsigned fn, uintptr_t *words)
{
    if (!provider->serialize)
        return invoke(provider, fn, words);
    pthread_mutex_lock(&provider->turn);
    CK_RV rv = invoke(provider, fn, words);
    pthread_mutex_unlock(&provider->turn);
    return rv;
}
