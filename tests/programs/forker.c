/*
 * forker WAY USE [MODULE]: makes a child while the module, if there is one, is in use, and waits until all have ended. WAY is how:
 *     fork, vfork, clone, spawn (posix_spawn), twice (a child that forks and ends), daemon (a child that calls daemon(3)).
 * The child, or the last of them,
 *     exec      runs /bin/true,
 *     nothing   ends at once,
 *     exit      ends through the exit handlers,
 *     dlclose   unloads the module,
 *     finalize  calls C_Finalize,
 * and with "used-" before that it uses the module first, then calls getppid(2) to say where that begins. Without a module it does the
 * same but for the calls. What is printed are the descriptors that the module had open at the fork.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

enum { MOST_DESCRIPTORS = 256 };

extern char **environ;
static CK_FUNCTION_LIST *list;
static void *library;
static const char *use;
static bool was_open[MOST_DESCRIPTORS];

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void note_descriptors(void)
{
    for (int fd = 0; fd < MOST_DESCRIPTORS; fd++)
        was_open[fd] = is_open(fd);
}

static void tell_new_descriptors(void)
{
    for (int fd = 0; fd < MOST_DESCRIPTORS; fd++)
        if (is_open(fd) && !was_open[fd])
            printf("%d\n", fd);
    fflush(stdout);
}

static void use_it(void)
{
    const char *rest = strstr(use, "used-");
    if (rest != use)
        return;
    use += strlen("used-");
    if (list)
        open_session(list);
    syscall(SYS_getppid);
}

static int live_as_child(void)
{
    use_it();
    if (!strcmp(use, "exec"))
        execl("/bin/true", "true", (char *)NULL);
    if (!strcmp(use, "exit"))
        exit(0);
    if (!strcmp(use, "dlclose") && library)
        return dlclose(library);
    if (!strcmp(use, "finalize") && list)
        return list->C_Finalize(NULL) == CKR_OK ? 0 : 1;
    return 0;
}

static _Noreturn void go_on(void)
{
    _exit(live_as_child());
}

static _Noreturn void fork_again(void)
{
    if (fork() == 0)
        go_on();
    _exit(0);
}

static _Noreturn void become_a_daemon(void)
{
    if (daemon(0, 0) == 0)
        go_on();
    _exit(1);
}

static pid_t spawn(void)
{
    char *words[] = {(char[]){"true"}, NULL};
    pid_t pid;
    check(posix_spawn(&pid, "/bin/true", NULL, NULL, words, environ) == 0, "posix_spawn");
    return pid;
}

static pid_t make_by_vfork(void)
{
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    return pid;
}

static pid_t make_child(const char *way)
{
    if (!strcmp(way, "vfork"))
        return make_by_vfork();
    if (!strcmp(way, "spawn"))
        return spawn();
    pid_t pid = strcmp(way, "clone") ? fork() : (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0 && !strcmp(way, "twice"))
        fork_again();
    if (pid == 0 && !strcmp(way, "daemon"))
        become_a_daemon();
    if (pid == 0)
        go_on();
    return pid;
}

int main(int argc, char **argv)
{
    int status;
    check(argc >= 3, "usage");
    use = argv[2];
    note_descriptors();
    check(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0, "prctl");
    library = argc > 3 ? dlopen(argv[3], RTLD_NOW | RTLD_LOCAL) : NULL;
    list = argc > 3 ? load(argv[3]) : NULL;
    if (library && list)
        check(dlclose(library) == 0, "dlclose"); /* load has it open too */
    CK_SESSION_HANDLE session = list ? begin(list) : 0;
    tell_new_descriptors();
    check(make_child(argv[1]) > 0, "child");
    while (wait(&status) > 0)
        check(status == 0, "the child's end");
    return list && list->C_CloseSession(session) != CKR_OK ? 1 : 0;
}
