#include "mark.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- a timer ---- */

/* It never rings: nobody is to be told, and not for years. */
static bool set_timer(struct mark *mark)
{
    enum { YEARS = 1 << 30 };
    struct sigevent nobody = {.sigev_notify = SIGEV_NONE};
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    mark->interval = (struct interval){mark->pid, now.tv_nsec, YEARS, 0};
    return syscall(SYS_timer_create, CLOCK_MONOTONIC, &nobody, &mark->timer) == 0 &&
           syscall(SYS_timer_settime, mark->timer, 0, &mark->interval, NULL) == 0;
}

static bool is_our_timer(const struct mark *mark)
{
    struct interval now;
    return syscall(SYS_timer_gettime, mark->timer, &now) == 0 && now.every_s == mark->interval.every_s &&
           now.every_ns == mark->interval.every_ns;
}

/* ---- the time at which a process began ---- */

/* The 22nd word of proc_pid_stat(5). The second is in parentheses and may hold anything. */
static uint64_t begun_in(const char *stat)
{
    const char *at = strrchr(stat, ')');
    uint64_t begun = 0;
    for (int word = 2; at && word < 22; word++)
        at = strchr(at + 1, ' ');
    for (at = at ? at + 1 : ""; *at >= '0' && *at <= '9'; at++)
        begun = 10 * begun + (uint64_t)(*at - '0');
    return begun;
}

/* 0 where nobody tells. */
static uint64_t begun_at(void)
{
    char stat[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
    if (fd >= 0)
        close(fd);
    if (len <= 0)
        return 0;
    stat[len] = 0;
    return begun_in(stat);
}

/* Where nobody tells any more, the pid has to do. */
static bool is_our_beginning(const struct mark *mark)
{
    uint64_t now = mark->begun ? begun_at() : 0;
    return now == 0 || now == mark->begun;
}

/* ---- */

void mark_make(struct mark *mark)
{
    mark->pid = getpid();
    mark->has_timer = set_timer(mark);
    mark->begun = mark->has_timer ? 0 : begun_at();
}

bool mark_is_ours(const struct mark *mark)
{
    int before = errno;
    bool ours = mark->has_timer ? is_our_timer(mark) : mark->pid == getpid() && is_our_beginning(mark);
    errno = before;
    return ours;
}

void mark_drop(const struct mark *mark)
{
    if (mark->has_timer)
        syscall(SYS_timer_delete, mark->timer);
}
