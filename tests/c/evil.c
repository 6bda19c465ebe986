#include "evil.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EVIL(name, bytes) {name, bytes, sizeof(bytes) - 1}
#define NEST8 "\x91\x91\x91\x91\x91\x91\x91\x91"

const struct evil evils[] = {
    EVIL("nothing", ""),
    EVIL("nil", "\xc0"),
    EVIL("false", "\xc2"),
    EVIL("true", "\xc3"),
    EVIL("0", "\x00"),
    EVIL("1", "\x01"),
    EVIL("24", "\x18"),
    EVIL("-1", "\xff"),
    EVIL("-2", "\xfe"),
    EVIL("5 as a uint64", "\xcf\x00\x00\x00\x00\x00\x00\x00\x05"),
    EVIL("-1 as an int32", "\xd2\xff\xff\xff\xff"),
    EVIL("-2^63", "\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
    EVIL("2^20", "\xce\x00\x10\x00\x00"),
    EVIL("2^31", "\xce\x80\x00\x00\x00"),
    EVIL("2^32", "\xcf\x00\x00\x00\x01\x00\x00\x00\x00"),
    EVIL("2^63", "\xcf\x80\x00\x00\x00\x00\x00\x00\x00"),
    EVIL("2^64 - 1", "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
    EVIL("no bytes", "\xc4\x00"),
    EVIL("a byte", "\xc4\x01x"),
    EVIL("8 bytes", "\xc4\x08\x10\x00\x00\x00\x00\x00\x00\x41"),
    EVIL("24 bytes", "\xc4\x18 pointer, so to say, 24."),
    EVIL("bytes without end", "\xc6\xff\xff\xff\xff"),
    EVIL("1 GiB that never comes", "\xc6\x40\x00\x00\x00"),
    EVIL("no text", "\xa0"),
    EVIL("a text", "\xa9" "C_GetInfo"),
    EVIL("a text with a NUL", "\xa3" "a\0b"),
    EVIL("text without end", "\xdb\xff\xff\xff\xff"),
    EVIL("[]", "\x90"),
    EVIL("[nil]", "\x91\xc0"),
    EVIL("[2^63]", "\x91\xcf\x80\x00\x00\x00\x00\x00\x00\x00"),
    EVIL("[5, nil]", "\x92\x05\xc0"),
    EVIL("[true, 1]", "\x92\xc3\x01"),
    EVIL("[true, 2^63]", "\x92\xc3\xcf\x80\x00\x00\x00\x00\x00\x00\x00"),
    EVIL("[1000, 8 bytes]", "\x92\xcd\x03\xe8\xc4\x08uninvite"),
    EVIL("[2, [1, 2]]", "\x92\x02\x92\x01\x02"),
    EVIL("[0x40000211, true, 240]", "\x93\xce\x40\x00\x02\x11\xc3\xcc\xf0"),
    EVIL("[[0x40000211, true, 240]]", "\x91\x93\xce\x40\x00\x02\x11\xc3\xcc\xf0"),
    EVIL("[0x40000211, 24 bytes]", "\x92\xce\x40\x00\x02\x11\xc4\x18 pointer, so to say, 24."),
    EVIL("[0, CK_ULONG 0]", "\x92\x00\x92\xa8" "CK_ULONG\x00"),
    EVIL("[CK_VERSION, [1, 2]]", "\x92\xaa" "CK_VERSION\x92\x01\x02"),
    EVIL("[CK_NOTHING, []]", "\x92\xaa" "CK_NOTHING\x90"),
    EVIL("2^20 elements that never come", "\xdd\x00\x10\x00\x00"),
    EVIL("2^20 + 1 elements", "\xdd\x00\x10\x00\x01"),
    EVIL("array without end", "\xdd\xff\xff\xff\xff"),
    EVIL("arrays in arrays", NEST8 NEST8 NEST8 NEST8 NEST8 "\xc0"),
    EVIL("{}", "\x80"),
    EVIL("{1: 1}", "\x81\x01\x01"),
    EVIL("map without end", "\xdf\xff\xff\xff\xff"),
    EVIL("a float", "\xca\x3f\x80\x00\x00"),
    EVIL("a double", "\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
    EVIL("an extension of 1 byte", "\xd4\x01x"),
    EVIL("an extension", "\xc7\x03\x01xyz"),
    EVIL("an extension without end", "\xc9\xff\xff\xff\xff\x01"),
    EVIL("8 bytes of the shelf", "\xd8\x01\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x08"),
    EVIL("all of the shelf", "\xd8\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x22\0\0"),
    EVIL("more than the shelf", "\xd8\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\x22\0\0"),
    EVIL("wild shelf", "\xd8\x01\x80\0\0\0\0\0\0\0\x80\0\0\0\0\0\0\0"),
    EVIL("another extension of 16 bytes", "\xd8\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08"),
    EVIL("a byte that means nothing", "\xc1"),
};
const unsigned evil_count = sizeof evils / sizeof *evils;

/* ---- places ---- */

struct scan {
    const struct message *m;
    struct place *places;
    size_t count, at;
};

static size_t big_endian(const struct scan *s, size_t at, unsigned width)
{
    size_t value = 0;
    for (unsigned i = 0; i < width; i++)
        value = value << 8 | (at + i < s->m->len ? s->m->bytes[at + i] : 0);
    return value;
}

/* What a head says: bytes of the head itself, bytes and values that follow. */
struct head {
    size_t size, bytes, values;
};

static struct head head_of(const struct scan *s)
{
    uint8_t b = s->m->bytes[s->at];
    unsigned wide = 1U << (b & 1), wider = 1U << (b & 3);
    if (b < 0x80 || b >= 0xe0 || b == 0xc0 || b == 0xc2 || b == 0xc3)
        return (struct head){1, 0, 0};
    if (b < 0x90)
        return (struct head){1, 0, 2U * (b & 15U)};
    if (b < 0xa0)
        return (struct head){1, 0, b & 15U};
    if (b < 0xc0)
        return (struct head){1, b & 31U, 0};
    if (b >= 0xc4 && b <= 0xc6)
        return (struct head){1 + wider, big_endian(s, s->at + 1, wider), 0};
    if (b >= 0xcc && b <= 0xd3)
        return (struct head){1, wider, 0};
    if (b == 0xd8)
        return (struct head){1, 17, 0};
    if (b >= 0xd9 && b <= 0xdb)
        return (struct head){1 + (1U << (b - 0xd9)), big_endian(s, s->at + 1, 1U << (b - 0xd9)), 0};
    if (b >= 0xdc)
        return (struct head){1 + 2 * wide, 0, big_endian(s, s->at + 1, 2 * wide) * (b >= 0xde ? 2 : 1)};
    return (struct head){1, s->m->len, 0};
}

static void scan_value(struct scan *s)
{
    if (s->at >= s->m->len)
        return;
    struct head head = head_of(s);
    size_t mine = s->count, from = s->at;
    s->count += s->count < PLACES;
    s->at += head.size + head.bytes;
    for (size_t i = 0; i < head.values && s->at < s->m->len; i++)
        scan_value(s);
    if (mine < PLACES)
        s->places[mine] = (struct place){from, s->at};
}

size_t evil_places(const struct message *message, struct place places[PLACES])
{
    struct scan s = {.m = message, .places = places};
    scan_value(&s);
    return s.at == message->len ? s.count : 0;
}

void evil_replace(struct message *message, const struct message *original, struct place place, const struct evil *evil)
{
    size_t rest = original->len - place.to;
    message_forget(message);
    *message = (struct message){.len = place.from + evil->len + rest};
    message->bytes = malloc(message->len + 1);
    if (!message->bytes)
        abort();
    memcpy(message->bytes, original->bytes, place.from);
    memcpy(message->bytes + place.from, evil->bytes, evil->len);
    memcpy(message->bytes + place.from + evil->len, original->bytes + place.to, rest);
}

void evil_flip(struct dice *dice, struct message *m)
{
    for (unsigned n = 1 + dice_throw(dice, 4); n && m->len; n--) {
        size_t at = dice_throw(dice, (uint32_t)m->len);
        switch (dice_throw(dice, 3)) {
        case 0: m->bytes[at] ^= (uint8_t)(1U << dice_throw(dice, 8)); break;
        case 1: m->bytes[at] = (uint8_t)dice_throw(dice, 256); break;
        default: m->len = at; break;
        }
    }
}

bool evil_is_wire_error(int error)
{
    return error == -EBADMSG || error == -EMSGSIZE || error == -ENODATA || error == -ENOMEM;
}
