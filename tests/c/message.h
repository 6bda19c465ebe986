/* A message in memory: taken from a writer, given to a reader in portions, as a socket would. */
#ifndef P11HOST_MESSAGE_H
#define P11HOST_MESSAGE_H

#include "codec.h"

struct message {
    uint8_t *bytes;
    size_t len, at;
    size_t portion; /* bytes the source gives at a time; 0 for all there are */
    int error;      /* the writer's */
};

/* What the writer holds, as one piece; the writer is reset. */
void message_take(struct message *message, struct writer *w);

/* A copy of these bytes. */
void message_set(struct message *message, const void *bytes, size_t len);
void message_forget(struct message *message);

reader_source message_source; /* the context is the message; at its end, the end */

/* Nothing of it is left, here or in the reader. */
bool message_is_read(const struct message *message, const struct reader *r);

#endif
