/*
 * storm MODULE MODE CHILDREN: forks children while eight threads are inside calls of every kind, and prints how many of them did
 * what they should within their time. MODE is what the module says of fork: reinit or inherit.
 *
 * Children are made in five ways, and are of four sorts: they end at once, end through the exit handlers, call C_Finalize, or use all
 * there is. At the end no descriptor is left.
 */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

enum { PATIENCE_S = 20, CALLS = 3 };

static CK_FUNCTION_LIST *list;
static CK_SLOT_ID slot;
static bool inherits;
static atomic_bool done;
static atomic_ulong calls;

/* ---- the parent's threads ---- */

static CK_RV ask_session(CK_SESSION_HANDLE session)
{
    CK_SESSION_INFO info;
    return list->C_GetSessionInfo(session, &info);
}

static CK_RV ask_random(CK_SESSION_HANDLE session)
{
    CK_BYTE random[8];
    return list->C_GenerateRandom(session, random, sizeof random);
}

static CK_RV ask_much(CK_SESSION_HANDLE session)
{
    static CK_BYTE random[8][100000];
    return list->C_GenerateRandom(session, random[session % 8], sizeof *random);
}

static CK_RV ask_slots(CK_SESSION_HANDLE session)
{
    (void)session;
    return first_slot(list) == slot ? CKR_OK : CKR_SLOT_ID_INVALID;
}

static CK_RV ask_token(CK_SESSION_HANDLE session)
{
    CK_TOKEN_INFO info;
    (void)session;
    return list->C_GetTokenInfo(slot, &info);
}

static CK_RV ask_info(CK_SESSION_HANDLE session)
{
    CK_INFO info;
    (void)session;
    return list->C_GetInfo(&info);
}

static CK_RV ask_events(CK_SESSION_HANDLE session)
{
    CK_SLOT_ID event;
    CK_RV rv = list->C_WaitForSlotEvent(CKF_DONT_BLOCK, &event, NULL);
    return ask_session(session) == CKR_OK && (rv == CKR_NO_EVENT || rv == CKR_FUNCTION_NOT_SUPPORTED) ? CKR_OK : rv;
}

static CK_RV open_and_close(CK_SESSION_HANDLE session)
{
    (void)session;
    return list->C_CloseSession(open_session(list));
}

static CK_RV (*const kinds[])(CK_SESSION_HANDLE) = {
    ask_session, ask_random, ask_much, ask_slots, ask_token, ask_info, ask_events, open_and_close,
};

enum { THREADS = sizeof kinds / sizeof *kinds };

static void *call_on(void *argument)
{
    CK_RV (*kind)(CK_SESSION_HANDLE) = kinds[(uintptr_t)argument];
    CK_SESSION_HANDLE session = open_session(list);
    while (!atomic_load(&done)) {
        check(kind(session) == CKR_OK, "a call of the parent's");
        atomic_fetch_add(&calls, 1);
    }
    return NULL;
}

/* ---- children ---- */

static _Noreturn void use_all(CK_SESSION_HANDLE inherited)
{
    CK_RV expected = inherits ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
    check(ask_session(inherited) == expected, "an inherited session");
    check(first_slot(list) == slot, "the slot is the same");
    CK_SESSION_HANDLE session = open_session(list);
    check(session != inherited, "the session has a number of its own");
    for (int i = 0; i < CALLS; i++)
        check(ask_random(session) == CKR_OK && ask_random(inherited) == expected, "C_GenerateRandom");
    _exit(0);
}

enum sort { SILENT, EXIT, FINALIZE, USE, SORTS };

static _Noreturn void live_as(enum sort sort, CK_SESSION_HANDLE inherited)
{
    alarm(PATIENCE_S);
    if (sort == EXIT)
        exit(0);
    if (sort == FINALIZE)
        check(list->C_Finalize(NULL) == CKR_OK, "C_Finalize");
    if (sort == USE)
        use_all(inherited);
    _exit(0);
}

static bool ended_well(pid_t pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0;
}

static pid_t by_fork(enum sort sort, CK_SESSION_HANDLE session)
{
    pid_t pid = fork();
    if (pid == 0)
        live_as(sort, session);
    return pid;
}

static pid_t by_bare_fork(enum sort sort, CK_SESSION_HANDLE session)
{
    pid_t pid = _Fork();
    if (pid == 0)
        live_as(sort, session);
    return pid;
}

static pid_t by_clone(enum sort sort, CK_SESSION_HANDLE session)
{
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        live_as(sort, session);
    return pid;
}

static pid_t by_two_forks(enum sort sort, CK_SESSION_HANDLE session)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(ended_well(by_fork(sort, session)) ? 0 : 1);
    return pid;
}

static pid_t by_vfork(enum sort sort, CK_SESSION_HANDLE session)
{
    (void)sort, (void)session;
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(127);
    }
    return pid;
}

static pid_t (*const ways[])(enum sort, CK_SESSION_HANDLE) = {by_fork, by_bare_fork, by_clone, by_two_forks, by_vfork};

enum { WAYS = sizeof ways / sizeof *ways };

/* ---- */

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
    int good = 0, before = count_descriptors();
    check(argc == 4, "usage");
    list = load(argv[1]);
    inherits = !strcmp(argv[2], "inherit");
    CK_SESSION_HANDLE session = begin(list);
    slot = first_slot(list);
    for (int i = 0; i < THREADS; i++)
        check(pthread_create(&threads[i], NULL, call_on, (void *)(uintptr_t)i) == 0, "pthread_create");
    for (int i = 0; i < atoi(argv[3]); i++) {
        await_calls();
        good += ended_well(ways[i % WAYS](i / WAYS % SORTS, session));
    }
    atomic_store(&done, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%d\n", good);
    check(list->C_Finalize(NULL) == CKR_OK, "C_Finalize");
    check(count_descriptors() == before, "no descriptor is left");
    return 0;
}
