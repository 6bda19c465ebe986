/*
 * The descriptors this library has open in somebody else's process.
 *
 * They are listed in ordinary memory, which a forked child inherits: that is how a child finds the ones that are its
 * parent's and closes them. Only after device and inode have been compared: the program may have closed our number
 * and opened something else under it.
 */
#ifndef P11HOST_DESCRIPTORS_H
#define P11HOST_DESCRIPTORS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct identity {
    dev_t device;
    ino_t inode;
};

/* Out of the way of stdin, stdout and stderr, which a program may have closed. Returns the descriptor or -1. */
int descriptor_raise(int fd);

bool descriptor_identify(int fd, struct identity *ret_identity);
bool descriptor_is(int fd, const struct identity *identity);

void descriptor_remember(int fd);

/* The same of one that other processes have too, so that it may be closed here but never shut down. */
void descriptor_remember_shared(int fd);

void descriptor_forget(int fd);

/* In a child: closes what the parent had open. Never shuts down, never writes. */
void descriptors_close_inherited(void);

/* Wakes every thread that waits on one of them that is not shared. */
void descriptors_shut_down(void);

#endif
