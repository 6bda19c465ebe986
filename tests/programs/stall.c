/*
 * Preloaded: while the file STALL_WHILE is there, nothing that is looked at or opened below the directory STALL_BELOW answers, as on a
 * file system whose server has gone.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void stall(const char *path)
{
    const char *below = getenv("STALL_BELOW"), *stalled = getenv("STALL_WHILE");
    if (path && below && stalled && !strncmp(path, below, strlen(below)))
        while (!faccessat(AT_FDCWD, stalled, F_OK, 0))
            usleep(10000);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define LOOK(name, type) \
    __attribute__((visibility("default"))) int name(const char *path, struct type *ret) \
    { \
        stall(path); \
        return REAL(name)(path, ret); \
    }

LOOK(stat, stat)
LOOK(lstat, stat)
LOOK(stat64, stat64)
LOOK(lstat64, stat64)

__attribute__((visibility("default"))) int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    stall(path);
    return REAL(open64)(path, flags, mode);
}
