#include "start.h"

#include <dlfcn.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cryptoki.h"
#include "log.h"

enum { STACK = 8 * 1024 };

static const char starter[] = "p11host-start";

/* Beside the file itself, wherever links to it are. */
static bool starter_path(char path[PATH_MAX])
{
    Dl_info info;
    if (!dladdr((void *)(uintptr_t)&C_GetFunctionList, &info) || !realpath(info.dli_fname, path) ||
        strlen(path) + sizeof starter > PATH_MAX)
        return false;
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, starter);
    return access(path, X_OK) == 0;
}

/* What two short-lived processes that share our memory need, one after the other, while we stand still. */
struct birth {
    char path[PATH_MAX];
    char stacks[2][STACK] __attribute__((aligned(16)));
};

static int become_starter(void *context)
{
    struct birth *birth = context;
    char *argv[] = {birth->path, NULL};
    execve(birth->path, argv, environ);
    _exit(127);
}

/*
 * After an exec the end of a process is told by SIGCHLD, whatever it was made with. So the one that execs is not our
 * child but this one's, which ends at once.
 */
static int leave_an_orphan(void *context)
{
    struct birth *birth = context;
    _exit(clone(become_starter, birth->stacks[1] + STACK, CLONE_VM | CLONE_VFORK, birth) < 0);
}

/* A clone without a signal at its end is invisible to the program's wait(), and nothing tells it SIGCHLD. */
static bool spawn(struct birth *birth)
{
    sigset_t all, before;
    int status = -1;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = clone(leave_an_orphan, birth->stacks[0] + STACK, CLONE_VM | CLONE_VFORK, birth);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid > 0 && waitpid(pid, &status, (int)__WCLONE) == pid && status == 0;
}

bool start_broker(void)
{
    struct birth birth;
    if (getauxval(AT_SECURE) || secure_getenv("P11HOST_NO_START"))
        return false;
    bool started = starter_path(birth.path) && spawn(&birth);
    if (started)
        log_event("broker.started");
    return started;
}
