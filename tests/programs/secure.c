/*
 * Says whether it was given privileges when it was started, what C_Initialize of the library that it is told to load
 * answers, and how many slots it then has.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <sys/auxv.h>

#include "cryptoki.h"

int main(int argc, char **argv)
{
    CK_FUNCTION_LIST *p11;
    CK_C_GetFunctionList get_list;
    CK_ULONG slots = 0;
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!library)
        return 2;
    *(void **)&get_list = dlsym(library, "C_GetFunctionList");
    if (!get_list || get_list(&p11) != CKR_OK)
        return 3;
    CK_RV rv = p11->C_Initialize(NULL);
    if (rv == CKR_OK && p11->C_GetSlotList(CK_FALSE, NULL, &slots) != CKR_OK)
        return 4;
    printf("%d %lu %lu\n", getauxval(AT_SECURE) != 0, rv, slots);
    return 0;
}
