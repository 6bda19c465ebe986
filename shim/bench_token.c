/* A library as p11host-bench uses it, and the token in it; failures and times as they are printed. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

enum { LABEL = 32 };

CK_FUNCTION_LIST *p11;

void fail(const char *call, CK_RV rv)
{
    printf("{\"failed\": \"%s\", \"rv\": %lu}\n", call, (unsigned long)rv);
    exit(1);
}

void must(const char *call, CK_RV rv)
{
    if (rv != CKR_OK)
        fail(call, rv);
}

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        fail("calloc", CKR_HOST_MEMORY);
    return memory;
}

/* ---- the library and its token ---- */

static void load_library(const char *path)
{
    CK_C_GetFunctionList get_function_list;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        fail(dlerror(), CKR_GENERAL_ERROR);
    *(void **)&get_function_list = dlsym(library, "C_GetFunctionList");
    if (get_function_list == NULL)
        fail("C_GetFunctionList is missing", CKR_GENERAL_ERROR);
    must("C_GetFunctionList", get_function_list(&p11));
}

CK_ULONG start(const char *path, CK_SLOT_ID slots[MAX_SLOTS])
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    CK_ULONG count = MAX_SLOTS;

    load_library(path);
    must("C_Initialize", p11->C_Initialize(&args));
    must("C_GetSlotList", p11->C_GetSlotList(CK_TRUE, slots, &count));
    return count;
}

static bool has_label(CK_SLOT_ID slot, const char *label)
{
    CK_TOKEN_INFO info;
    CK_UTF8CHAR padded[LABEL];
    size_t len = strlen(label) < LABEL ? strlen(label) : LABEL;

    memset(padded, ' ', LABEL);
    memcpy(padded, label, len);
    return p11->C_GetTokenInfo(slot, &info) == CKR_OK && memcmp(info.label, padded, LABEL) == 0;
}

CK_SLOT_ID start_token(const char *path, const char *label)
{
    CK_SLOT_ID slots[MAX_SLOTS];
    CK_ULONG count = start(path, slots);

    for (CK_ULONG i = 0; i < count; i++)
        if (has_label(slots[i], label))
            return slots[i];
    fail("no slot has a token of this label", CKR_TOKEN_NOT_PRESENT);
    return 0;
}

void log_in(CK_SLOT_ID slot, char *pin)
{
    CK_SESSION_HANDLE session; /* stays open, so that the token stays logged in */
    must("C_OpenSession", p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    must("C_Login", p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)pin, strlen(pin)));
}

/* ---- times ---- */

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

void print_times(int64_t *ns, size_t count)
{
    qsort(ns, count, sizeof *ns, compare);
    printf("{\"median\": %lld, \"p99\": %lld}\n", (long long)ns[count / 2], (long long)ns[count * 99 / 100]);
}
