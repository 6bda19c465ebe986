/*
 * Doors: how a channel is opened, and the hello each side says first (specs/PROTOCOL.md, sections 2 and 3).
 */
#ifndef P11HOST_DOOR_H
#define P11HOST_DOOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "channel.h"

enum { HELLO_ERROR = 512, PROTOCOL_VERSION = 1 };

struct hello {
    uint64_t protocol;
    uint64_t ulong;
    uint64_t tables;
    uint64_t pid;
    uint64_t rv;
    uint64_t cryptoki[2];
    char program[LIMIT_NAME + 1];
    char module[LIMIT_NAME + 1];
    char error[HELLO_ERROR];
};

/* This side's hello, with what is the same in all of them filled in. */
struct hello hello_ours(void);

void write_hello(struct writer *w, const struct hello *hello);

/* Reads the whole notification. Errors stay in the reader. */
void read_hello(struct reader *r, struct hello *ret_hello);

/*
 * Sends one end of a new channel through `door` with our hello and gives the other. NULL with a negative errno in
 * *ret_error: -EPIPE when nobody is behind the door. The peer's hello has still to be read. `with_bell`: a bell goes along.
 */
struct channel *door_open(int door, const struct hello *hello, bool with_bell, int *ret_error);

/*
 * The other side: takes one message from `door`. A channel and the sender's pid, or NULL with *ret_error 0 for a
 * message that was dropped, -ENODATA at the end, or another negative errno.
 */
struct channel *door_receive(int door, struct hello *ret_hello, pid_t *ret_pid, int *ret_error);

#endif
