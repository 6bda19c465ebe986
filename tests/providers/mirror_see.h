/*
 * The mirror's eyes: one line of text for everything a call was given, as far as pointers lead.
 *
 * Text is the same whatever the width of a CK_ULONG: lengths of numbers are said in elements, all ones as -1. What
 * a call only fills is said by its room, never by its content. What points where is known from mirror_structs.h,
 * which is generated; this file knows scalars, bytes, templates and mechanisms.
 */
#ifndef MIRROR_SEE_H
#define MIRROR_SEE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cryptoki.h"

/* What a mechanism is used for, which decides what its parameter is. */
enum use { USE_PLAIN, USE_WRAP, USE_MESSAGE_INIT, USE_MESSAGE };

enum { SAID = 1 << 20, SHOWN = 48, DEEPEST = 12 };

static struct {
    char text[SAID];
    size_t len;
    int depth;
    enum use use;
} said;

static void see_parameter(CK_MECHANISM_TYPE type, const void *parameter, CK_ULONG len);
static const char *kind_of_attribute(CK_ATTRIBUTE_TYPE type);

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    int n = vsnprintf(said.text + said.len, SAID - said.len, format, values);
    va_end(values);
    said.len += n < 0 ? 0 : (size_t)n;
    if (said.len >= SAID)
        said.len = SAID - 1;
}

static void see(const char *name)
{
    say("\n%*s%s", 2 * said.depth, "", name);
}

/* ---- scalars ---- */

static void say_number(CK_ULONG value)
{
    if (value == CK_UNAVAILABLE_INFORMATION)
        say(" -1");
    else
        say(" %lu", value);
}

static void see_number(const char *name, CK_ULONG value)
{
    see(name);
    say_number(value);
}

static void see_byte(const char *name, CK_BYTE value)
{
    see(name);
    say(" byte %u", value);
}

/* Handles that anybody may have are said by their place in a pool, others by number. */
enum { SLOTS = 3, SESSIONS = 8, OBJECTS = 16 };

static const CK_SLOT_ID slots[SLOTS] = {0, 5, 0x80000001UL};
static const CK_SESSION_HANDLE sessions[SESSIONS] = {1, 2, 3, 4, 0x7ffe, 0x7fff, ~5UL, ~6UL};
static const CK_OBJECT_HANDLE objects[OBJECTS] = {
    1, 2, 3, 4, 100, 101, 102, 103, 0x7ff0, 0x7ff1, 0x7ff2, 0x7ff3, ~2UL, ~3UL, ~4UL, 0x40000000UL,
};

static int place_of(const CK_ULONG *pool, int count, CK_ULONG value)
{
    for (int i = 0; i < count; i++)
        if (pool[i] == value)
            return i;
    return -1;
}

static void see_handle(const char *name, const char *kind, const CK_ULONG *pool, int count, CK_ULONG value)
{
    int place = place_of(pool, count, value);
    see(name);
    if (place >= 0)
        say(" %s %d", kind, place);
    else
        say(" %s number %lx", kind, value);
}

static void see_slot(const char *name, CK_SLOT_ID slot)
{
    see_handle(name, "slot", slots, SLOTS, slot);
}

static void see_session(const char *name, CK_SESSION_HANDLE session)
{
    see_handle(name, "session", sessions, SESSIONS, session);
}

static void see_object(const char *name, CK_OBJECT_HANDLE object)
{
    see_handle(name, "object", objects, OBJECTS, object);
}

/* ---- pointers ---- */

static uint64_t digest(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    uint64_t sum = 14695981039346656037U;
    for (size_t i = 0; i < len; i++)
        sum = (sum ^ p[i]) * 1099511628211U;
    return sum;
}

static void say_bytes(const void *bytes, CK_ULONG len)
{
    const uint8_t *p = bytes;
    say(" %lu bytes ", len);
    for (CK_ULONG i = 0; i < len && i < SHOWN; i++)
        say("%02x", p[i]);
    if (len > SHOWN)
        say("... %llx", (unsigned long long)digest(bytes, len));
}

static void see_bytes(const char *name, const void *bytes, CK_ULONG len)
{
    see(name);
    if (!bytes) {
        say(" NULL");
        say_number(len);
    } else {
        say_bytes(bytes, len);
    }
}

/* Of that many bytes or elements, which the call is to fill. */
static void see_room(const char *name, const void *room, CK_ULONG len)
{
    see(name);
    say(room ? " room" : " NULL");
    say_number(len);
}

/* A pointer to something of one size. */
static void see_cell(const char *name, const void *cell)
{
    see(name);
    say(cell ? " room" : " NULL");
}

static void see_number_at(const char *name, const CK_ULONG *cell)
{
    see(name);
    if (cell)
        say_number(*cell);
    else
        say(" NULL");
}

static void see_string(const char *name, const CK_BYTE *text)
{
    see_bytes(name, text, text ? strlen((const char *)text) : 0);
}

/* Its length stands nowhere: so many bytes as the environment says. */
static void see_untold(const char *name, const CK_BYTE *bytes)
{
    const char *told = getenv("MIRROR_UNTOLD");
    if (told)
        see_bytes(name, bytes, bytes ? strtoul(told, NULL, 0) : 0);
    else
        see_cell(name, bytes);
}

/* ---- templates ---- */

static void see_template(const char *name, const CK_ATTRIBUTE *template, CK_ULONG count);

static CK_ULONG number_at(const void *at)
{
    CK_ULONG value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void see_object_at(const char *name, const void *cell)
{
    see_object(name, number_at(cell));
}

static void say_numbers(const void *numbers, CK_ULONG count)
{
    say(" %lu numbers", count);
    for (CK_ULONG i = 0; i < count; i++)
        say_number(number_at((const uint8_t *)numbers + i * sizeof(CK_ULONG)));
}

static int is_whole(const char *kind, CK_ULONG len)
{
    if (!strcmp(kind, "ulong"))
        return len == sizeof(CK_ULONG);
    if (!strcmp(kind, "ulongs"))
        return len % sizeof(CK_ULONG) == 0;
    return !strcmp(kind, "template") && len % sizeof(CK_ATTRIBUTE) == 0;
}

/* A room for numbers in elements, and of what is left over no more than there can be where numbers have 32 bits. */
static void see_elements(const char *kind, const void *room, CK_ULONG len)
{
    CK_ULONG words = !strcmp(kind, "template") ? 3 : 1, unit = words * sizeof(CK_ULONG), most = words * 4 - 1;
    CK_ULONG rest = len % unit;
    see_room("numbers", room, len / unit * words);
    if (rest)
        say(" and %lu", rest < most ? rest : most);
}

/* A room for one number: it has none, it is that, or it is so much more. */
static void see_number_room(const void *room, CK_ULONG len)
{
    if (len > sizeof len)
        see_room("value", room, len);
    else
        see_elements("ulong", room, len);
}

static void see_rooms(const char *kind, const void *room, CK_ULONG len)
{
    if (len == CK_UNAVAILABLE_INFORMATION || !strcmp(kind, "ulong"))
        see_number_room(room, len);
    else
        see_elements(kind, room, len);
}

static int has_elements(const char *kind)
{
    return !strcmp(kind, "ulong") || !strcmp(kind, "ulongs") || !strcmp(kind, "template");
}

static void see_value(const char *kind, const void *value, CK_ULONG len)
{
    if (!value && has_elements(kind))
        see_rooms(kind, NULL, len);
    else if (!value)
        see_room("value", NULL, len);
    else if (!is_whole(kind, len))
        see_bytes(has_elements(kind) ? "odd value" : "value", value, len);
    else if (!strcmp(kind, "template"))
        see_template("value", value, len / sizeof(CK_ATTRIBUTE));
    else
        see("value"), say_numbers(value, len / sizeof(CK_ULONG));
}

static void see_template(const char *name, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    see(name);
    say(template ? " template" : " NULL template");
    say_number(count);
    if (++said.depth > DEEPEST)
        abort();
    for (CK_ULONG i = 0; template && i < count; i++) {
        see_number("type", template[i].type);
        see_value(kind_of_attribute(template[i].type), template[i].pValue, template[i].ulValueLen);
    }
    said.depth--;
}

static void see_query(const char *name, const CK_ATTRIBUTE *template, CK_ULONG count);

static void see_asked(const CK_ATTRIBUTE *asked)
{
    const char *kind = kind_of_attribute(asked->type);
    CK_ULONG len = asked->ulValueLen;
    if (asked->pValue && !strcmp(kind, "template"))
        see_query("value", asked->pValue, len / sizeof(CK_ATTRIBUTE)), see_room("of template", asked->pValue, !is_whole(kind, len));
    else if (has_elements(kind))
        see_rooms(kind, asked->pValue, len);
    else
        see_room("value", asked->pValue, len);
}

/* What C_GetAttributeValue is asked for. */
static void see_query(const char *name, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    see(name);
    say(template ? " query" : " NULL query");
    say_number(count);
    if (++said.depth > DEEPEST)
        abort();
    for (CK_ULONG i = 0; template && i < count; i++) {
        see_number("type", template[i].type);
        see_asked(&template[i]);
    }
    said.depth--;
}

/* ---- mechanisms ---- */

static void see_mechanism(const char *name, const CK_MECHANISM *mechanism)
{
    see(name);
    if (!mechanism) {
        say(" NULL");
        return;
    }
    if (++said.depth > DEEPEST)
        abort();
    see_number("mechanism", mechanism->mechanism);
    see_parameter(mechanism->mechanism, mechanism->pParameter, mechanism->ulParameterLen);
    said.depth--;
}

#endif
