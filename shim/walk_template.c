/* The walker over templates: CK_ATTRIBUTE arrays, given (4.2 of the protocol) and asked for (4.3). */
#include "walk.h"

#include <errno.h>
#include <string.h>

static bool is_list(enum value_kind kind)
{
    return kind == VALUE_NUMBERS || kind == VALUE_TEMPLATE;
}

/* ---- values, both ways ---- */

/* Values of attributes may lie at any address: number by number, by memcpy. */
static void put_number_list(struct walk *walk, const uint8_t *bytes, CK_ULONG len)
{
    write_array(walk->w, len / sizeof(CK_ULONG));
    for (CK_ULONG at = 0; at < len; at += sizeof(CK_ULONG)) {
        CK_ULONG value;
        memcpy(&value, bytes + at, sizeof value);
        put_number(walk, value, CKR_ATTRIBUTE_VALUE_INVALID);
    }
}

/* All but templates. */
static void put_plain_value(struct walk *walk, enum value_kind kind, const void *bytes, CK_ULONG len)
{
    CK_ULONG number;
    if (kind == VALUE_NUMBER && len == sizeof number) {
        memcpy(&number, bytes, sizeof number);
        put_number(walk, number, CKR_ATTRIBUTE_VALUE_INVALID);
    } else if (kind == VALUE_BOOL && len == 1 && *(const uint8_t *)bytes <= 1) {
        write_bool(walk->w, *(const uint8_t *)bytes);
    } else if (kind == VALUE_NUMBERS && len % sizeof number == 0) {
        put_number_list(walk, bytes, len);
    } else {
        write_bin(walk->w, bytes, len);
    }
}

/* In a trace what its row lets be shown, if it is not long; of all else the length. */
static void put_discreetly(struct walk *walk, bool shown, enum value_kind kind, const void *bytes, CK_ULONG len)
{
    struct writer *w = walk->w;
    enum discretion discreet = w->discreet;
    if (discreet && !shown)
        kind = VALUE_BYTES;
    else if (kind == VALUE_BYTES && len <= LIMIT_SHOWN)
        w->discreet = DISCREET_NONE;
    put_plain_value(walk, kind, bytes, len);
    w->discreet = discreet;
}

static void put_value(struct walk *walk, const CK_ATTRIBUTE *attribute)
{
    enum value_kind kind = attribute_kind(walk->tables, attribute->type);
    CK_ULONG len = attribute->ulValueLen;
    if (!attribute->pValue) {
        if (len && is_list(kind))
            refuse(walk, CKR_ATTRIBUTE_VALUE_INVALID, "a list of an attribute is NULL and not empty");
        else if (len)
            write_array(walk->w, 1), put_number(walk, len, CKR_ATTRIBUTE_VALUE_INVALID);
        else
            write_nil(walk->w);
    } else if (len > LIMIT_BYTES) {
        refuse(walk, CKR_ARGUMENTS_BAD, "an attribute is longer than limits.bytes");
    } else if ((kind == VALUE_TEMPLATE && len % sizeof(CK_ATTRIBUTE) != 0) || has_odd_length(walk, kind, len)) {
        refuse(walk, CKR_ATTRIBUTE_VALUE_INVALID, "a list of an attribute is no whole number of elements");
    } else if (kind == VALUE_TEMPLATE) {
        put_template(walk, attribute->pValue, len / sizeof(CK_ATTRIBUTE));
    } else {
        bool shown = walk->w->discreet && attribute_shown(walk->tables, attribute->type);
        put_discreetly(walk, shown, kind, attribute->pValue, len);
    }
}

void put_template(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (!template) {
        put_number(walk, count, CKR_ARGUMENTS_BAD);
        return;
    }
    if (count > LIMIT_ELEMENTS || !nest(walk)) {
        refuse(walk, CKR_ARGUMENTS_BAD, "a template has more attributes than limits.elements, or nests too deep");
        return;
    }
    write_array(walk->w, count);
    for (CK_ULONG i = 0; i < count && walk->refusal == CKR_OK; i++) {
        write_array(walk->w, 2);
        put_number(walk, template[i].type, CKR_ATTRIBUTE_TYPE_INVALID);
        put_value(walk, &template[i]);
    }
    walk->nesting--;
}

static void get_number_value(struct walk *walk, CK_ATTRIBUTE *attribute)
{
    CK_ULONG *cell = take(walk, sizeof *cell);
    if (cell)
        *cell = read_number(walk->r);
    attribute->pValue = cell;
    attribute->ulValueLen = sizeof *cell;
}

static void get_bool_value(struct walk *walk, CK_ATTRIBUTE *attribute)
{
    CK_BBOOL *cell = take(walk, sizeof *cell);
    if (cell)
        *cell = read_bool(walk->r);
    attribute->pValue = cell;
    attribute->ulValueLen = sizeof *cell;
}

static void get_number_list(struct walk *walk, CK_ATTRIBUTE *attribute)
{
    size_t count = read_array(walk->r);
    CK_ULONG *list = take(walk, count * sizeof *list);
    for (size_t i = 0; list && i < count && !walk->r->error; i++)
        list[i] = read_number(walk->r);
    attribute->pValue = list;
    attribute->ulValueLen = count * sizeof *list;
}

static void get_template_value(struct walk *walk, CK_ATTRIBUTE *attribute)
{
    CK_ULONG count;
    attribute->pValue = get_template(walk, &count);
    attribute->ulValueLen = count * sizeof(CK_ATTRIBUTE);
}

/* A NULL pointer with a length. */
static void get_absent_value(struct walk *walk, CK_ATTRIBUTE *attribute)
{
    if (read_array(walk->r) != 1)
        reader_fail(walk->r, -EBADMSG);
    attribute->ulValueLen = room_here(walk, attribute_kind(walk->tables, attribute->type), read_number(walk->r));
}

static void get_value(struct walk *walk, CK_ATTRIBUTE *attribute)
{
    enum value_kind kind = attribute_kind(walk->tables, attribute->type);
    enum wire_type type = read_peek(walk->r);
    if (type == WIRE_NIL)
        read_nil(walk->r);
    else if (type == WIRE_BIN && kind != VALUE_TEMPLATE)
        attribute->pValue = get_bytes(walk, &attribute->ulValueLen);
    else if (type == WIRE_BOOL && kind == VALUE_BOOL)
        get_bool_value(walk, attribute);
    else if (type == WIRE_ARRAY && kind == VALUE_NUMBERS)
        get_number_list(walk, attribute);
    else if (type == WIRE_ARRAY && kind == VALUE_TEMPLATE)
        get_template_value(walk, attribute);
    else if (type == WIRE_ARRAY && !is_list(kind))
        get_absent_value(walk, attribute);
    else if (kind == VALUE_NUMBER)
        get_number_value(walk, attribute);
    else
        reader_fail(walk->r, -EBADMSG);
}

CK_ATTRIBUTE *get_template(struct walk *walk, CK_ULONG *ret_count)
{
    struct reader *r = walk->r;
    if (read_peek(r) != WIRE_ARRAY) {
        *ret_count = read_number(r);
        return NULL;
    }
    size_t count = read_array(r);
    if (!nest(walk))
        reader_fail(r, -EMSGSIZE);
    CK_ATTRIBUTE *template = take(walk, count * sizeof *template);
    for (size_t i = 0; i < count && !r->error; i++) {
        if (read_array(r) != 2)
            reader_fail(r, -EBADMSG);
        template[i] = (CK_ATTRIBUTE){.type = read_number(r)};
        get_value(walk, &template[i]);
    }
    walk->nesting--;
    *ret_count = count;
    return template;
}

/* ---- C_GetAttributeValue: what is asked for ---- */

/* In a nested template the type is an output (C_GetAttributeValue, section 5.7 of the standard): it may hold anything. */
static void put_query_type(struct walk *walk, CK_ATTRIBUTE_TYPE type)
{
    if (walk->theirs && walk->nesting > 1)
        write_number(walk->w, type & UINT32_MAX);
    else
        put_number(walk, type, CKR_ARGUMENTS_BAD);
}

void put_template_query(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (!template) {
        put_number(walk, count, CKR_ARGUMENTS_BAD);
        return;
    }
    if (count > LIMIT_ELEMENTS || !nest(walk)) {
        refuse(walk, CKR_ARGUMENTS_BAD, "a template has more attributes than limits.elements, or nests too deep");
        return;
    }
    write_array(walk->w, count);
    for (CK_ULONG i = 0; i < count && walk->refusal == CKR_OK; i++) {
        const CK_ATTRIBUTE *a = &template[i];
        write_array(walk->w, 3);
        put_query_type(walk, a->type);
        if (a->pValue && attribute_kind(walk->tables, a->type) == VALUE_TEMPLATE)
            put_template_query(walk, a->pValue, a->ulValueLen / sizeof *a);
        else
            write_bool(walk->w, a->pValue != NULL);
        write_number(walk->w, a->ulValueLen);
    }
    walk->nesting--;
}

static void get_query(struct walk *walk, CK_ATTRIBUTE *attribute, uint64_t *ret_asked)
{
    struct reader *r = walk->r;
    CK_ULONG count = 0;
    bool buffer = false, nested = false;
    if (read_array(r) != 3)
        reader_fail(r, -EBADMSG);
    attribute->type = read_number(r);
    if ((nested = read_peek(r) == WIRE_ARRAY))
        attribute->pValue = get_template_query(walk, &count);
    else
        buffer = read_bool(r);
    *ret_asked = read_uint(r);
    enum value_kind kind = attribute_kind(walk->tables, attribute->type);
    attribute->ulValueLen = room_here(walk, kind, cut(*ret_asked));
    if ((nested && kind != VALUE_TEMPLATE) || (buffer && kind == VALUE_TEMPLATE) ||
        (nested && count != attribute->ulValueLen / sizeof *attribute))
        reader_fail(r, -EBADMSG);
    if (!buffer)
        return;
    if (attribute->ulValueLen > ROOM_BYTES)
        attribute->ulValueLen = ROOM_BYTES;
    attribute->pValue = take(walk, attribute->ulValueLen);
}

/*
 * Two copies: one for the provider, and behind it one that says where the buffers are and what room they have. Behind
 * both, in the caller's bytes, what room the caller said.
 */
CK_ATTRIBUTE *get_template_query(struct walk *walk, CK_ULONG *ret_count)
{
    struct reader *r = walk->r;
    if (read_peek(r) != WIRE_ARRAY) {
        *ret_count = read_number(r);
        return NULL;
    }
    size_t count = read_array(r);
    if (!nest(walk))
        reader_fail(r, -EMSGSIZE);
    CK_ATTRIBUTE *template = take(walk, count * (2 * sizeof *template + sizeof(uint64_t)));
    uint64_t *asked = template ? (void *)(template + 2 * count) : NULL;
    for (size_t i = 0; i < count && !r->error; i++) {
        template[i] = (CK_ATTRIBUTE){0};
        get_query(walk, &template[i], &asked[i]);
        template[count + i] = template[i];
    }
    walk->nesting--;
    *ret_count = count;
    return template;
}

/* ---- C_GetAttributeValue: what is answered ---- */

static void put_answers(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG answered);

/*
 * In a nested template the type is an output (section 5.7 of the standard), and says what the value is. What lies behind
 * a pointer was said by the type asked for: a template stays one, and nothing else becomes one.
 */
static enum value_kind answer_kind(const struct walk *walk, CK_ATTRIBUTE_TYPE asked, CK_ATTRIBUTE_TYPE told)
{
    enum value_kind kind = attribute_kind(walk->tables, asked);
    return walk->nesting > 1 && kind != VALUE_TEMPLATE ? attribute_kind(walk->tables, told) : kind;
}

static bool is_template(const struct walk *walk, CK_ATTRIBUTE_TYPE type)
{
    return attribute_kind(walk->tables, type) == VALUE_TEMPLATE;
}

/* The type in a nested template is the provider's: it alone does not say what is harmless. */
static bool is_shown(const struct walk *walk, CK_ATTRIBUTE_TYPE asked, CK_ATTRIBUTE_TYPE told)
{
    return attribute_shown(walk->tables, asked) && attribute_shown(walk->tables, told);
}

/* Its length in the caller's bytes. A value that cannot be told, or not in the caller's room, is unavailable. */
static void put_answer(struct walk *walk, const CK_ATTRIBUTE *answer, const CK_ATTRIBUTE *room, uint64_t asked)
{
    enum value_kind kind = answer_kind(walk, room->type, answer->type);
    CK_ULONG len = answer->ulValueLen;
    bool has_value = room->pValue && len != CK_UNAVAILABLE_INFORMATION && len <= room->ulValueLen;
    if (room->pValue && !has_value && len != CK_UNAVAILABLE_INFORMATION && walk->rv == CKR_OK)
        walk->reason = provider_lies;
    uint64_t there = !room->pValue && len == room->ulValueLen ? asked : length_there(walk, kind, len);
    write_array(walk->w, 3);
    write_number(walk->w, answer->type);
    if (has_value && (there > asked || (kind == VALUE_TEMPLATE && !is_template(walk, room->type)))) {
        write_minus_one(walk->w);
        write_nil(walk->w);
        return;
    }
    write_wide(walk->w, there);
    if (!has_value)
        write_nil(walk->w);
    else if (kind == VALUE_TEMPLATE)
        put_answers(walk, room->pValue, room->ulValueLen / sizeof *room, len / sizeof *room);
    else
        put_discreetly(walk, walk->w->discreet && is_shown(walk, room->type, answer->type), kind, room->pValue, len);
}

/* The first `answered` of a template of the arena, whose second copy follows the `count` of the first. */
static void put_answers(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG answered)
{
    const uint64_t *asked = (const void *)(template + 2 * count);
    write_array(walk->w, answered);
    walk->nesting++;
    for (CK_ULONG i = 0; i < answered; i++)
        put_answer(walk, &template[i], &template[count + i], asked[i]);
    walk->nesting--;
}

void put_template_answer(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    put_answers(walk, template, count, count);
}

/* Other errors leave values as they were; but the lengths that some providers write all the same are the caller's to see. */
void put_template_lengths(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    const CK_ATTRIBUTE *room = template + count;
    const uint64_t *asked = (const void *)(template + 2 * count);
    bool changed = false;
    for (CK_ULONG i = 0; i < count; i++)
        changed = changed || template[i].ulValueLen != room[i].ulValueLen;
    if (!changed) {
        write_nil(walk->w);
        return;
    }
    write_array(walk->w, count);
    for (CK_ULONG i = 0; i < count; i++) {
        bool kept = template[i].ulValueLen == room[i].ulValueLen;
        enum value_kind kind = attribute_kind(walk->tables, room[i].type);
        write_wide(walk->w, kept ? asked[i] : length_there(walk, kind, template[i].ulValueLen));
    }
}

/* Into the caller's buffer of `room` bytes: exactly `len`, or the channel ends. */
static void get_plain_value(struct walk *walk, enum value_kind kind, uint8_t *buffer, CK_ULONG len)
{
    struct reader *r = walk->r;
    enum wire_type type = read_peek(r);
    if (type == WIRE_BIN) {
        if (read_bin(r) != len)
            reader_fail(r, -EBADMSG);
        read_raw(r, buffer, len);
    } else if (type == WIRE_BOOL && kind == VALUE_BOOL && len == 1) {
        buffer[0] = read_bool(r);
    } else if (type == WIRE_ARRAY && kind == VALUE_NUMBERS && read_array(r) == len / sizeof(CK_ULONG)) {
        for (CK_ULONG at = 0; at + sizeof(CK_ULONG) <= len && !r->error; at += sizeof(CK_ULONG)) {
            CK_ULONG value = read_number(r);
            memcpy(buffer + at, &value, sizeof value);
        }
    } else if (kind == VALUE_NUMBER && len == sizeof(CK_ULONG)) {
        CK_ULONG value = read_number(r);
        memcpy(buffer, &value, sizeof value);
    } else {
        reader_fail(r, -EBADMSG);
    }
}

static void get_answer(struct walk *walk, CK_ATTRIBUTE *attribute)
{
    struct reader *r = walk->r;
    CK_ULONG room = attribute->ulValueLen;
    if (read_array(r) != 3)
        reader_fail(r, -EBADMSG);
    CK_ATTRIBUTE_TYPE type = read_number(r);
    CK_ULONG len = read_number(r);
    enum value_kind kind = answer_kind(walk, attribute->type, type);
    bool has_value = attribute->pValue && len <= room; /* all ones, which is unavailable, is more than any room */
    if (read_nil_if(r) != !has_value)
        reader_fail(r, -EBADMSG);
    else if (!has_value)
        ; /* only its length */
    else if (kind == VALUE_TEMPLATE && !is_template(walk, attribute->type))
        reader_fail(r, -EBADMSG);
    else if (kind == VALUE_TEMPLATE)
        get_template_answer(walk, attribute->pValue, len / sizeof *attribute); /* fewer than there is room for */
    else
        get_plain_value(walk, kind, attribute->pValue, len);
    if (r->error)
        return;
    if (attribute->pValue && !has_value && len != CK_UNAVAILABLE_INFORMATION && walk->rv == CKR_OK) {
        refuse(walk, CKR_DEVICE_ERROR, provider_lies);
        return;
    }
    attribute->type = walk->nesting > 1 ? type : attribute->type;
    attribute->ulValueLen = len;
}

void get_template_answer(struct walk *walk, CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (!nest(walk) || !template || read_array(walk->r) != count)
        reader_fail(walk->r, -EBADMSG);
    for (CK_ULONG i = 0; i < count && !walk->r->error; i++)
        get_answer(walk, &template[i]);
    walk->nesting--;
}

void get_template_lengths(struct walk *walk, CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (!template || read_array(walk->r) != count)
        reader_fail(walk->r, -EBADMSG);
    for (CK_ULONG i = 0; i < count && !walk->r->error; i++) {
        CK_ULONG len = read_number(walk->r);
        if (!walk->r->error)
            template[i].ulValueLen = len;
    }
}
