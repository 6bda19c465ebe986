/*
 * Memory that both ends of a channel share: a bell, two trays and a shelf (specs/PROTOCOL.md, section 2).
 *
 * Waking a thread that sleeps in recv() on another processor costs more than most calls take. So whoever waits for a
 * message looks at this memory for some microseconds before it goes to sleep; where processors are too few for that it lets others go
 * first for a few turns. Then it dozes: it sleeps on a futex, which costs a third of a socket, but does not tell that the peer has died;
 * so nobody dozes for long before it sleeps in recv(). Until then a small message can be laid on its tray. All other
 * messages go through the socket, and the bell says that one has been sent.
 * The shelf holds long byte strings, which then need not go through the socket.
 *
 * The peer can write here at any time. A bell that lies makes its reader call recv() too early or too late, nothing else; what
 * lies on a tray is copied before it is read.
 */
#ifndef P11HOST_BELL_H
#define P11HOST_BELL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "codec.h"
#include "owner.h"

enum { BELL_PAGE = 4096, BELL_TRAY = 1920 };

/* Shut while its owner is asleep in recv(); open while it will look there before it goes to sleep, or just does. */
enum tray_state { TRAY_SHUT, TRAY_OPEN, TRAY_LAID, TRAY_DOZED_AT, TRAY_DOZED_AT_TOO };

/* One half of the page: what one end writes for the other. */
struct bell_side {
    _Atomic uint32_t rung; /* number of the last message that was sent through the socket */
    uint8_t apart[60];     /* on a cache line of its own */
    _Atomic uint32_t state; /* enum tray_state, a futex */
    uint32_t len;
    uint8_t apart_too[56];
    uint8_t tray[BELL_TRAY];
};

struct bell_page {
    struct bell_side to_maker, to_hanger;
};

_Static_assert(sizeof(struct bell_page) == BELL_PAGE, "the page is two halves");

struct bell {
    struct bell_page *page;    /* NULL: there is none */
    const struct owner *owner; /* of its channel; NULL: nobody else is ever to be feared */
    struct bell_side *ours;    /* what the peer writes for us */
    struct bell_side *theirs;  /* what we write for the peer */
    unsigned cpus;             /* processors we may run on */
    _Atomic unsigned *crowd;   /* threads of this process that are at it, this one included */
    bool leaves;               /* a thread asleep in recv() is not at it */
    bool by_the_tray;          /* the peer was awake or dozed when the last message was to be laid */
    uint32_t received, sent;
    uint32_t dozes;
    uint32_t misses; /* how often in a row looking was in vain */
    uint32_t rest;   /* how many messages not to look for */
    struct shelf shelf;
};

/*
 * Looking without a break pays while there is a processor for each end of every call in progress. `crowd` counts those of this
 * process; without it there is no looking at all. The caller's end is in the crowd for as long as its call lasts, the receiver's
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

/*
 * Before each message: lays it on the peer's tray. 1; 0, with nothing done, if the peer does not look or there is no room;
 * -EOWNERDEAD, with nothing done, if the bell is another process's.
 */
int bell_lay(struct bell *bell, const struct iovec *spans, size_t n_spans, size_t total);

/* What was laid last is still there: the peer has not taken it. */
bool bell_was_untouched(const struct bell *bell);

/* After a message was sent through the socket. */
void bell_ring(struct bell *bell);

/*
 * Before recv(): returns when a message was sent, or looking longer does not pay. The answer to a message of `asked` bytes takes its time, which the caller
 * of a library would have spent on it too.
 */
void bell_await(struct bell *bell, uint64_t asked);

/*
 * Then: how many bytes of it were on the tray, at most `max`, now in `bytes`; 0 if recv() must be asked; -EOWNERDEAD, with all as it was, if
 * the bell is another process's.
 */
long bell_take(struct bell *bell, void *bytes, size_t max);

/*
 * Before who waits elsewhere: what is to come will come through the socket, and has not yet. True if it has, or the bell is another
 * process's.
 */
bool bell_shut(struct bell *bell);

/* A message has come through the socket. */
void bell_answered(struct bell *bell);

#endif
