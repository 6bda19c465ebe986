#include "landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/landlock.h, up to its version 7. */
enum { CREATE_VERSION = 1, RULE_PATH = 1, RULE_PORT = 2 };
enum { ABI_REFER = 2, ABI_TRUNCATE = 3, ABI_NET = 4, ABI_IOCTL = 5, ABI_SCOPE = 6 };
enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_REMOVE_DIR = 1 << 4,
    FS_REMOVE_FILE = 1 << 5,
    FS_MAKE_DIR = 1 << 7,
    FS_MAKE_REG = 1 << 8,
    FS_MAKE_SOCK = 1 << 9,
    FS_MAKE_FIFO = 1 << 10,
    FS_MAKE_SYM = 1 << 12,
    FS_ALL_OF_1 = (1 << 13) - 1,
    FS_REFER = 1 << 13,
    FS_TRUNCATE = 1 << 14,
    FS_IOCTL_DEV = 1 << 15,
    NET_TCP = 3,     /* bind, connect */
    NET_CONNECT = 2,
    SCOPE_ABSTRACT = 1,
    SCOPE_SIGNAL = 2,
    FS_OF_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
    READ = FS_READ_FILE | FS_READ_DIR,
    WRITE = READ | FS_WRITE_FILE | FS_TRUNCATE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG | FS_MAKE_SOCK |
            FS_MAKE_FIFO | FS_MAKE_SYM | FS_REFER,
};

struct ruleset_attr {
    uint64_t files, net, scoped;
};
struct __attribute__((packed)) path_attr {
    uint64_t allowed;
    int32_t parent;
};
struct port_attr {
    uint64_t allowed, port;
};

static uint64_t files_of(long abi)
{
    uint64_t files = FS_ALL_OF_1;
    files |= abi >= ABI_REFER ? FS_REFER : 0;
    files |= abi >= ABI_TRUNCATE ? FS_TRUNCATE : 0;
    return files | (abi >= ABI_IOCTL ? FS_IOCTL_DEV : 0);
}

/* What a version knows nothing of must not be in its structure. */
static size_t size_of(long abi)
{
    if (abi >= ABI_SCOPE)
        return sizeof(struct ruleset_attr);
    return abi >= ABI_NET ? offsetof(struct ruleset_attr, scoped) : offsetof(struct ruleset_attr, net);
}

int landlock_begin(struct landlock *landlock, bool tcp, bool abstract)
{
    landlock->ruleset = -1;
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_VERSION);
    if (abi < 1)
        return errno == EOPNOTSUPP ? -ENOSYS : -errno;
    struct ruleset_attr attr = {
        .files = files_of(abi),
        .net = tcp ? 0 : NET_TCP,
        .scoped = SCOPE_SIGNAL | (abstract ? 0 : SCOPE_ABSTRACT),
    };
    landlock->abi = abi;
    landlock->files = attr.files;
    landlock->ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size_of(abi), 0);
    return landlock->ruleset < 0 ? -errno : 0;
}

static uint64_t access_of(unsigned rights)
{
    uint64_t access = rights & RIGHT_READ ? READ : 0;
    access |= rights & RIGHT_WRITE ? WRITE : 0;
    access |= rights & RIGHT_EXECUTE ? READ | FS_EXECUTE : 0;
    return access | (rights & RIGHT_DEVICE ? READ | FS_WRITE_FILE | FS_IOCTL_DEV : 0);
}

static int allow_opened(const struct landlock *landlock, int fd, uint64_t access)
{
    struct stat found;
    if (fstat(fd, &found) != 0)
        return -errno;
    struct path_attr attr = {.parent = fd, .allowed = access & landlock->files};
    if (!S_ISDIR(found.st_mode))
        attr.allowed &= FS_OF_FILES;
    return syscall(SYS_landlock_add_rule, landlock->ruleset, RULE_PATH, &attr, 0) == 0 ? 0 : -errno;
}

static bool is_absence(int error)
{
    return error == ENOENT || error == EACCES || error == ENOTDIR || error == ELOOP || error == ENAMETOOLONG;
}

int landlock_allow_path(const struct landlock *landlock, const char *path, unsigned rights)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return is_absence(errno) ? 0 : -errno;
    int error = allow_opened(landlock, fd, access_of(rights));
    close(fd);
    return error;
}

int landlock_allow_port(const struct landlock *landlock, uint64_t port)
{
    struct port_attr attr = {.allowed = NET_CONNECT, .port = port};
    if (landlock->abi < ABI_NET)
        return 0;
    return syscall(SYS_landlock_add_rule, landlock->ruleset, RULE_PORT, &attr, 0) == 0 ? 0 : -errno;
}

int landlock_enter(struct landlock *landlock)
{
    int error = syscall(SYS_landlock_restrict_self, landlock->ruleset, 0) == 0 ? 0 : -errno;
    close(landlock->ruleset);
    landlock->ruleset = -1;
    return error;
}
