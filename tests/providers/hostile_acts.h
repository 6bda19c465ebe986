/*
 * What the hostile provider does to the process it is in, and to those around it. A row of `acts` is an act's name, and the
 * function that does it: it returns whether the deed was done (DONE) or how it was refused (REFUSED + errno), if it returns.
 *
 * Knows the kernel. Must not know Cryptoki.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DONE = 1, REFUSED = 2, MOST_THREADS = 10000, LAST_DESCRIPTOR = 1024, MIB = 1 << 20 };

static unsigned refused(void)
{
    return REFUSED + (unsigned)errno;
}

/* ---- to end ---- */

static unsigned act_segv(void)
{
    *(volatile int *)(uintptr_t)getppid() = 0; /* no page of ours */
    return DONE;
}

static unsigned act_abort(void)
{
    abort();
}

static unsigned act_exit(void)
{
    exit(0);
}

static unsigned act_leave(void)
{
    _exit(3);
}

static unsigned act_die(void)
{
    kill(getpid(), SIGKILL);
    return DONE;
}

static unsigned act_exec(void)
{
    execl("/bin/sleep", "sleep", "1000", (char *)NULL);
    return refused();
}

/* As a program that cannot live without the memory. Touched: what nobody writes to costs nothing. */
static unsigned act_hoard(void)
{
    for (char *memory; (memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED;)
        memset(memory, 1, MIB);
    abort();
}

/* ---- to hang ---- */

static unsigned act_loop(void)
{
    for (volatile bool for_ever = true; for_ever;)
        ;
    return DONE;
}

static unsigned act_sleep(void)
{
    while (pause())
        ; /* whatever wakes it */
    return DONE;
}

static unsigned act_stop(void)
{
    raise(SIGSTOP); /* before this thread goes on */
    return DONE;
}

/* ---- to its own process ---- */

static unsigned act_close(void)
{
    close_range(0, ~0U, 0);
    return DONE;
}

static unsigned act_garbage(void)
{
    uint8_t bytes[256];
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(0xc1 + i); /* the first begins no message */
    for (int fd = 0; fd < LAST_DESCRIPTOR; fd++)
        if (send(fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == ENOTSOCK && write(fd, bytes, sizeof bytes) < 0)
            continue;
    return DONE;
}

static unsigned act_signals(void)
{
    sigset_t all;
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_IGN);
    sigfillset(&all);
    return pthread_sigmask(SIG_BLOCK, &all, NULL) ? refused() : DONE;
}

static void *linger(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static unsigned act_threads(void)
{
    pthread_attr_t small;
    pthread_t thread;
    int made = 0, error = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, (size_t)64 << 10);
    while (made < MOST_THREADS && !(error = pthread_create(&thread, &small, linger, NULL)))
        made++;
    pthread_attr_destroy(&small);
    return made == MOST_THREADS ? DONE : REFUSED + (unsigned)error;
}

/* ---- to others ---- */

/* A child that has all that its parent has, and stays. */
static unsigned act_fork(void)
{
    pid_t pid = fork();
    if (pid == 0)
        linger(NULL);
    return pid < 0 ? refused() : DONE;
}

/* One that has left its parent's session, and whose parent is another. */
static unsigned act_daemon(void)
{
    pid_t pid = fork();
    if (pid < 0)
        return refused();
    if (pid > 0)
        return waitpid(pid, NULL, 0) == pid ? DONE : refused();
    setsid();
    if (fork() == 0)
        linger(NULL);
    _exit(0);
}

static unsigned act_read(void)
{
    char place[4096];
    const char *home = getenv("HOME");
    snprintf(place, sizeof place, "%s/.ssh", home ? home : "/root");
    int fd = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return refused();
    close(fd);
    return DONE;
}

/* Nobody listens there: to be told so is to have come through. */
static unsigned act_connect(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return refused();
    unsigned outcome = connect(fd, (struct sockaddr *)&to, sizeof to) && errno != ECONNREFUSED ? refused() : DONE;
    close(fd);
    return outcome;
}

/* Not to stop it: to be allowed to is the deed. */
static unsigned act_trace(void)
{
    if (ptrace(PTRACE_SEIZE, getppid(), 0, 0))
        return refused();
    ptrace(PTRACE_DETACH, getppid(), 0, 0);
    return DONE;
}

static unsigned act_kill(void)
{
    return getppid() > 1 && kill(getppid(), SIGKILL) ? refused() : DONE;
}

static const struct act {
    const char *name;
    unsigned (*do_it)(void);
} acts[] = {
    {"segv", act_segv},       {"abort", act_abort},   {"exit", act_exit},       {"_exit", act_leave},
    {"sigkill", act_die},     {"exec", act_exec},     {"memory", act_hoard},    {"loop", act_loop},
    {"sleep", act_sleep},     {"sigstop", act_stop},  {"close", act_close},     {"garbage", act_garbage},
    {"signals", act_signals}, {"threads", act_threads}, {"fork", act_fork},     {"daemon", act_daemon},
    {"ssh", act_read},        {"connect", act_connect}, {"ptrace", act_trace},  {"kill", act_kill},
};
