#include "descriptors.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "limits.h"

struct entry {
    _Atomic int number; /* descriptor + 1; 0 is free, -1 is being filled */
    _Atomic(dev_t) device;
    _Atomic(ino_t) inode;
    _Atomic bool shared;
};

static struct entry entries[3 * LIMIT_CHANNELS];

enum { ENTRIES = sizeof entries / sizeof *entries };

int descriptor_raise(int fd)
{
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int raised = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return raised;
}

bool descriptor_identify(int fd, struct identity *ret_identity)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return false;
    *ret_identity = (struct identity){.device = st.st_dev, .inode = st.st_ino};
    return true;
}

bool descriptor_is(int fd, const struct identity *identity)
{
    struct identity now;
    return descriptor_identify(fd, &now) && now.device == identity->device && now.inode == identity->inode;
}

static void remember(int fd, bool shared)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        int free = 0;
        if (!atomic_compare_exchange_strong(&entries[i].number, &free, -1))
            continue;
        struct identity identity = {0};
        bool known = descriptor_identify(fd, &identity);
        atomic_store(&entries[i].device, identity.device);
        atomic_store(&entries[i].inode, identity.inode);
        atomic_store(&entries[i].shared, shared);
        atomic_store(&entries[i].number, known ? fd + 1 : 0);
        return;
    }
}

void descriptor_remember(int fd)
{
    remember(fd, false);
}

void descriptor_remember_shared(int fd)
{
    remember(fd, true);
}

void descriptor_forget(int fd)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        int ours = fd + 1;
        if (atomic_compare_exchange_strong(&entries[i].number, &ours, 0))
            return;
    }
}

/* The descriptor of an entry, -1 if there is none or the program has something else under that number now. */
static int descriptor_of(struct entry *entry)
{
    int number;
    bool ours;
    do { /* again, if another thread changed it meanwhile */
        number = atomic_load(&entry->number);
        struct identity identity = {atomic_load(&entry->device), atomic_load(&entry->inode)};
        ours = number > 0 && descriptor_is(number - 1, &identity);
    } while (atomic_load(&entry->number) != number);
    return ours ? number - 1 : -1;
}

void descriptors_close_inherited(void)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        int fd = descriptor_of(&entries[i]);
        if (fd >= 0)
            close(fd);
        atomic_store(&entries[i].number, 0);
    }
}

void descriptors_shut_down(void)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        int fd = descriptor_of(&entries[i]);
        if (fd >= 0 && !atomic_load(&entries[i].shared))
            shutdown(fd, SHUT_RDWR);
    }
}
