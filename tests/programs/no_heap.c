/*
 * no_heap MODULE: makes calls of every common shape, and counts what the process takes from the heap meanwhile. Prints the number.
 *
 * Its own malloc stands before that of libc, for everything in the process, the shim included.
 */
#include <stdatomic.h>
#include <stddef.h>

#include "load.h"

#define PUBLIC __attribute__((visibility("default")))

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

static atomic_uint taken;

PUBLIC void *malloc(size_t size)
{
    atomic_fetch_add(&taken, 1);
    return __libc_malloc(size);
}

PUBLIC void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&taken, 1);
    return __libc_calloc(count, size);
}

PUBLIC void *realloc(void *old, size_t size)
{
    atomic_fetch_add(&taken, 1);
    return __libc_realloc(old, size);
}

static CK_BYTE bytes[4096];

/* What they return is the provider's business: each goes there and back. */
static void call_all(CK_FUNCTION_LIST *list, CK_SESSION_HANDLE session)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_BYTE label[16] = {0};
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, label, sizeof label}};
    CK_GCM_PARAMS gcm = {.pIv = bytes, .ulIvLen = 12, .ulIvBits = 96, .pAAD = bytes, .ulAADLen = 20, .ulTagBits = 128};
    CK_RSA_PKCS_PSS_PARAMS pss = {CKM_SHA256, CKG_MGF1_SHA256, 32};
    CK_MECHANISM plain = {CKM_SHA256, NULL, 0}, cipher = {CKM_AES_GCM, &gcm, sizeof gcm}, signing = {CKM_RSA_PKCS_PSS, &pss, sizeof pss};
    CK_SESSION_INFO info;
    CK_OBJECT_HANDLE objects[8];
    CK_ULONG count = 0, len = sizeof bytes / 2;
    list->C_GetSessionInfo(session, &info);
    list->C_GenerateRandom(session, bytes, 64);
    list->C_DigestInit(session, &plain);
    list->C_DigestUpdate(session, bytes, 1000);
    list->C_DigestFinal(session, bytes, &len);
    list->C_SignInit(session, &signing, 1);
    len = sizeof bytes / 2;
    list->C_Sign(session, bytes + 2048, 32, bytes, &len);
    list->C_EncryptInit(session, &cipher, 1);
    len = sizeof bytes / 2;
    list->C_Encrypt(session, bytes + 2048, 100, bytes, &len);
    list->C_FindObjectsInit(session, template, 2);
    list->C_FindObjects(session, objects, 8, &count);
    list->C_FindObjectsFinal(session);
    list->C_GetAttributeValue(session, 1, template, 2);
}

int main(int argc, char **argv)
{
    check(argc == 2, "usage");
    CK_FUNCTION_LIST *list = load(argv[1]);
    CK_SESSION_HANDLE session = begin(list);
    call_all(list, session);
    unsigned before = atomic_load(&taken);
    for (int i = 0; i < 100; i++)
        call_all(list, session);
    unsigned after = atomic_load(&taken);
    check(before > 0, "the malloc of this program is not used");
    printf("%u\n", after - before);
    return list->C_Finalize(NULL) == CKR_OK ? 0 : 1;
}
