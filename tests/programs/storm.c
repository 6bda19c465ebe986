/*
 * storm MODULE MODE CHILDREN [sanitized]: forks children while eight threads are inside calls of every kind, and prints how many of
 * them did what they should within their time. MODE is what the module says of fork: reinit, inherit or strict. With `sanitized`
 * children are made only in ways of which a thread sanitizer takes notice.
 *
 * Children are made in five ways, and are of four sorts: they end at once, end through the exit handlers, call C_Finalize, or use all
 * there is. At the end no descriptor is left.
 */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "desk.h"

enum { PATIENCE_S = 20, MOST_RANDOM = 60000 };

static enum mode { REINIT, INHERIT, STRICT } mode;
static atomic_bool done;
static atomic_ulong calls;

/* ---- kinds of work ---- */

static CK_RV work_sign(const struct desk *desk)
{
    CK_BYTE mac[MOST_BYTES] = {0};
    CK_RV rv = make_mac(desk->session, desk->key, mac);
    check(rv != CKR_OK || !memcmp(mac, desk->mac, sizeof mac), "the same signature");
    return rv;
}

static CK_RV work_digest(const struct desk *desk)
{
    CK_BYTE hash[MOST_BYTES] = {0};
    CK_RV rv = make_hash(desk->session, hash);
    check(rv != CKR_OK || !memcmp(hash, desk->hash, sizeof hash), "the same digest");
    return rv;
}

static CK_RV work_find(const struct desk *desk)
{
    CK_OBJECT_HANDLE found[16];
    CK_ULONG count = 0;
    CK_RV rv = list->C_FindObjectsInit(desk->session, NULL, 0);
    if (rv == CKR_OK)
        rv = list->C_FindObjects(desk->session, found, 16, &count);
    check(rv != CKR_OK || count > 0, "there are objects");
    return rv == CKR_OK ? list->C_FindObjectsFinal(desk->session) : rv;
}

static CK_RV work_session(const struct desk *desk)
{
    CK_SESSION_INFO info;
    CK_BYTE random[8];
    CK_RV rv = list->C_GetSessionInfo(desk->session, &info);
    return rv == CKR_OK ? list->C_GenerateRandom(desk->session, random, sizeof random) : rv;
}

static CK_RV work_random(const struct desk *desk)
{
    static _Thread_local CK_BYTE random[MOST_RANDOM];
    return list->C_GenerateRandom(desk->session, random, sizeof random);
}

static CK_RV work_slots(const struct desk *desk)
{
    CK_MECHANISM_TYPE mechanisms[MOST_MECHANISMS] = {0};
    CK_ULONG count = MOST_MECHANISMS;
    CK_SLOT_INFO info;
    CK_TOKEN_INFO token;
    (void)desk;
    memset(&info, 0, sizeof info); /* what lies between its fields, too */
    check(first_slot(list) == slot, "the same slot");
    must(list->C_GetSlotInfo(slot, &info), "C_GetSlotInfo");
    check(!memcmp(&info, &the_slot, sizeof info), "the same of the slot");
    CK_RV rv = list->C_GetMechanismList(slot, mechanisms, &count);
    check(rv != CKR_OK || !memcmp(mechanisms, the_mechanisms, sizeof mechanisms), "the same mechanisms");
    return rv == CKR_OK ? list->C_GetTokenInfo(slot, &token) : rv;
}

static CK_RV work_library(const struct desk *desk)
{
    CK_SLOT_ID event;
    CK_INFO info;
    (void)desk;
    CK_RV rv = list->C_WaitForSlotEvent(CKF_DONT_BLOCK, &event, NULL);
    return rv == CKR_OK || rv == CKR_NO_EVENT || rv == CKR_FUNCTION_NOT_SUPPORTED ? list->C_GetInfo(&info) : rv;
}

static CK_RV work_open(const struct desk *desk)
{
    struct desk own = new_desk();
    (void)desk;
    check(!all_alike || are_alike(&own, &the_desk), "the same from another session");
    return list->C_CloseSession(own.session);
}

static CK_RV (*const works[])(const struct desk *) = {
    work_sign, work_digest, work_find, work_session, work_random, work_slots, work_library, work_open,
};

enum { WORKS = sizeof works / sizeof *works };

static void work_all(const struct desk *desk)
{
    for (int i = 0; i < WORKS; i++)
        must(works[i](desk), "a call");
}

/* ---- the parent's threads ---- */

static void *work_on(void *argument)
{
    CK_RV (*work)(const struct desk *) = works[(uintptr_t)argument];
    struct desk desk = new_desk();
    while (!atomic_load(&done)) {
        must(work(&desk), "a call of the parent's");
        atomic_fetch_add(&calls, 1);
    }
    return NULL;
}

/* ---- children ---- */

static CK_RV ask(CK_SESSION_HANDLE session)
{
    CK_SESSION_INFO info;
    return list->C_GetSessionInfo(session, &info);
}

/* The parent's key signs for a child that shares the helper. For others it is none, which only real providers mind. */
static void try_inherited(CK_SESSION_HANDLE own)
{
    CK_BYTE mac[MOST_BYTES] = {0};
    check(ask(the_desk.session) == (mode == INHERIT ? CKR_OK : CKR_SESSION_HANDLE_INVALID), "an inherited session");
    CK_RV rv = make_mac(own, the_desk.key, mac);
    if (mode != INHERIT)
        check(!all_alike || rv == CKR_KEY_HANDLE_INVALID || rv == CKR_OBJECT_HANDLE_INVALID, "an inherited key");
    else
        check(rv == CKR_OK && (!all_alike || !memcmp(mac, the_desk.mac, sizeof mac)), "an inherited key signs");
}

static _Noreturn void use_all(void)
{
    if (mode == STRICT) {
        check(ask(the_desk.session) == CKR_CRYPTOKI_NOT_INITIALIZED, "not initialised");
        must(list->C_Initialize(NULL), "C_Initialize");
    }
    struct desk desk = new_desk();
    check(desk.session != the_desk.session, "the session has a number of its own");
    check(!all_alike || are_alike(&desk, &the_desk), "the same as in the parent");
    try_inherited(desk.session);
    work_all(&desk);
    _exit(0);
}

enum sort { SILENT, EXIT, FINALIZE, USE, SORTS };

static _Noreturn void live_as(enum sort sort)
{
    alarm(PATIENCE_S);
    if (sort == EXIT)
        exit(0);
    if (sort == FINALIZE)
        must(list->C_Finalize(NULL), "C_Finalize");
    if (sort == USE)
        use_all();
    _exit(0);
}

static bool ended_well(pid_t pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0;
}

static pid_t by_fork(enum sort sort)
{
    pid_t pid = fork();
    if (pid == 0)
        live_as(sort);
    return pid;
}

static pid_t by_bare_fork(enum sort sort)
{
    pid_t pid = _Fork();
    if (pid == 0)
        live_as(sort);
    return pid;
}

static pid_t by_clone(enum sort sort)
{
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        live_as(sort);
    return pid;
}

static pid_t by_two_forks(enum sort sort)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(ended_well(by_fork(sort)) ? 0 : 1);
    return pid;
}

static pid_t by_vfork(enum sort sort)
{
    (void)sort;
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* First those of which a thread sanitizer takes notice. */
static pid_t (*const ways[])(enum sort) = {by_fork, by_two_forks, by_vfork, by_bare_fork, by_clone};

enum { KNOWN_WAYS = 3, WAYS = sizeof ways / sizeof *ways };

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

static enum mode mode_of(const char *name)
{
    return !strcmp(name, "inherit") ? INHERIT : !strcmp(name, "strict") ? STRICT : REINIT;
}

int main(int argc, char **argv)
{
    pthread_t threads[WORKS];
    int good = 0, before = count_descriptors();
    check(argc == 4 || argc == 5, "usage");
    list = load(argv[1]);
    mode = mode_of(argv[2]);
    int n_ways = argc == 5 && !strcmp(argv[4], "sanitized") ? KNOWN_WAYS : WAYS;
    begin(list);
    set_up();
    for (int i = 0; i < WORKS; i++)
        check(pthread_create(&threads[i], NULL, work_on, (void *)(uintptr_t)i) == 0, "pthread_create");
    for (int i = 0; i < atoi(argv[3]); i++) {
        await_calls();
        good += ended_well(ways[i % n_ways](i / n_ways % SORTS));
    }
    atomic_store(&done, true);
    for (int i = 0; i < WORKS; i++)
        pthread_join(threads[i], NULL);
    printf("%d\n", good);
    must(list->C_Finalize(NULL), "C_Finalize");
    check(count_descriptors() == before, "no descriptor is left");
    return 0;
}
