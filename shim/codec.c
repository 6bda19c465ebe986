#include "codec.h"

#include <errno.h>
#include <string.h>

#include "limits.h"

enum {
    WRITER_RESERVE = LIMIT_MESSAGE - LIMIT_BYTES,
    EXTENSION = 0xd8, /* fixext 16 */
    SHELVED = 1,      /* our only extension type: offset and length of a byte string on the shelf */
    SHELF_ALIGN = 64,
};

/* ---- writer ---- */

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

/* Puts the bytes on the shelf, unless they are there already. False when there is no room. */
static bool shelve(struct writer *w, const uint8_t *bytes, size_t len)
{
    size_t at = w->shelved;
    if (lies_on(&w->shelf, bytes)) {
        at = (size_t)(bytes - w->shelf.base);
    } else if (len <= w->shelf.size - at) {
        memcpy(w->shelf.base + at, bytes, len);
        w->shelved = (at + len + SHELF_ALIGN - 1) & ~(size_t)(SHELF_ALIGN - 1);
        if (w->shelved > w->shelf.size)
            w->shelved = w->shelf.size;
    } else {
        return false;
    }
    put_byte(w, EXTENSION);
    put_head(w, SHELVED, at, 8);
    uint8_t *size = extend(w, 8);
    for (unsigned i = 0; size && i < 8; i++)
        size[i] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
    return true;
}

void write_bin(struct writer *w, const void *bytes, size_t len)
{
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

/* ---- reader ---- */

void reader_init(struct reader *r, uint8_t *buffer, reader_source *source, void *context)
{
    *r = (struct reader){.buffer = buffer, .source = source, .context = context, .left = LIMIT_MESSAGE};
}

void reader_begin(struct reader *r)
{
    r->left = LIMIT_MESSAGE;
    r->error = 0;
    r->parcel = NULL;
    r->shelved = 0;
    if (r->pos == r->end)
        r->pos = r->end = 0;
}

void reader_wipe(struct reader *r)
{
    explicit_bzero(r->buffer, r->pos);
}

void reader_fail(struct reader *r, int error)
{
    if (!r->error)
        r->error = error;
}

/* Takes `len` bytes off what the message may still have. */
static bool spend(struct reader *r, size_t len)
{
    if (r->error)
        return false;
    if (len > r->left) {
        r->error = -EMSGSIZE;
        return false;
    }
    r->left -= len;
    return true;
}

static bool receive(struct reader *r, void *bytes, size_t max, size_t *ret_len)
{
    long n = r->source(r->context, bytes, max);
    if (n <= 0) {
        reader_fail(r, n == 0 ? -ENODATA : (int)n);
        return false;
    }
    *ret_len = (size_t)n;
    return true;
}

/* At least `len` bytes, len small, in the buffer from pos on. */
static bool gather(struct reader *r, size_t len)
{
    if (r->end - r->pos >= len)
        return true;
    memmove(r->buffer, r->buffer + r->pos, r->end - r->pos);
    r->end -= r->pos;
    r->pos = 0;
    while (r->end < len) {
        size_t n;
        if (!receive(r, r->buffer + r->end, READER_BUFFER - r->end, &n))
            return false;
        r->end += n;
    }
    return true;
}

static uint64_t take_number(struct reader *r, unsigned width)
{
    if (!spend(r, width) || !gather(r, width))
        return 0;
    uint64_t value = 0;
    for (unsigned i = 0; i < width; i++)
        value = value << 8 | r->buffer[r->pos++];
    return value;
}

static uint8_t take_byte(struct reader *r)
{
    return (uint8_t)take_number(r, 1);
}

static uint8_t peek_byte(struct reader *r)
{
    if (r->error || !gather(r, 1))
        return 0xc1; /* never used by MessagePack */
    return r->buffer[r->pos];
}

static enum wire_type type_of(uint8_t head)
{
    if (head < 0x80 || (head >= 0xcc && head <= 0xcf))
        return WIRE_UINT;
    if (head < 0x90 || head == 0xde || head == 0xdf)
        return WIRE_MAP;
    if (head < 0xa0 || head == 0xdc || head == 0xdd)
        return WIRE_ARRAY;
    if (head < 0xc0 || (head >= 0xd9 && head <= 0xdb))
        return WIRE_STR;
    if (head == 0xc0)
        return WIRE_NIL;
    if (head == 0xc2 || head == 0xc3)
        return WIRE_BOOL;
    if ((head >= 0xc4 && head <= 0xc6) || head == EXTENSION)
        return WIRE_BIN;
    if (head >= 0xe0 || (head >= 0xd0 && head <= 0xd3))
        return WIRE_INT;
    return WIRE_BAD; /* other extension types, floating point */
}

enum wire_type read_peek(struct reader *r)
{
    return type_of(peek_byte(r));
}

void read_nil(struct reader *r)
{
    if (take_byte(r) != 0xc0)
        reader_fail(r, -EBADMSG);
}

bool read_bool(struct reader *r)
{
    uint8_t head = take_byte(r);
    if (head != 0xc2 && head != 0xc3)
        reader_fail(r, -EBADMSG);
    return head == 0xc3;
}

uint64_t read_uint(struct reader *r)
{
    uint8_t head = take_byte(r);
    if (head < 0x80)
        return head;
    if (head == 0xff)
        return UINT64_MAX;
    if (head >= 0xcc && head <= 0xcf)
        return take_number(r, 1U << (head - 0xcc));
    if (head >= 0xd0 && head <= 0xd3) { /* signed, but -1 is the only negative number there is */
        unsigned width = 1U << (head - 0xd0);
        uint64_t value = take_number(r, width);
        uint64_t all = width == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * width)) - 1;
        if (value == all)
            return UINT64_MAX;
        if (value <= all / 2)
            return value;
    }
    reader_fail(r, -EBADMSG);
    return 0;
}

/* The count behind a head: in the head's low bits up to `fix`, or in a number after it. */
static uint64_t take_count(struct reader *r, uint8_t fix, uint8_t fix_mask, uint8_t first, unsigned smallest, unsigned kinds)
{
    uint8_t head = take_byte(r);
    if (fix && (head & (uint8_t)~fix_mask) == fix)
        return head & fix_mask;
    if (head >= first && head < first + kinds)
        return take_number(r, smallest << (head - first));
    reader_fail(r, -EBADMSG);
    return 0;
}

static size_t bounded(struct reader *r, uint64_t count, uint64_t limit)
{
    if (count > limit)
        reader_fail(r, -EMSGSIZE);
    return r->error ? 0 : (size_t)count;
}

size_t read_array(struct reader *r)
{
    return bounded(r, take_count(r, 0x90, 0x0f, 0xdc, 2, 2), LIMIT_ELEMENTS);
}

size_t read_map(struct reader *r)
{
    return bounded(r, take_count(r, 0x80, 0x0f, 0xde, 2, 2), LIMIT_ELEMENTS);
}

/* The head of a byte string on the shelf has been taken. */
static size_t find_parcel(struct reader *r)
{
    uint8_t type = take_byte(r);
    uint64_t at = take_number(r, 8), len = take_number(r, 8);
    if (type != SHELVED || !r->shelf.base || at > r->shelf.size || len > r->shelf.size - at)
        reader_fail(r, -EBADMSG);
    if (r->error)
        return 0;
    r->parcel = len ? r->shelf.base + at : NULL;
    if (at + len > r->shelved)
        r->shelved = (size_t)(at + len);
    return (size_t)len;
}

void *read_in_place(struct reader *r)
{
    const uint8_t *parcel = r->parcel;
    r->parcel = NULL;
    return (void *)(uintptr_t)parcel;
}

size_t read_bin(struct reader *r)
{
    if (peek_byte(r) == EXTENSION) {
        take_byte(r);
        return find_parcel(r);
    }
    return bounded(r, take_count(r, 0, 0, 0xc4, 1, 3), LIMIT_BYTES);
}

size_t read_str(struct reader *r)
{
    return bounded(r, take_count(r, 0xa0, 0x1f, 0xd9, 1, 3), LIMIT_BYTES);
}

void read_raw(struct reader *r, void *bytes, size_t len)
{
    const uint8_t *parcel = r->error ? NULL : read_in_place(r);
    if (parcel) {
        memcpy(bytes, parcel, len);
        return;
    }
    if (!spend(r, len))
        return;
    size_t ready = r->end - r->pos < len ? r->end - r->pos : len;
    if (ready)
        memcpy(bytes, r->buffer + r->pos, ready);
    r->pos += ready;
    uint8_t *at = bytes;
    for (size_t done = ready, n; done < len; done += n)
        if (!receive(r, at + done, len - done, &n))
            return;
}

static void skip_raw(struct reader *r, size_t len)
{
    if (read_in_place(r))
        return;
    uint8_t sink[256];
    while (len && !r->error) {
        size_t n = len < sizeof sink ? len : sizeof sink;
        read_raw(r, sink, n);
        len -= n;
    }
    explicit_bzero(sink, sizeof sink);
}

/* Without recursion: counts the values still to come on each level. */
void read_skip(struct reader *r)
{
    uint64_t pending[LIMIT_DEPTH] = {1};
    int level = 0;
    while (level >= 0 && !r->error) {
        if (pending[level] == 0) {
            level--;
            continue;
        }
        pending[level]--;
        uint64_t inside = 0;
        switch (read_peek(r)) {
        case WIRE_NIL: read_nil(r); break;
        case WIRE_BOOL: read_bool(r); break;
        case WIRE_UINT: read_uint(r); break;
        case WIRE_INT: skip_raw(r, peek_byte(r) >= 0xe0 ? 1 : 1 + (1U << (peek_byte(r) - 0xd0))); break;
        case WIRE_BIN: skip_raw(r, read_bin(r)); break;
        case WIRE_STR: skip_raw(r, read_str(r)); break;
        case WIRE_ARRAY: inside = read_array(r); break;
        case WIRE_MAP: inside = 2 * (uint64_t)read_map(r); break;
        case WIRE_BAD: reader_fail(r, -EBADMSG); break;
        }
        if (inside == 0)
            continue;
        if (level + 1 == LIMIT_DEPTH)
            reader_fail(r, -EMSGSIZE);
        else
            pending[++level] = inside;
    }
}

void read_text(struct reader *r, char *text, size_t size)
{
    size_t len = read_str(r);
    text[0] = '\0';
    if (r->error)
        return;
    if (len >= size) {
        reader_fail(r, -EMSGSIZE);
        return;
    }
    read_raw(r, text, len);
    if (!r->error && memchr(text, '\0', len))
        reader_fail(r, -EBADMSG);
    text[r->error ? 0 : len] = '\0';
}
