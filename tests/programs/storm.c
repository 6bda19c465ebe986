/*
 * storm MODULE CHILDREN: forks children, one after the other, while four threads are inside calls. Every child must find
 * the same slot, open a session and make calls with it within its time.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

enum { THREADS = 4, PATIENCE_S = 20, CALLS = 3 };

static CK_FUNCTION_LIST *list;
static atomic_bool done;
static atomic_ulong calls;

static void *call_on(void *unused)
{
    CK_SESSION_HANDLE session = open_session(list);
    CK_SESSION_INFO info;
    while (!atomic_load(&done)) {
        check(list->C_GetSessionInfo(session, &info) == CKR_OK, "C_GetSessionInfo of a thread");
        atomic_fetch_add(&calls, 1);
    }
    return unused;
}

static _Noreturn void live_as_child(CK_SLOT_ID slot, CK_SESSION_HANDLE inherited)
{
    CK_SESSION_INFO info;
    CK_BYTE random[8];
    alarm(PATIENCE_S);
    check(list->C_GetSessionInfo(inherited, &info) == CKR_SESSION_HANDLE_INVALID, "an inherited session is refused");
    check(first_slot(list) == slot, "the slot is the same");
    CK_SESSION_HANDLE session = open_session(list);
    check(session != inherited, "the session has a number of its own");
    for (int i = 0; i < CALLS; i++)
        check(list->C_GenerateRandom(session, random, sizeof random) == CKR_OK, "C_GenerateRandom");
    _exit(0);
}

/* At least one call ends between two forks: the threads are really at it. */
static void await_calls(void)
{
    unsigned long before = atomic_load(&calls);
    while (atomic_load(&calls) == before)
        sched_yield();
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    int good = 0;
    check(argc == 3, "usage");
    list = load(argv[1]);
    CK_SESSION_HANDLE session = begin(list);
    CK_SLOT_ID slot = first_slot(list);
    for (int i = 0; i < THREADS; i++)
        check(pthread_create(&threads[i], NULL, call_on, NULL) == 0, "pthread_create");
    for (int i = atoi(argv[2]); i > 0; i--) {
        int status;
        await_calls();
        pid_t pid = fork();
        if (pid == 0)
            live_as_child(slot, session);
        good += waitpid(pid, &status, 0) == pid && status == 0;
    }
    atomic_store(&done, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%d\n", good);
    return list->C_Finalize(NULL) == CKR_OK ? 0 : 1;
}
