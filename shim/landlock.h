/*
 * Landlock, as far as the kernel has it. Newer than the kernel's headers of some systems that we are built on.
 *
 * Knows rights and rules. Must not know profiles.
 */
#ifndef P11HOST_LANDLOCK_H
#define P11HOST_LANDLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum landlock_right { RIGHT_READ = 1, RIGHT_WRITE = 2, RIGHT_EXECUTE = 4, RIGHT_DEVICE = 8 };

struct landlock {
    int ruleset; /* -1: the kernel has none */
    long abi;
    uint64_t files; /* rights that it knows, of those to files */
};

/*
 * All that is not allowed then is denied: files, TCP (unless `tcp`), abstract sockets (unless `abstract`), signals to others.
 * 0 or negative errno; -ENOSYS where there is no Landlock.
 */
int landlock_begin(struct landlock *landlock, bool tcp, bool abstract);

/* What does not exist, or cannot be reached by this user, needs no rule. */
int landlock_allow_path(const struct landlock *landlock, const char *path, unsigned rights);

/* Where the kernel tells ports apart. */
int landlock_allow_port(const struct landlock *landlock, uint64_t port);

/* Confines this thread and all that come from it; the ruleset is closed. */
int landlock_enter(struct landlock *landlock);

#endif
