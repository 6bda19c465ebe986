/*
 * lives MODULE SLOTS COUNT: begins and ends COUNT lives while four threads call without a pause and two wait for events. Every
 * call is answered: well, with all slots, or by the word that there is no life, or not that one. At the end no descriptor
 * is left.
 */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "load.h"

enum { CALLERS = 4, WAITERS = 2, THREADS = CALLERS + WAITERS, PATIENCE_S = 60 };

static CK_FUNCTION_LIST *list;
static CK_ULONG n_slots;
static atomic_bool done;
static atomic_ulong good;

static void expect(CK_RV rv, const char *what)
{
    if (rv == CKR_OK)
        atomic_fetch_add(&good, 1);
    else if (rv != CKR_CRYPTOKI_NOT_INITIALIZED && rv != CKR_SESSION_HANDLE_INVALID)
        fprintf(stderr, "%s: 0x%lx\n", what, (unsigned long)rv);
}

static void *call_on(void *unused)
{
    CK_SESSION_HANDLE session = 0;
    CK_SESSION_INFO info;
    CK_SLOT_ID slots[16];
    while (!atomic_load(&done)) {
        CK_ULONG count = 16;
        CK_RV listed = list->C_GetSlotList(1, slots, &count);
        expect(listed, "C_GetSlotList");
        if (listed != CKR_OK)
            continue;
        if (count != n_slots)
            fprintf(stderr, "C_GetSlotList: %lu slots\n", (unsigned long)count);
        if (count == 0)
            continue;
        expect(list->C_OpenSession(slots[0], CKF_SERIAL_SESSION, NULL, NULL, &session), "C_OpenSession");
        for (int i = 0; i < 10; i++)
            expect(list->C_GetSessionInfo(session, &info), "C_GetSessionInfo");
    }
    return unused;
}

static void *wait_on(void *unused)
{
    while (!atomic_load(&done)) {
        CK_SLOT_ID slot;
        CK_RV rv = list->C_WaitForSlotEvent(0, &slot, NULL);
        if (rv != CKR_CRYPTOKI_NOT_INITIALIZED)
            fprintf(stderr, "C_WaitForSlotEvent: 0x%lx\n", (unsigned long)rv);
    }
    return unused;
}

static int count_descriptors(void)
{
    int n = 0;
    DIR *directory = opendir("/proc/self/fd");
    check(directory != NULL, "/proc/self/fd");
    while (readdir(directory))
        n++;
    closedir(directory);
    return n;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    check(argc == 4, "usage");
    list = load(argv[1]);
    n_slots = strtoul(argv[2], NULL, 10);
    alarm(PATIENCE_S);
    int before = count_descriptors();
    for (int i = 0; i < THREADS; i++)
        check(pthread_create(&threads[i], NULL, i < CALLERS ? call_on : wait_on, NULL) == 0, "pthread_create");
    for (int i = atoi(argv[3]); i > 0; i--) {
        unsigned long calls = atomic_load(&good);
        check(list->C_Initialize(NULL) == CKR_OK, "C_Initialize");
        while (atomic_load(&good) < calls + CALLERS)
            sched_yield();
        check(list->C_Finalize(NULL) == CKR_OK, "C_Finalize");
    }
    atomic_store(&done, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%d\n", count_descriptors() - before);
    return 0;
}
