/* Values that do not belong where they stand: what a peer might write instead of any value of a message. */
#ifndef P11HOST_EVIL_H
#define P11HOST_EVIL_H

#include "dice.h"
#include "message.h"

struct evil {
    const char *name;
    const char *bytes;
    uint8_t len;
};

extern const struct evil evils[];
extern const unsigned evil_count;

struct place {
    size_t from, to;
};

enum { PLACES = 512 };

/*
 * Where the values of a message stand, containers and what is in them, at most PLACES. Knows MessagePack apart from the
 * reader. 0 if it is not whole.
 */
size_t evil_places(const struct message *message, struct place places[PLACES]);

/* The message with one value replaced. */
void evil_replace(struct message *message, const struct message *original, struct place place, const struct evil *evil);

/* A few bits and bytes changed, or the end missing. */
void evil_flip(struct dice *dice, struct message *message);

/* Whether a reader may say that of a message. */
bool evil_is_wire_error(int error);

#endif
