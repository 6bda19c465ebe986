#include "broker.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "descriptors.h"
#include "limits.h"
#include "log.h"
#include "start.h"

static bool is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Where this user's broker listens; a relative path counts as none. The same rule stands in p11host/paths.py. */
static void user_socket(char *path, size_t size)
{
    const char *given = secure_getenv("P11HOST_SOCKET");
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    char directory[64];
    unsigned uid = geteuid();
    snprintf(directory, sizeof directory, "/run/user/%u", uid);
    if (given && given[0] == '/')
        snprintf(path, size, "%s", given);
    else if (runtime && runtime[0] == '/')
        snprintf(path, size, "%s/p11host/broker.sock", runtime);
    else if (is_directory(directory))
        snprintf(path, size, "%s/p11host/broker.sock", directory);
    else if (uid == 0)
        snprintf(path, size, "/run/p11host/broker.sock");
    else
        snprintf(path, size, "/tmp/p11host-%u/broker.sock", uid);
}

/* Only our own broker or root's: the one behind the socket will see PINs. */
static bool is_trusted(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == 0 || peer.uid == geteuid());
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = DEADLINE_BROKER / 1000};
    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path));
    int fd = descriptor_raise(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    int error = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? 0 : -errno;
    if (error == -EISCONN) /* by a child that a signal handler has forked since there is a socket */
        error = 0;
    if (error == 0 && !is_trusted(fd)) {
        log_event("broker.refused socket=%s reason=\"it belongs to another user\"", path);
        error = -EPERM;
    }
    if (error == 0)
        return fd;
    close(fd);
    return error;
}

static bool nobody_listens(int error)
{
    return error == -ENOENT || error == -ECONNREFUSED;
}

static void nap(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* A broker that was just started needs a moment until it listens. */
static int connect_patiently(const char *path)
{
    int fd = connect_to(path);
    for (long waited = 0, pause = 5; nobody_listens(fd) && waited < DEADLINE_BROKER; waited += pause) {
        pause = pause < 50 ? pause * 2 : 50;
        nap(pause);
        fd = connect_to(path);
    }
    return fd;
}

int broker_connect(void)
{
    static const char system_socket[] = "/run/p11host/broker.sock";
    char path[PATH_MAX];
    user_socket(path, sizeof path);
    int fd = connect_to(path);
    if (nobody_listens(fd) && !secure_getenv("P11HOST_SOCKET"))
        fd = connect_to(system_socket);
    if (nobody_listens(fd) && start_broker())
        fd = connect_patiently(path);
    if (fd < 0)
        log_event("broker.absent socket=%s error=\"%s\" hint=\"start one with: p11host serve\"", path, strerror(-fd));
    return fd;
}
