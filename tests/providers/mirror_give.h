/*
 * The mirror's hands: everything a call is to fill, filled with numbers that follow from what was seen.
 *
 * What the standard gives a caller only with CKR_OK is written only then; what it may get with an error too (lengths,
 * handles, the parameter of a mechanism) is written then as well, sometimes.
 */
#ifndef MIRROR_GIVE_H
#define MIRROR_GIVE_H

#include "mirror_see.h"

/* How the test wants its calls answered: the value of CKA_MIRROR_WISH, in this order, least byte first. */
enum wish_flag {
    WISH_LATE = 1,      /* calls without a mechanism write into the parameter that the session's last one got */
    WISH_NARROW = 2,    /* no number needs more than 32 bits */
    WISH_SENSITIVE = 4, /* no attribute can be revealed */
    WISH_UNKNOWN = 8,   /* no attribute is known */
    WISH_NOTHING = 16,  /* no mechanism's parameter is written */
    WISH_LIES = 32,     /* every length is a lie: more than there is room for, or an address */
};

static struct {
    CK_RV rv;
    CK_ULONG need; /* bytes or elements that every output has */
    unsigned flags;
} wish = {.rv = CKR_OK, .need = 20};

static CK_RV rv;      /* of this call */
static uint64_t dice; /* of this call */

static uint64_t roll(void)
{
    dice ^= dice >> 12;
    dice ^= dice << 25;
    dice ^= dice >> 27;
    return dice * 2685821657736338717U >> 16;
}

static void think(void)
{
    dice = digest(said.text, said.len) | 1;
    rv = wish.rv;
}

static CK_ULONG below(CK_ULONG limit)
{
    return (CK_ULONG)(roll() % limit);
}

static CK_ULONG any_number(void)
{
    uint64_t value = roll();
    CK_ULONG shape = below(8);
    if (shape == 0)
        return CK_UNAVAILABLE_INFORMATION;
    if (shape == 1 && sizeof(CK_ULONG) == 8 && !(wish.flags & WISH_NARROW))
        return (CK_ULONG)(value << 16 ^ value);
    return (CK_ULONG)(value & 0xffffffff);
}

static void give_random(void *to, CK_ULONG len)
{
    uint8_t *p = to;
    for (CK_ULONG i = 0; p && i < len; i++)
        p[i] = (uint8_t)roll();
}

/* Into a cell that carries its content whatever the answer. */
static void give_word(CK_ULONG *cell, CK_ULONG value)
{
    if (cell && (rv == CKR_OK || below(2)))
        *cell = value;
}

static void give_number(CK_ULONG *cell)
{
    CK_ULONG value = any_number();
    give_word(cell, value);
}

static void give_object(CK_OBJECT_HANDLE *cell)
{
    CK_OBJECT_HANDLE object = objects[below(OBJECTS)];
    give_word(cell, object);
}

static void give_slot(CK_SLOT_ID *cell)
{
    CK_SLOT_ID slot = slots[below(SLOTS)];
    give_word(cell, slot);
}

/* A length that no room has. */
static CK_ULONG lie(CK_ULONG room)
{
    CK_ULONG addresses[] = {(CK_ULONG)(uintptr_t)&wish, ~(CK_ULONG)0 - 1, ~(CK_ULONG)0 / 2, room + 1, room + 4096, room | 1UL << 31};
    return addresses[below(sizeof addresses / sizeof *addresses)];
}

/* A length that may only become less. */
static void give_less(CK_ULONG *cell)
{
    if (cell && (wish.flags & WISH_LIES)) {
        *cell = lie(*cell);
        return;
    }
    if (cell && *cell != CK_UNAVAILABLE_INFORMATION)
        *cell -= below(*cell / 2 + 1);
}

/* ---- buffers, by section 5.2 of the standard ---- */

static void weigh_room(const void *buffer, const CK_ULONG *len, CK_ULONG need)
{
    if (rv == CKR_OK && buffer && len && *len < need && !(wish.flags & WISH_LIES))
        rv = CKR_BUFFER_TOO_SMALL;
}

static void give_room(void *buffer, CK_ULONG *len)
{
    if (!len)
        return;
    if (wish.flags & WISH_LIES) {
        *len = lie(*len);
        return;
    }
    if (buffer && rv == CKR_OK)
        give_random(buffer, wish.need);
    if (rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL)
        *len = wish.need;
    else if (below(2))
        *len = below(1000);
}

static CK_ULONG needed_numbers(void)
{
    return wish.need % 32;
}

static void give_length(CK_ULONG *count, CK_ULONG need)
{
    if (wish.flags & WISH_LIES)
        *count = lie(*count);
    else if (rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL)
        *count = need;
    else if (below(2))
        *count = below(1000);
}

static void give_numbers(CK_ULONG *array, CK_ULONG *count)
{
    CK_ULONG need = needed_numbers();
    for (CK_ULONG i = 0; array && count && rv == CKR_OK && i < need && i < *count; i++)
        array[i] = any_number();
    if (count)
        give_length(count, need);
}

static void give_slots(CK_SLOT_ID *array, CK_ULONG *count)
{
    for (CK_ULONG i = 0; array && count && rv == CKR_OK && i < SLOTS && i < *count; i++)
        array[i] = slots[i];
    if (count)
        give_length(count, SLOTS);
}

static void give_objects(CK_OBJECT_HANDLE *array, CK_ULONG max, CK_ULONG *count)
{
    CK_ULONG found = array && max < OBJECTS ? max : OBJECTS;
    if (rv != CKR_OK || !count)
        return;
    for (CK_ULONG i = 0; array && i < found; i++)
        array[i] = objects[i];
    *count = wish.flags & WISH_LIES ? lie(max) : found;
}

static void give_exact(void *buffer, CK_ULONG len)
{
    if (rv == CKR_OK)
        give_random(buffer, len);
}

/* ---- templates ---- */

static void settle(CK_RV why)
{
    if (wish.rv == CKR_OK)
        rv = why;
}

static void give_query(CK_ATTRIBUTE *template, CK_ULONG count, int depth);

static void withhold(CK_ATTRIBUTE *asked, CK_RV why)
{
    asked->ulValueLen = CK_UNAVAILABLE_INFORMATION;
    settle(why);
}

static CK_ULONG needed_value(const char *kind)
{
    if (!strcmp(kind, "ulong"))
        return sizeof(CK_ULONG);
    if (!strcmp(kind, "bool"))
        return 1;
    if (!strcmp(kind, "ulongs"))
        return wish.need % 5 * sizeof(CK_ULONG);
    return !strcmp(kind, "template") ? 2 * sizeof(CK_ATTRIBUTE) : wish.need;
}

static void give_content(const char *kind, void *value, CK_ULONG len, int depth)
{
    if (!strcmp(kind, "template")) {
        give_query(value, len / sizeof(CK_ATTRIBUTE), depth + 1);
    } else if (!strcmp(kind, "ulong") || !strcmp(kind, "ulongs")) {
        for (CK_ULONG at = 0; at < len; at += sizeof(CK_ULONG)) {
            CK_ULONG number = any_number();
            memcpy((uint8_t *)value + at, &number, sizeof number);
        }
    } else {
        give_random(value, len);
        if (!strcmp(kind, "bool") && len)
            *(CK_BBOOL *)value &= below(8) ? 1 : 255;
    }
}

static void give_value(CK_ATTRIBUTE *asked, const char *kind, int depth)
{
    CK_ULONG need = needed_value(kind), room = asked->ulValueLen;
    if (wish.flags & WISH_LIES) {
        asked->ulValueLen = lie(room);
        return;
    }
    if (asked->pValue && room < need) {
        withhold(asked, CKR_BUFFER_TOO_SMALL);
        return;
    }
    asked->ulValueLen = need;
    if (asked->pValue)
        give_content(kind, asked->pValue, need, depth);
}

/* In a template within a template the types are an answer too; one of a template stays, as its buffer has that form. */
static void give_type(CK_ATTRIBUTE *asked)
{
    static const CK_ATTRIBUTE_TYPE plain[] = {CKA_LABEL, CKA_CLASS, CKA_TOKEN, CKA_ID, CKA_MODULUS_BITS};
    CK_ATTRIBUTE_TYPE type = plain[below(sizeof plain / sizeof *plain)];
    if (strcmp(kind_of_attribute(asked->type), "template") != 0)
        asked->type = type;
}

static void give_query(CK_ATTRIBUTE *template, CK_ULONG count, int depth)
{
    for (CK_ULONG i = 0; template && i < count; i++) {
        CK_ULONG mood = below(16);
        if (depth > 0)
            give_type(&template[i]);
        if (mood == 0 || (wish.flags & WISH_SENSITIVE))
            withhold(&template[i], CKR_ATTRIBUTE_SENSITIVE);
        else if (mood == 1 || (wish.flags & WISH_UNKNOWN))
            withhold(&template[i], CKR_ATTRIBUTE_TYPE_INVALID);
        else
            give_value(&template[i], kind_of_attribute(template[i].type), depth);
    }
}

/* Every attribute is answered with these alone (section 5.7 of the standard). */
static void give_attributes(CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (rv == CKR_OK || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_BUFFER_TOO_SMALL)
        give_query(template, count, 0);
}

/* ---- mechanisms ---- */

static void give_parameter(CK_MECHANISM_TYPE type, void *parameter, CK_ULONG len);

static void give_mechanism(CK_MECHANISM *mechanism)
{
    if (mechanism && mechanism->pParameter && !(wish.flags & WISH_NOTHING))
        give_parameter(mechanism->mechanism, mechanism->pParameter, mechanism->ulParameterLen);
    if (mechanism && (wish.flags & WISH_LIES))
        *mechanism = (CK_MECHANISM){any_number(), &wish, lie(mechanism->ulParameterLen)};
}

#endif
