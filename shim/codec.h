/*
 * MessagePack, as much of it as the protocol uses: one writer and one reader.
 *
 * Both keep their first error and do nothing after it, so a caller checks once, at the end. Neither knows Cryptoki.
 * A shelf is memory both ends share: a long byte string may lie there, and only where travels in the message. The
 * writer gathers: short values go into its buffer, long byte strings are sent from where they lie. The reader
 * pulls: a long byte string is received straight into its destination.
 */
#ifndef P11HOST_CODEC_H
#define P11HOST_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "arena.h"
#include "owner.h"

struct shelf {
    uint8_t *base; /* NULL: there is none */
    size_t size;
    const struct owner *owner; /* NULL: nobody else is ever to be feared */
};

/* Extension types: fixext 16, offset and length of a byte string on the shelf; and fixext 8, in a trace alone, the length of one. */
enum { WIRE_EXTENSION = 0xd8, WIRE_SHELVED = 1, WIRE_EXTENSION_8 = 0xd7, WIRE_CONCEALED = 2 };

/* What a writer writes of byte strings: all, their lengths, or no more than that there are some. */
enum discretion { DISCREET_NONE, DISCREET_CONTENTS, DISCREET_ALL };

enum {
    WRITER_SPANS = 32,          /* pieces of one message */
    WRITER_BY_REFERENCE = 8192, /* byte strings from this length on are not copied */
    READER_BUFFER = 64 * 1024,
};

struct writer {
    struct arena buffer;
    struct iovec spans[WRITER_SPANS]; /* finished pieces; the rest of the buffer from `open` on is the last */
    unsigned n_spans;
    size_t open;
    size_t total; /* bytes in finished pieces */
    int error;    /* 0 or negative errno */
    struct shelf shelf;
    size_t shelved; /* bytes of it this message uses, from its beginning */
    enum discretion discreet;
};

int writer_init(struct writer *w);
void writer_finish(struct writer *w);

/* Forgets the message; wipes the buffer. */
void writer_reset(struct writer *w);

/* Closes the last piece. Returns the number of pieces, 0 on error. */
unsigned writer_seal(struct writer *w);

void write_nil(struct writer *w);
void write_bool(struct writer *w, bool value);
void write_uint(struct writer *w, uint64_t value);
void write_minus_one(struct writer *w);
void write_array(struct writer *w, size_t count);
void write_map(struct writer *w, size_t count);
void write_str(struct writer *w, const char *text, size_t len);
void write_bin(struct writer *w, const void *bytes, size_t len);

enum wire_type { WIRE_NIL = 1, WIRE_BOOL, WIRE_UINT, WIRE_INT, WIRE_BIN, WIRE_STR, WIRE_ARRAY, WIRE_MAP, WIRE_BAD };

/* Gives at least one byte and at most `max`, or a negative errno; 0 is the end. */
typedef long reader_source(void *context, void *bytes, size_t max);

struct reader {
    uint8_t *buffer; /* READER_BUFFER bytes, the owner's */
    size_t pos, end;
    size_t soiled; /* bytes of the buffer that hold, or held, what was received */
    uint64_t left; /* bytes this message may still have */
    reader_source *source;
    void *context;
    struct shelf shelf;
    const uint8_t *parcel; /* what read_bin found on the shelf and read_raw has still to fetch */
    size_t shelved;        /* bytes of the shelf this message uses, from its beginning */
    int error; /* 0, -EBADMSG malformed, -EMSGSIZE over a limit, -ENODATA end, else from the source */
};

void reader_init(struct reader *r, uint8_t *buffer, reader_source *source, void *context);

/* Begins the next message: what has already arrived of it stays. */
void reader_begin(struct reader *r);

/* Wipes what has been read. */
void reader_wipe(struct reader *r);

/* Whose fault an error is not yet known to be: sets it unless there is one. */
void reader_fail(struct reader *r, int error);

enum wire_type read_peek(struct reader *r);
void read_nil(struct reader *r);
bool read_nil_if(struct reader *r);                   /* takes a nil, if that is next */
bool read_bool(struct reader *r);
uint64_t read_uint(struct reader *r);   /* -1 reads as all ones */
size_t read_array(struct reader *r);    /* at most LIMIT_ELEMENTS */
bool read_array_of(struct reader *r, size_t count); /* exactly so many */
size_t read_map(struct reader *r);
size_t read_bin(struct reader *r);      /* length; read_raw must follow */
size_t read_str(struct reader *r);      /* length; read_raw must follow */
void read_raw(struct reader *r, void *bytes, size_t len);

/* Instead of read_raw: where on the shelf the bytes lie, NULL if they do not. The peer can still change them. */
void *read_in_place(struct reader *r);

void read_skip(struct reader *r);       /* one value of any kind */

/* A string of at most `size` - 1 bytes, NUL-terminated; longer or with a NUL inside is an error. */
void read_text(struct reader *r, char *text, size_t size);

#endif
