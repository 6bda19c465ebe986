#include "sandbox.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "codec.h"
#include "filters.h"
#include "landlock.h"
#include "limits.h"

enum {
    VERSION = 1,
    CONFINED = 16, /* the bits before it are the filter's */
    REQUIRED = 32,
    LEARNING = 64,
    SOME_PORTS = 128, /* network: but TCP to these alone */
    ABSTRACT = 256,   /* sockets without a file */
    FIELDS = 9,
};

struct profile {
    uint64_t flags;
    uint64_t memory, files, tasks; /* 0: as it is */
    uint64_t uid, gid;             /* all ones: as it is */
};

struct failure {
    char *text;
    size_t size;
};

static bool fail(const struct failure *failure, const char *what, int error)
{
    snprintf(failure->text, failure->size, "the sandbox cannot be built: %s: %s", what, strerror(error));
    return false;
}

/* ---- the profile ---- */

static long no_more(void *context, void *bytes, size_t max)
{
    (void)context, (void)bytes, (void)max;
    return -EBADMSG;
}

static bool read_profile(struct reader *r, struct profile *ret)
{
    read_array_of(r, FIELDS);
    uint64_t version = read_uint(r);
    uint64_t *const numbers[] = {&ret->flags, &ret->memory, &ret->files, &ret->tasks, &ret->uid, &ret->gid};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        *numbers[i] = read_uint(r);
    return !r->error && version == VERSION;
}

static bool load(int fd, struct reader *r, struct profile *ret)
{
    static uint8_t packed[LIMIT_PROFILE + 1];
    ssize_t len = pread(fd, packed, sizeof packed, 0);
    if (len < 0 || len > LIMIT_PROFILE)
        return false;
    reader_init(r, packed, no_more, NULL);
    r->end = (size_t)len;
    r->left = r->end;
    return read_profile(r, ret);
}

/* ---- another user, limits, capabilities ---- */

static bool become(const struct profile *profile, const struct failure *failure)
{
    gid_t gid = (gid_t)profile->gid;
    uid_t uid = (uid_t)profile->uid;
    if (profile->gid != UINT64_MAX && (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0))
        return fail(failure, "its group", errno);
    if (profile->uid != UINT64_MAX && setresuid(uid, uid, uid) != 0)
        return fail(failure, "its user", errno);
    return true;
}

/* 0: as it is now. Either way it stays so. */
static bool limit(unsigned resource, uint64_t most)
{
    struct rlimit now;
    if (getrlimit((__rlimit_resource_t)resource, &now) != 0)
        return false;
    rlim_t new = most && most <= now.rlim_max ? (rlim_t)most : now.rlim_cur;
    return setrlimit((__rlimit_resource_t)resource, &(struct rlimit){new, new}) == 0;
}

/* Root's, but for the one by which root reads and writes files whose owner it is not. */
static bool drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    if (geteuid() == 0)
        none[0].permitted = none[0].effective = 1U << CAP_DAC_OVERRIDE;
    return syscall(SYS_capset, &head, none) == 0 || errno == EPERM; /* EPERM: it never had that one */
}

static bool reduce(const struct profile *profile, const struct failure *failure)
{
    if (!limit(RLIMIT_DATA, profile->memory) || !limit(RLIMIT_NOFILE, profile->files) || !limit(RLIMIT_NPROC, profile->tasks))
        return fail(failure, "limits", errno);
    return drop_capabilities() || fail(failure, "capabilities", errno);
}

/* ---- files and TCP ---- */

static int allow_paths(struct reader *r, const struct landlock *landlock)
{
    static char path[PATH_MAX];
    int error = 0;
    for (size_t left = read_array(r); left > 0 && !r->error; left--) {
        read_array_of(r, 2);
        uint64_t rights = read_uint(r);
        read_text(r, path, sizeof path);
        if (!r->error && !error && landlock->ruleset >= 0)
            error = landlock_allow_path(landlock, path, (unsigned)rights);
    }
    return error;
}

static int allow_ports(struct reader *r, const struct landlock *landlock)
{
    int error = 0;
    for (size_t left = read_array(r); left > 0 && !r->error; left--) {
        uint64_t port = read_uint(r);
        if (!r->error && !error && landlock->ruleset >= 0)
            error = landlock_allow_port(landlock, port);
    }
    return error;
}

/* Without what the kernel lacks, said aloud, unless the module requires it. */
static bool do_without(const struct profile *profile, const char *what, const char *open, const struct failure *failure)
{
    if (profile->flags & REQUIRED) {
        snprintf(failure->text, failure->size, "this kernel has no %s, which the module requires: %s", what, open);
        return false;
    }
    fprintf(stderr, "p11host: this kernel has no %s: %s\n", what, open);
    return true;
}

static bool confine_files(struct reader *r, const struct profile *profile, const struct failure *failure)
{
    struct landlock landlock;
    bool tcp = (profile->flags & CAN_NETWORK) && !(profile->flags & SOME_PORTS);
    int error = landlock_begin(&landlock, tcp, profile->flags & ABSTRACT);
    bool missing = error == -ENOSYS;
    if (missing || !error)
        error = allow_paths(r, &landlock);
    if (!error)
        error = allow_ports(r, &landlock);
    if (!error && r->error)
        error = r->error;
    if (!error && !missing)
        error = landlock_enter(&landlock);
    if (error)
        return fail(failure, "Landlock", -error);
    return !missing || do_without(profile, "Landlock", "its files are not confined", failure);
}

/* ---- system calls ---- */

/* A filter that speaks of "self" gets to know who that is. */
static struct sock_fprog filter_of(const struct profile *profile, struct sock_filter *copy)
{
    unsigned number = profile->flags & LEARNING ? FILTERS : profile->flags % FILTERS;
    memcpy(copy, filters[number].code, filters[number].len * sizeof *copy);
    for (unsigned i = 0; i < filters[number].len; i++)
        if (copy[i].k == FILTER_SELF)
            copy[i].k = (uint32_t)getpid();
    return (struct sock_fprog){filters[number].len, copy};
}

static bool send_listener(int listener, int learn)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof listener)];
    } control = {.head = {.cmsg_len = CMSG_LEN(sizeof listener), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec byte = {"", 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memcpy(CMSG_DATA(&control.head), &listener, sizeof listener);
    bool sent = sendmsg(learn, &message, MSG_NOSIGNAL) == 1;
    close(listener);
    return sent;
}

static bool confine_calls(const struct profile *profile, int learn, const struct failure *failure)
{
    struct sock_filter copy[FILTER_LONGEST];
    struct sock_fprog program = filter_of(profile, copy);
    unsigned flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW; /* one provider, nothing here to keep from it */
    if (profile->flags & LEARNING)
        flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
    long done = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (done < 0 && (errno == ENOSYS || errno == EINVAL))
        return do_without(profile, "seccomp", "its system calls are not confined", failure);
    if (done < 0 || (profile->flags & LEARNING && !send_listener((int)done, learn)))
        return fail(failure, "seccomp", errno);
    return true;
}

/* ---- who this is ---- */

static pid_t own_pid; /* known and for good, once nothing here can fork */

/*
 * In place of the C library's, for the provider too: many ask at each call, to find out whether they have been forked, and
 * a system call through a filter costs a third more.
 */
pid_t getpid(void)
{
    return own_pid ? own_pid : (pid_t)syscall(SYS_getpid);
}

static bool is_never_forked(const struct profile *profile)
{
    return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER && !(profile->flags & CAN_PROCESSES);
}

bool sandbox_enter(int fd, int learn, char *ret_error, size_t size)
{
    struct failure failure = {ret_error, size};
    struct profile profile;
    struct reader r;
    if (fd < 0)
        return true;
    if (!load(fd, &r, &profile))
        return fail(&failure, "its profile", EBADMSG);
    if (!become(&profile, &failure))
        return false;
    /* A change of the user may have set this anew; whoever learns reads the arguments of what is asked. */
    if (prctl(PR_SET_DUMPABLE, profile.flags & LEARNING ? 1 : 0, 0, 0, 0) != 0)
        return fail(&failure, "memory", errno);
    if (!(profile.flags & CONFINED))
        return true;
    if (profile.flags & LEARNING)
        return confine_calls(&profile, learn, &failure);
    if (!reduce(&profile, &failure) || !confine_files(&r, &profile, &failure) || !confine_calls(&profile, -1, &failure))
        return false;
    own_pid = is_never_forked(&profile) ? getpid() : 0;
    return true;
}
