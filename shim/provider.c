#include "provider.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "elf_symbols.h"
#include "invoke.h"

/* NSS's softokn reads a string here, and one more pointer after the structure. */
struct initialize_args {
    CK_C_INITIALIZE_ARGS args;
    void *after;
};

static CK_RV initialize(struct provider *provider, const char *reserved)
{
    struct initialize_args with = {
        .args = {.flags = CKF_OS_LOCKING_OK, .pReserved = (void *)(uintptr_t)reserved},
    };
    CK_RV rv = provider->v2->C_Initialize ? provider->v2->C_Initialize(&with.args) : CKR_FUNCTION_NOT_SUPPORTED;
    if (rv != CKR_CANT_LOCK)
        return rv;
    provider->serialize = true;
    return provider->v2->C_Initialize(reserved ? (with.args.flags = 0, &with.args) : NULL);
}

static void *find_interface(CK_RV (*get)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS), CK_BYTE minor)
{
    static CK_UTF8CHAR name[] = "PKCS 11";
    CK_VERSION wanted = {3, minor};
    CK_INTERFACE *interface = NULL;
    if (get(name, &wanted, &interface, 0) != CKR_OK || !interface || !interface->pFunctionList)
        return NULL;
    const CK_VERSION *has = interface->pFunctionList;
    return has->major == 3 && has->minor >= minor ? interface->pFunctionList : NULL;
}

/* A provider whose C_GetInterface is missing or broken is used by C_GetFunctionList alone. */
static void find_newer_lists(struct provider *provider, void *library)
{
    CK_RV (*get)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);
    void *symbol = dlsym(library, "C_GetInterface");
    if (!symbol)
        return;
    memcpy(&get, &symbol, sizeof get);
    provider->v32 = find_interface(get, 2);
    provider->v3 = provider->v32 ? (void *)provider->v32 : find_interface(get, 0);
    if (provider->v3)
        provider->version = provider->v3->version;
}

static CK_RV find_lists(struct provider *provider, void *library)
{
    CK_RV (*get)(CK_FUNCTION_LIST **);
    void *symbol = dlsym(library, "C_GetFunctionList");
    if (!symbol)
        return CKR_GENERAL_ERROR;
    memcpy(&get, &symbol, sizeof get);
    CK_RV rv = get(&provider->v2);
    if (rv != CKR_OK || !provider->v2)
        return rv ? rv : CKR_GENERAL_ERROR;
    provider->version = provider->v2->version;
    find_newer_lists(provider, library);
    return CKR_OK;
}

CK_RV provider_load(struct provider *provider, const char *path, const char *reserved, char *ret_error, size_t size)
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
    if (rv != CKR_OK) {
        snprintf(ret_error, size, "%s: C_GetFunctionList answered 0x%lx", path, (unsigned long)rv);
        return rv;
    }
    rv = initialize(provider, reserved);
    if (rv != CKR_OK)
        snprintf(ret_error, size, "%s: C_Initialize answered 0x%lx", path, (unsigned long)rv);
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
