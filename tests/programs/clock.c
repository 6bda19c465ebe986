/* Loaded before the C library: a system's time that jumps, years ahead and years back, whenever somebody asks for it. */
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { YEARS = 3 * 365 * 24 * 3600 };

static long jump(void)
{
    static atomic_uint asked;
    return asked++ % 2 ? -YEARS : YEARS;
}

int clock_gettime(clockid_t clock, struct timespec *ret_now)
{
    long rv = syscall(SYS_clock_gettime, clock, ret_now);
    if (rv == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        ret_now->tv_sec += jump();
    return (int) rv;
}

int gettimeofday(struct timeval *restrict ret_now, void *restrict zone)
{
    struct timespec now;
    (void) zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *ret_now = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *ret_now)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (ret_now)
        *ret_now = now.tv_sec;
    return now.tv_sec;
}
