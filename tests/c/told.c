#include "told.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stand_in.h"

enum { BLANK = 0xc3, WORD = sizeof(CK_ULONG) };

static void add(char text[TOLD], const char *word)
{
    size_t at = strlen(text);
    snprintf(text + at, TOLD - at, "%s%s", at ? " " : "", word);
}

static size_t number(char *at, size_t room, CK_ULONG value)
{
    return (size_t)(value == CK_UNAVAILABLE_INFORMATION ? snprintf(at, room, "-1") : snprintf(at, room, "%lu", value));
}

static void add_numbers(char text[TOLD], const uint8_t *bytes, size_t len)
{
    char word[TOLD];
    size_t at = 0;
    for (size_t i = 0; i < len && at < TOLD - 32; i += WORD) {
        at += (size_t)snprintf(word + at, TOLD - at, "%s", i ? "," : "");
        at += number(word + at, TOLD - at, visit_number(bytes + i));
    }
    add(text, word);
}

static void add_bytes(char text[TOLD], const uint8_t *bytes, size_t len)
{
    char word[TOLD] = "h'";
    size_t at = 2;
    for (size_t i = 0; i < len && at < TOLD - 4; i++)
        at += (size_t)snprintf(word + at, TOLD - at, "%02x", bytes[i]);
    snprintf(word + at, TOLD - at, "'");
    add(text, word);
}

static void add_value(char text[TOLD], const struct leaf *leaf, size_t len)
{
    if (leaf->kind == LEAF_BYTES)
        add_bytes(text, leaf->at, len);
    else
        add_numbers(text, leaf->at, len);
}

static void add_room(char text[TOLD], const struct leaf *leaf)
{
    char word[32];
    bool is_cell = leaf->kind != LEAF_BYTES && !leaf->length;
    snprintf(word, sizeof word, "[%zu]", leaf->size);
    add(text, is_cell ? "?" : word);
}

void tell_given(const struct leaves *leaves, char text[TOLD])
{
    text[0] = '\0';
    for (size_t i = 0; i < leaves->count; i++) {
        const struct leaf *leaf = &leaves->list[i];
        if (leaf->kind == LEAF_POINTER)
            add(text, visit_pointer(leaf->at) ? "&" : "nil");
        else if (leaf->dir == DIR_OUT)
            add_room(text, leaf);
        else
            add_value(text, leaf, leaf->size);
    }
}

void tell_blank(const struct leaves *leaves)
{
    for (size_t i = 0; i < leaves->count; i++)
        if (leaves->list[i].dir == DIR_OUT)
            memset(leaves->list[i].at, BLANK, leaves->list[i].size);
}

static bool is_blank(const struct leaf *leaf)
{
    for (size_t i = 0; i < leaf->size; i++)
        if (leaf->at[i] != BLANK)
            return false;
    return true;
}

void tell_outputs(const struct leaves *leaves, char text[TOLD])
{
    text[0] = '\0';
    for (size_t i = 0; i < leaves->count; i++) {
        const struct leaf *leaf = &leaves->list[i];
        if (!(leaf->dir & DIR_OUT))
            continue;
        if (is_blank(leaf))
            add(text, "-");
        else
            add_value(text, leaf, stand_in_counted(leaf));
    }
}

static void write_bytes(uint8_t *at, size_t size, const char *digits)
{
    unsigned byte;
    for (size_t i = 0; i < size && sscanf(digits + 2 * i, "%2x", &byte) == 1; i++)
        at[i] = (uint8_t)byte;
}

static void write_numbers(const struct leaf *leaf, const char *word)
{
    for (size_t at = 0; at + WORD <= leaf->size && word; at += WORD) {
        CK_ULONG value = strtoul(word, NULL, 10);
        memcpy(leaf->at + at, &value, WORD);
        word = strchr(word, ',');
        word = word ? word + 1 : NULL;
    }
}

bool tell_write(const struct leaves *leaves, const char *words)
{
    char text[TOLD], *rest = text;
    snprintf(text, sizeof text, "%s", words);
    for (size_t i = 0; i < leaves->count; i++) {
        const struct leaf *leaf = &leaves->list[i];
        if (!(leaf->dir & DIR_OUT))
            continue;
        const char *word = strsep(&rest, " ");
        if (!word || !*word)
            return false;
        if (!strncmp(word, "h'", 2))
            write_bytes(leaf->at, leaf->size, word + 2);
        else if (strcmp(word, "-") != 0)
            write_numbers(leaf, word);
    }
    return !rest || !*rest;
}

bool tell_write_late(const struct recall *recall, const char *words)
{
    char text[TOLD], *rest = text;
    snprintf(text, sizeof text, "%s", words);
    for (unsigned i = 0; i < recall->count; i++) {
        const char *word = strsep(&rest, " ");
        if (!word || !*word)
            return false;
        if (!strncmp(word, "h'", 2))
            write_bytes(recall->list[i].at, recall->list[i].size, word + 2);
    }
    return !rest || !*rest;
}
