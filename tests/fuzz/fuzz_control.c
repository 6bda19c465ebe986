/*
 * What the shim understands of a broker. A byte that says how many descriptors come along, then a hello and a response:
 * whatever it is, every descriptor is either offered or closed, and closed once, and rows that are offered are sound.
 */
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach.h"
#include "broker.h"
#include "door.h"
#include "fd_count.h"
#include "fuzz.h"
#include "root.h"
#include "selection.h"
#include "sound.h"

enum { MOST_FDS = 8, MOST_BYTES = 100000 };

static const uint8_t *response;
static size_t response_len;
static unsigned descriptors;

/* ---- the parts of the shim that are not here ---- */

const _Atomic uint32_t *root_life_page(void)
{
    return NULL;
}

uint32_t root_life(void)
{
    return 1;
}

pthread_mutex_t *root_attach_lock(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    return &lock;
}

const char *selection_module(void)
{
    return NULL;
}

int broker_connect(void)
{
    return eventfd(0, EFD_CLOEXEC);
}

static void answer(int fd, int spare)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } control = {0};
    struct iovec span = {(void *)(uintptr_t)response, response_len};
    struct msghdr message = {.msg_iov = &span, .msg_iovlen = 1};
    int fds[MOST_FDS];
    for (unsigned i = 0; i < descriptors; i++)
        fds[i] = spare;
    if (descriptors) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(descriptors * sizeof *fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(descriptors * sizeof *fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), fds, descriptors * sizeof *fds);
    }
    if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)response_len || shutdown(fd, SHUT_WR) != 0)
        found("the response could not be sent");
}

struct channel *__wrap_door_open(int door, const struct hello *hello, enum door_kind kind, const struct owner *owner, int *ret_error);
int __wrap_close(int fd);
int __real_close(int fd);

/* Instead of asking anybody: a channel with the answer in it. */
static int far_end = -1;

struct channel *__wrap_door_open(int door, const struct hello *hello, enum door_kind kind, const struct owner *owner, int *ret_error)
{
    int ends[2];
    (void)hello, (void)kind, (void)owner;
    make_pair(SOCK_STREAM, ends);
    if (far_end >= 0)
        __real_close(far_end); /* a broker that ended is asked again */
    far_end = ends[1];
    answer(far_end, door);
    *ret_error = 0;
    return channel_new(ends[0], ends[0]);
}

int __wrap_close(int fd)
{
    if (__real_close(fd) != 0)
        found("something was closed twice");
    return 0;
}

/* ---- the target ---- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct offer offers[LIMIT_MODULES];
    unsigned count = 0;
    if (size < 2 || size > MOST_BYTES)
        return 0;
    unsigned before = count_descriptors();
    descriptors = data[0] % (MOST_FDS + 1);
    response = data + 1;
    response_len = size - 1;
    CK_RV rv = attach(data[0] & 0x80 ? "module" : NULL, data[0] & 0x40, offers, &count);
    if (count > LIMIT_MODULES)
        found("more offers than there is room for");
    for (unsigned i = 0; i < count && rv == CKR_OK; i++) {
        if (offers[i].door >= 0)
            close(offers[i].door);
        if (!memchr(offers[i].name, '\0', sizeof offers[i].name) || !offers[i].name[0])
            found("an offer without a name");
        if (offers[i].rows && sound_fault(offers[i].rows))
            found(sound_fault(offers[i].rows));
        rows_free(offers[i].rows);
    }
    attach_close();
    __real_close(far_end);
    far_end = -1;
    if (count_descriptors() != before)
        found("a descriptor stayed open");
    return 0;
}
