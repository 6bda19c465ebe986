/*
 * interrupted MODULE MODE COUNT: COUNT times, a thread is interrupted by a signal within a long call, and its handler forks. Parent and child both come back into the call. The parent's must be answered as if nothing had been; the child's ends with an
 * error or was not interrupted, and the child can go on. MODE is what the module says of fork: reinit or inherit.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

enum { PATIENCE_S = 20, MANY = 8000000 };

static CK_FUNCTION_LIST *list;
static pthread_t caller;
static volatile sig_atomic_t forks, wanted;
static volatile pid_t child = -1;
static atomic_ulong begun, rounds;
static atomic_bool done;

static void fork_here(int signal)
{
    (void)signal;
    if (forks >= wanted)
        return;
    forks = forks + 1;
    child = fork();
    if (child == 0)
        alarm(PATIENCE_S);
}

/* At another moment of the call in each round, while it waits for its answer or reads it. */
static void *interrupt(void *unused)
{
    for (unsigned long round = 0; !atomic_load(&done);) {
        if (atomic_load(&begun) == round)
            continue;
        round = atomic_load(&begun);
        nanosleep(&(struct timespec){.tv_nsec = 500000 + (long)(round * 7919 % 5000) * 1000}, NULL);
        pthread_kill(caller, SIGUSR1);
        while (!atomic_load(&done) && atomic_load(&rounds) < round)
            sched_yield();
    }
    return unused;
}

static _Noreturn void go_on(CK_SESSION_HANDLE inherited, CK_RV expected)
{
    CK_SESSION_INFO info;
    check(list->C_GetSessionInfo(inherited, &info) == expected, "an inherited session");
    CK_SESSION_HANDLE session = open_session(list);
    check(list->C_GetSessionInfo(session, &info) == CKR_OK, "a session of the child's own");
    _exit(0);
}

int main(int argc, char **argv)
{
    static CK_BYTE random[MANY];
    struct sigaction action = {.sa_handler = fork_here, .sa_flags = SA_RESTART};
    pthread_t thread;
    int status, good = 0;
    check(argc == 4, "usage");
    list = load(argv[1]);
    CK_RV expected = strcmp(argv[2], "inherit") ? CKR_SESSION_HANDLE_INVALID : CKR_OK;
    CK_SESSION_HANDLE session = begin(list);
    caller = pthread_self();
    sigaction(SIGUSR1, &action, NULL);
    check(pthread_create(&thread, NULL, interrupt, NULL) == 0, "pthread_create");
    for (int i = 0; i < atoi(argv[3]); i++) {
        child = -1;
        wanted = wanted + 1;
        atomic_fetch_add(&begun, 1);
        while (child == -1) {
            CK_RV rv = list->C_GenerateRandom(session, random, MANY);
            if (child == 0)
                go_on(session, expected);
            check(rv == CKR_OK, "an interrupted call of the parent's");
        }
        good += waitpid(child, &status, 0) == child && status == 0;
        atomic_fetch_add(&rounds, 1);
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    printf("%d\n", good);
    return 0;
}
