/* codec.h: the reader. */
#include "codec.h"

#include <errno.h>
#include <string.h>

#include "limits.h"

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
    if (r->soiled > r->end)
        explicit_bzero(r->buffer + r->end, r->soiled - r->end);
    r->soiled = r->end;
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
        if (r->end > r->soiled)
            r->soiled = r->end;
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
    if ((head >= 0xc4 && head <= 0xc6) || head == WIRE_EXTENSION)
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

bool read_nil_if(struct reader *r)
{
    if (read_peek(r) != WIRE_NIL)
        return false;
    read_nil(r);
    return true;
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

bool read_array_of(struct reader *r, size_t count)
{
    if (read_array(r) != count)
        reader_fail(r, -EBADMSG);
    return r->error == 0;
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
    if (type != WIRE_SHELVED || !r->shelf.base || at > r->shelf.size || len > r->shelf.size - at)
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
    if (peek_byte(r) == WIRE_EXTENSION) {
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
    uint64_t pending[LIMIT_DEPTH + 1] = {1};
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
        if (level == LIMIT_DEPTH)
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
