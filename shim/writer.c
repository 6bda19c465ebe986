/* codec.h: the writer. */
#include "codec.h"

#include <errno.h>
#include <string.h>

#include "limits.h"

enum {
    WRITER_RESERVE = sizeof(void *) == 8 ? LIMIT_MESSAGE - LIMIT_BYTES : 8 << 20, /* addresses are scarce */
    SHELF_ALIGN = 64,
    SHELF_PIECE = 16384,
};

int writer_init(struct writer *w)
{
    *w = (struct writer){0};
    return arena_init(&w->buffer, WRITER_RESERVE);
}

void writer_finish(struct writer *w)
{
    arena_finish(&w->buffer);
}

void writer_reset(struct writer *w)
{
    arena_reset(&w->buffer, true);
    w->n_spans = 0;
    w->open = 0;
    w->total = 0;
    w->error = 0;
    w->shelved = 0;
}

static void writer_fail(struct writer *w, int error)
{
    if (!w->error)
        w->error = error;
}

static uint8_t *extend(struct writer *w, size_t len)
{
    if (w->error)
        return NULL;
    size_t at = w->buffer.used;
    if (len > w->buffer.reserved - at || !arena_commit(&w->buffer, at + len)) {
        writer_fail(w, -EMSGSIZE);
        return NULL;
    }
    w->buffer.used = at + len;
    return w->buffer.base + at;
}

static void add_span(struct writer *w, void *bytes, size_t len)
{
    w->spans[w->n_spans++] = (struct iovec){.iov_base = bytes, .iov_len = len};
    w->total += len;
}

static void close_span(struct writer *w)
{
    if (w->buffer.used > w->open)
        add_span(w, w->buffer.base + w->open, w->buffer.used - w->open);
    w->open = w->buffer.used;
}

unsigned writer_seal(struct writer *w)
{
    if (w->error)
        return 0;
    close_span(w);
    if (w->total > LIMIT_MESSAGE) {
        writer_fail(w, -EMSGSIZE);
        return 0;
    }
    return w->n_spans;
}

/* A head byte and a big-endian number of `width` bytes. */
static void put_head(struct writer *w, uint8_t head, uint64_t value, unsigned width)
{
    uint8_t *at = extend(w, 1 + width);
    if (!at)
        return;
    *at++ = head;
    for (unsigned i = width; i-- > 0;)
        *at++ = (uint8_t)(value >> (8 * i));
}

static void put_byte(struct writer *w, uint8_t byte)
{
    put_head(w, byte, 0, 0);
}

void write_nil(struct writer *w)
{
    put_byte(w, 0xc0);
}

void write_bool(struct writer *w, bool value)
{
    put_byte(w, value ? 0xc3 : 0xc2);
}

void write_minus_one(struct writer *w)
{
    put_byte(w, 0xff);
}

void write_uint(struct writer *w, uint64_t value)
{
    if (value < 0x80)
        put_byte(w, (uint8_t)value);
    else if (value <= UINT8_MAX)
        put_head(w, 0xcc, value, 1);
    else if (value <= UINT16_MAX)
        put_head(w, 0xcd, value, 2);
    else if (value <= UINT32_MAX)
        put_head(w, 0xce, value, 4);
    else
        put_head(w, 0xcf, value, 8);
}

void write_array(struct writer *w, size_t count)
{
    if (count < 16)
        put_byte(w, (uint8_t)(0x90 | count));
    else if (count <= UINT16_MAX)
        put_head(w, 0xdc, count, 2);
    else
        put_head(w, 0xdd, count, 4);
}

void write_map(struct writer *w, size_t count)
{
    if (count < 16)
        put_byte(w, (uint8_t)(0x80 | count));
    else
        put_head(w, 0xde, count, 2);
}

void write_str(struct writer *w, const char *text, size_t len)
{
    if (len < 32)
        put_byte(w, (uint8_t)(0xa0 | len));
    else if (len <= UINT8_MAX)
        put_head(w, 0xd9, len, 1);
    else
        put_head(w, 0xda, len, 2);
    uint8_t *at = extend(w, len);
    if (at)
        memcpy(at, text, len);
}

static void put_by_reference(struct writer *w, const void *bytes, size_t len)
{
    if (w->error)
        return;
    close_span(w);
    add_span(w, (void *)(uintptr_t)bytes, len);
}

static bool lies_on(const struct shelf *shelf, const uint8_t *bytes)
{
    return shelf->base && bytes >= shelf->base && bytes < shelf->base + shelf->size;
}

/* In pieces: a child of a process that was interrupted here does not go on for long. */
static void lay_down(struct writer *w, size_t at, const uint8_t *bytes, size_t len)
{
    for (size_t done = 0, piece; done < len; done += piece) {
        if (w->shelf.owner && owner_is_another(w->shelf.owner)) {
            writer_fail(w, -EOWNERDEAD);
            return;
        }
        piece = len - done < SHELF_PIECE ? len - done : SHELF_PIECE;
        memcpy(w->shelf.base + at + done, bytes + done, piece);
    }
}

/* Puts the bytes on the shelf, unless they are there already. False when there is no room. */
static bool shelve(struct writer *w, const uint8_t *bytes, size_t len)
{
    size_t at = w->shelved;
    if (lies_on(&w->shelf, bytes)) {
        at = (size_t)(bytes - w->shelf.base);
    } else if (len <= w->shelf.size - at) {
        lay_down(w, at, bytes, len);
        w->shelved = (at + len + SHELF_ALIGN - 1) & ~(size_t)(SHELF_ALIGN - 1);
        if (w->shelved > w->shelf.size)
            w->shelved = w->shelf.size;
    } else {
        return false;
    }
    put_byte(w, WIRE_EXTENSION);
    put_head(w, WIRE_SHELVED, at, 8);
    uint8_t *size = extend(w, 8);
    for (unsigned i = 0; size && i < 8; i++)
        size[i] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
    return true;
}

/* All ones where even that is a secret. */
static void write_length_alone(struct writer *w, size_t len)
{
    put_byte(w, WIRE_EXTENSION_8);
    put_head(w, WIRE_CONCEALED, w->discreet == DISCREET_ALL ? UINT64_MAX : len, 8);
}

void write_bin(struct writer *w, const void *bytes, size_t len)
{
    if (w->discreet) {
        write_length_alone(w, len);
        return;
    }
    if (len > LIMIT_BYTES) {
        writer_fail(w, -EMSGSIZE);
        return;
    }
    if (len >= WRITER_BY_REFERENCE && w->shelf.base && shelve(w, bytes, len))
        return;
    if (len <= UINT8_MAX)
        put_head(w, 0xc4, len, 1);
    else if (len <= UINT16_MAX)
        put_head(w, 0xc5, len, 2);
    else
        put_head(w, 0xc6, len, 4);
    /* Two spans are kept back: the piece before this one and the one after the last. */
    if (len >= WRITER_BY_REFERENCE && w->n_spans + 3 <= WRITER_SPANS) {
        put_by_reference(w, bytes, len);
        return;
    }
    uint8_t *at = extend(w, len);
    if (at && len)
        memcpy(at, bytes, len);
}
