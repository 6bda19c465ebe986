/*
 * A provider that tries what it should not: C_SeedRandom's seed says what, in words, and the answer is CKR_OK if it
 * succeeded, else CKR_VENDOR_DEFINED plus the errno.
 *
 *     NAME A B C …        the system call of that name; an argument is a number, or a text that begins with / or @
 *     :connect PATH       to a socket: a path, @name for an abstract one, or the number of a port of TCP on this machine
 *     :open FLAGS PATH    closes it again
 *     :exec PROGRAM, :fork, :thread, :pid, :use DEVICE, :allocate MIB, :descriptors N
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cryptoki.h"
#include "frame.h"

enum { SLOT = 0, WORDS = 8, MIB = 1 << 20 };
#define NAME "attempt"
#include "single.h"

#define CALL(name) {#name, SYS_##name}

static const struct {
    const char *name;
    long number;
} calls[] = {
    CALL(acct), CALL(add_key), CALL(bpf), CALL(chroot), CALL(clone), CALL(clone3), CALL(delete_module), CALL(execve), CALL(execveat),
    CALL(fcntl), CALL(finit_module), CALL(init_module), CALL(io_uring_setup), CALL(kexec_load), CALL(keyctl),
    CALL(kill), CALL(mount), CALL(move_mount), CALL(open_by_handle_at), CALL(open_tree), CALL(perf_event_open), CALL(personality),
    CALL(pidfd_getfd), CALL(pidfd_open), CALL(pidfd_send_signal), CALL(pivot_root), CALL(prctl), CALL(prlimit64),
    CALL(process_vm_readv), CALL(process_vm_writev), CALL(ptrace), CALL(quotactl), CALL(reboot), CALL(request_key), CALL(rt_sigqueueinfo),
    CALL(rt_tgsigqueueinfo), CALL(seccomp), CALL(setns), CALL(setpriority), CALL(setsid), CALL(settimeofday), CALL(setuid), CALL(shmget),
    CALL(socket), CALL(socketpair), CALL(swapon), CALL(syslog), CALL(tgkill), CALL(tkill), CALL(umount2), CALL(unshare), CALL(userfaultfd),
    CALL(vhangup), CALL(vmsplice), CALL(unlink), CALL(mkdir), CALL(rename), CALL(symlink), CALL(link), CALL(truncate),
};

static int answer(long status)
{
    return status < 0 ? errno : 0;
}

static uintptr_t argument(const char *word)
{
    return *word == '/' || *word == '@' ? (uintptr_t)word : (uintptr_t)strtoll(word, NULL, 0);
}

static int call(char *const *words)
{
    uintptr_t a[WORDS] = {0};
    for (int i = 1; i < WORDS && words[i]; i++)
        a[i] = argument(words[i]);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(calls[i].name, words[0]))
            return answer(syscall(calls[i].number, a[1], a[2], a[3], a[4], a[5], a[6]));
    return EDOM; /* the test's fault */
}

/* ---- what takes more than a call ---- */

static int connect_tcp(const char *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int error = fd < 0 ? errno : answer(connect(fd, (struct sockaddr *)&to, sizeof to));
    close(fd);
    return error;
}

static int connect_to(const char *name)
{
    if (*name != '/' && *name != '@')
        return connect_tcp(name);
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t len = strlen(name);
    memcpy(to.sun_path, name, len < sizeof to.sun_path ? len : 0);
    if (*name == '@')
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    int error = fd < 0 ? errno : answer(connect(fd, (struct sockaddr *)&to, size));
    close(fd);
    return error;
}

static int open_with(int flags, const char *path)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    int error = fd < 0 ? errno : 0;
    close(fd);
    return error;
}

static int use_device(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC), unread;
    int error = fd < 0 ? errno : answer(ioctl(fd, FIONREAD, &unread));
    close(fd);
    return error;
}

static int run_program(const char *path)
{
    char *const argv[] = {(char *)(uintptr_t)path, NULL};
    int status = 0;
    pid_t pid = vfork();
    if (pid == 0) {
        execv(path, argv);
        _exit(1);
    }
    return pid < 0 ? errno : waitpid(pid, &status, 0) == pid && status == 0 ? 0 : EACCES;
}

static void *nothing(void *argument)
{
    return argument;
}

static int start_thread(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, nothing, NULL);
    if (!error)
        pthread_join(thread, NULL);
    return error;
}

static int start_process(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return pid < 0 ? errno : answer(waitpid(pid, NULL, 0));
}

/* It is whom the kernel says it is, and so is a child of it. */
static int tell_pid(void)
{
    int status;
    if (getpid() != syscall(SYS_getpid))
        return ESRCH;
    pid_t pid = fork();
    if (pid == 0)
        _exit(getpid() != syscall(SYS_getpid));
    return pid > 0 && (waitpid(pid, &status, 0) != pid || status != 0) ? ECHILD : 0;
}

static int allocate(size_t mib)
{
    void *memory = mmap(NULL, mib * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? errno : answer(munmap(memory, mib * MIB));
}

static int open_many(int count)
{
    int error = 0, last = -1;
    for (int i = 0; i < count && !error; i++) {
        int fd = dup(STDIN_FILENO);
        error = fd < 0 ? errno : 0;
        last = fd < 0 ? last : fd;
    }
    for (int fd = last; count-- > 0 && fd > 10; fd--)
        close(fd);
    return error;
}

static int attempt(char *const *words)
{
    const char *what = words[0], *first = words[1] ? words[1] : "", *second = words[1] && words[2] ? words[2] : "";
    if (*what != ':')
        return call(words);
    if (!strcmp(what, ":connect"))
        return connect_to(first);
    if (!strcmp(what, ":open"))
        return open_with((int)strtol(first, NULL, 0), second);
    if (!strcmp(what, ":use"))
        return use_device(first);
    if (!strcmp(what, ":exec"))
        return run_program(first);
    if (!strcmp(what, ":thread"))
        return start_thread();
    if (!strcmp(what, ":pid"))
        return tell_pid();
    if (!strcmp(what, ":fork"))
        return start_process();
    if (!strcmp(what, ":allocate"))
        return allocate((size_t)strtoul(first, NULL, 0));
    return !strcmp(what, ":descriptors") ? open_many(atoi(first)) : EDOM;
}

static CK_RV seed_random(CK_SESSION_HANDLE session, CK_BYTE *seed, CK_ULONG len)
{
    char text[512] = {0}, *words[WORDS + 1] = {0}, *rest = text;
    (void)session;
    memcpy(text, seed, len < sizeof text ? len : 0);
    for (int i = 0; i < WORDS; i++)
        words[i] = strtok_r(rest, " ", &rest);
    int error = words[0] ? attempt(words) : EDOM;
    return error ? CKR_VENDOR_DEFINED | (CK_RV)error : CKR_OK;
}

/* ---- the rest ---- */

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    (void)slot, (void)flags, (void)application, (void)notify;
    *session = 1;
    return CKR_OK;
}

static void fill(CK_FUNCTION_LIST *list)
{
    fill_single(list);
    list->C_OpenSession = open_session;
    list->C_SeedRandom = seed_random;
}
