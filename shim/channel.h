/*
 * A channel: a connected stream socket, perhaps a second one for the way back, with a writer, a reader and deadlines.
 * Both ends use it.
 *
 * Knows sockets and messages; knows nothing of Cryptoki. A channel serves one thread at a time.
 */
#ifndef P11HOST_CHANNEL_H
#define P11HOST_CHANNEL_H

#include <stdint.h>

#include "bell.h"
#include "codec.h"
#include "limits.h"
#include "owner.h"

struct slate_mark;
struct slate_tally;

struct channel {
    int from, to;         /* descriptors: one and the same if there is no way back */
    uint32_t generation;  /* the shim's: the helper's life it belongs to */
    struct owner owner;   /* the shim's: whose it is */
    uint64_t due_ms;      /* the shim's: see late.h */
    uint32_t opener;      /* the helper's: the process that opened it */
    struct slate_mark *mark; /* the helper's: where its thread notes what it calls; NULL if nowhere */
    struct slate_tally *tallies; /* and counts it, if there is a mark */
    uint32_t next_id;     /* the shim's: msgid of the next request */
    uint8_t theirs;       /* bytes of a CK_ULONG at the other end, 0 if as many as here */
    uint32_t receive_tick, send_tick; /* milliseconds one system call waits at most; 0 for ever */
    uint32_t deadline_ms; /* all the waiting for one message; 0 for ever */
    uint32_t waited_ms;
    uint32_t steps;       /* system calls since the deadline was set */
    uint64_t slow_since;  /* when the second of them began, by the clock */
    struct bell bell;
    uint64_t sent;  /* bytes of the last message, those on the shelf included */
    uint64_t asked; /* see channel_begin */
    bool ahead;    /* what was posted through the socket may not have been read */
    bool between;  /* waiting for the first byte of a message */
    bool looked;   /* and that has been looked for */
    struct writer out;
    struct reader in;
    uint8_t buffer[READER_BUFFER];
};

/* Maps memory for a channel, which owns its descriptors from then on, also on failure. NULL when out of memory. */
struct channel *channel_new(int from, int to);
struct channel *channel_free(struct channel *channel);

/* From now on one system call waits at most so many milliseconds. */
void channel_set_ticks(struct channel *channel, uint32_t receive_ms, uint32_t send_ms);

/*
 * Begins to wait for one message for at most `ms` in all (0: for ever): counted in ticks of silence, and by the clock from
 * the second system call on.
 */
void channel_set_deadline(struct channel *channel, uint32_t ms);

/* Milliseconds of a clock that only goes forward. */
uint64_t channel_now_ms(void);

/* Both ends have the bell: its shelf is the writer's and reader's from now on. */
void channel_use_shelf(struct channel *channel);

/* From now on it is that process's, and no child's: there nothing more is sent or taken, and the error is -EOWNERDEAD. */
void channel_belongs_to(struct channel *channel, const struct owner *owner);

/* Begins to read the next message: the answer to `asked` bytes, 0 if it answers nothing. */
void channel_begin(struct channel *channel, uint64_t asked);

/*
 * For who waits no longer than it likes: looks for the first byte as any reader does before it sleeps, or only whether it is there. True if
 * there is something to read; else it will come through the socket, which can be polled.
 */
bool channel_look(struct channel *channel, bool waits);

/*
 * Sends what the writer holds and forgets it. 0; -EPIPE when the peer is gone, -ETIMEDOUT, -EMSGSIZE or
 * another negative errno. After an error the channel is of no more use.
 */
int channel_send(struct channel *channel);

/* Sends a small message if that can be done at once, and forgets it in any case. An error is as of channel_send. */
int channel_post(struct channel *channel);

#endif
