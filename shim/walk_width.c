/*
 * The walker where the two ends' CK_ULONG differ in width (section 4.6 of the protocol).
 *
 * Numbers and fields have no width on the wire. Lengths in bytes have that of the caller: the helper converts them, both
 * ways. Numbers that the helper's CK_ULONG cannot hold are not sent.
 */
#include "walk.h"

/* 32 bits or more above the first 32: in two steps, as one is too far where there are only 32. */
static bool is_too_wide(const struct walk *walk, CK_ULONG value)
{
    return walk->theirs < sizeof value && value >> 16 >> 16 != 0 && value != CK_UNAVAILABLE_INFORMATION;
}

void put_number(struct walk *walk, CK_ULONG value, CK_RV why)
{
    if (walk->theirs && walk->names && is_too_wide(walk, value))
        refuse(walk, why, "a number that the helper's CK_ULONG cannot hold");
    write_number(walk->w, value);
}

CK_ULONG most_there(const struct walk *walk)
{
    return walk->theirs && walk->theirs < sizeof(CK_ULONG) ? LIMIT_NARROW_BYTES : LIMIT_BYTES;
}

uint64_t wide(CK_ULONG value)
{
    return value == CK_UNAVAILABLE_INFORMATION ? UINT64_MAX : value;
}

void write_wide(struct writer *w, uint64_t value)
{
    if (value == UINT64_MAX)
        write_minus_one(w);
    else
        write_uint(w, value);
}

CK_ULONG cut(uint64_t room)
{
    if (room == UINT64_MAX)
        return CK_UNAVAILABLE_INFORMATION;
    return room < CK_UNAVAILABLE_INFORMATION ? (CK_ULONG)room : CK_UNAVAILABLE_INFORMATION - 1;
}

/* Bytes of one element of a value at an end whose CK_ULONG has `ulong` of them. */
static CK_ULONG element(enum value_kind kind, CK_ULONG ulong)
{
    switch (kind) {
    case VALUE_NUMBER:
    case VALUE_OBJECT:
    case VALUE_NUMBERS: return ulong;
    case VALUE_TEMPLATE: return ulong * (sizeof(CK_ATTRIBUTE) / sizeof(CK_ULONG));
    default: return 1;
    }
}

bool has_odd_length(const struct walk *walk, enum value_kind kind, CK_ULONG len)
{
    bool one = kind == VALUE_NUMBER || kind == VALUE_OBJECT;
    return walk->theirs && walk->names && len != 0 && (one ? len != sizeof(CK_ULONG) : len % element(kind, sizeof(CK_ULONG)) != 0);
}

CK_ULONG room_here(const struct walk *walk, enum value_kind kind, CK_ULONG room)
{
    if (!walk->theirs || room == CK_UNAVAILABLE_INFORMATION)
        return room;
    CK_ULONG theirs = element(kind, walk->theirs), ours = element(kind, sizeof(CK_ULONG)), rest = room % theirs;
    if (kind == VALUE_NUMBER && room > theirs)
        return room < ours ? ours : room; /* more than one number needs is no number */
    return room / theirs * ours + (rest < ours ? rest : ours - 1);
}

/* How many times longer numbers and pointers are at the caller's end. */
static CK_ULONG growth(const struct walk *walk)
{
    return walk->theirs > sizeof(CK_ULONG) ? walk->theirs / sizeof(CK_ULONG) : 1;
}

CK_ULONG extent_here(const struct walk *walk, CK_ULONG room)
{
    return room == CK_UNAVAILABLE_INFORMATION ? room : room / growth(walk);
}

uint64_t extent_there(const struct walk *walk, CK_ULONG len)
{
    return len == CK_UNAVAILABLE_INFORMATION ? wide(len) : wide(len) * growth(walk);
}

uint64_t length_there(const struct walk *walk, enum value_kind kind, CK_ULONG len)
{
    CK_ULONG ours = element(kind, sizeof(CK_ULONG));
    if (!walk->theirs || len == CK_UNAVAILABLE_INFORMATION)
        return wide(len);
    bool one = kind == VALUE_NUMBER || kind == VALUE_OBJECT;
    if (one ? len != ours : kind == VALUE_NUMBERS && len % ours != 0)
        return len; /* bytes */
    return (uint64_t)(len / ours) * element(kind, walk->theirs) + len % ours;
}
