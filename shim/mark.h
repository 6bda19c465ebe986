/*
 * Whose memory is: a mark that a process makes, and that tells a forked child that it is its parent's. For where no page can be
 * wiped; a check is a system call, or a few.
 *
 * A pid may be given again, and be the same in another namespace. But no child has a timer of its parent's, and nobody else's has
 * our interval. Where there can be no timer it is the pid and the time at which its process began.
 */
#ifndef P11HOST_MARK_H
#define P11HOST_MARK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* All zero is no mark. */
struct mark {
    pid_t pid;
    bool has_timer;
    int timer;
    struct interval {
        long every_s, every_ns, next_s, next_ns; /* the kernel's itimerspec */
    } interval;
    uint64_t begun; /* without a timer; 0 where nobody tells */
};

void mark_make(struct mark *mark);

/* errno stays as it is. */
bool mark_is_ours(const struct mark *mark);

/* Gives back what the mark of this process has. */
void mark_drop(const struct mark *mark);

#endif
