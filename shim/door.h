/*
 * Doors: how a channel is opened, and the hello each side says first (specs/PROTOCOL.md, sections 2 and 3).
 */
#ifndef P11HOST_DOOR_H
#define P11HOST_DOOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "channel.h"

enum { PROTOCOL_VERSION = 1 };

struct hello {
    uint64_t protocol;
    uint64_t ulong;
    uint64_t tables;
    uint64_t pid;
    uint64_t rv;
    uint64_t cryptoki[2];
    bool bell;
    bool serial; /* the helper's provider gets one call at a time */
    char program[LIMIT_NAME + 1];
    char module[LIMIT_NAME + 1];
    char error[LIMIT_ERROR + 1];
};

/* This side's hello, with what is the same in all of them filled in. */
struct hello hello_ours(void);

void write_hello(struct writer *w, const struct hello *hello);

/* Whether we can talk to whoever said this: our protocol, and a CK_ULONG of 4 or 8 bytes. */
bool hello_fits(const struct hello *hello);

/* Bytes of a CK_ULONG at the other end, 0 if as many as here. */
uint8_t hello_width(const struct hello *hello);

/* Reads the whole notification. Errors stay in the reader. */
void read_hello(struct reader *r, struct hello *ret_hello);

enum door_kind { DOOR_OF_BROKER, DOOR_OF_HELPER, DOOR_OF_HELPER_TO_POLL };

/*
 * Opens a channel through `door`: sends its far end with our hello, to a helper also a way back and a bell, but not if it is to be polled for
 * answers: these must come through the socket. NULL with a
 * negative errno in *ret_error: -EPIPE when nobody is behind the door. The peer's hello has still to be read.
 */
struct channel *door_open(int door, const struct hello *hello, enum door_kind kind, const struct owner *owner, int *ret_error);

/*
 * The other side: takes one message from `door`. A channel and the sender's pid, or NULL with *ret_error 0 for a
 * message that was dropped, -ENODATA at the end, or another negative errno.
 */
struct channel *door_receive(int door, struct hello *ret_hello, pid_t *ret_pid, int *ret_error);

#endif
