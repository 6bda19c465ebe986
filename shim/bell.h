/*
 * Memory that both ends of a channel share: a bell and a shelf (specs/PROTOCOL.md, section 2).
 *
 * The bell is one page by which each end of a channel tells the other, without a system call, that a message has
 * been sent.
 *
 * The bell only saves time: the receiver looks at the page for some microseconds before it goes to sleep in recv(), because
 * waking a sleeper on another processor costs more than most calls take. Messages go through the socket, bell or no
 * bell; a bell that lies makes its reader call recv() too early or too late, nothing else. The shelf holds long byte
 * strings, which then need not go through the socket.
 */
#ifndef P11HOST_BELL_H
#define P11HOST_BELL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "codec.h"

struct bell {
    struct bell_page *page;    /* NULL: there is none */
    _Atomic uint32_t *ours;    /* number of the last message that the peer says it sent */
    _Atomic uint32_t *theirs;  /* of the last that we sent */
    unsigned cpus;             /* processors we may run on */
    _Atomic unsigned *crowd;   /* threads of this process that are at it, this one included */
    bool leaves;               /* a thread asleep in recv() is not at it */
    uint32_t received, sent;
    uint32_t misses; /* how often in a row looking was in vain */
    uint32_t rest;   /* how many messages not to look for */
    struct shelf shelf;
};

/*
 * Looking pays while there is a processor for each end of every call in progress. `crowd` counts those of this process;
 * without it there is no looking. The caller's end is in the crowd for as long as its call lasts, the receiver's
 * (`leaves`) while it is not asleep.
 */
void bell_heed(struct bell *bell, _Atomic unsigned *crowd, bool leaves);
void bell_sleep(struct bell *bell);
void bell_wake(struct bell *bell);

/* A new page; its descriptor, close-on-exec, is the caller's to send and close. -1 if there can be none. */
int bell_make(struct bell *bell);

/* The page behind a descriptor that came from a peer, which stays the caller's. No bell if it could be pulled away. */
void bell_hang(struct bell *bell, int fd);
void bell_finish(struct bell *bell);

/* After a message was sent. */
void bell_ring(struct bell *bell);

/*
 * Before recv(): returns when a message was sent, or looking longer does not pay. The answer to a message of `bytes`
 * takes its time, which the caller of a library would have spent on it too.
 */
void bell_await(struct bell *bell, uint64_t bytes);

/* A message has been received. */
void bell_answered(struct bell *bell);

#endif
