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

enum { STACK = 16 * 1024 };

static const char starter[] = "p11host-start";

static bool starter_path(char path[PATH_MAX])
{
    Dl_info info;
    if (!dladdr((void *)(uintptr_t)&C_GetFunctionList, &info) || strlen(info.dli_fname) + sizeof starter > PATH_MAX)
        return false;
    strcpy(path, info.dli_fname);
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, starter);
    return access(path, X_OK) == 0;
}

/* Runs in our memory while we stand still: may only exec. */
static int run(void *path)
{
    char *argv[] = {path, NULL};
    execve(path, argv, environ);
    _exit(127);
}

/*
 * A clone without a signal at its end is invisible to the program's wait(), and nothing tells it SIGCHLD. The starter
 * detaches the broker and ends at once.
 */
static bool spawn(char *path)
{
    char stack[STACK] __attribute__((aligned(16)));
    sigset_t all, before;
    int status = -1;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = clone(run, stack + sizeof stack, CLONE_VM | CLONE_VFORK, path);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid > 0 && waitpid(pid, &status, (int)__WCLONE) == pid && status == 0;
}

bool start_broker(void)
{
    char path[PATH_MAX];
    if (getauxval(AT_SECURE) || secure_getenv("P11HOST_NO_START"))
        return false;
    bool started = starter_path(path) && spawn(path);
    log_event("broker.%s", started ? "started" : "not-started reason=\"p11host-start failed\"");
    return started;
}
