#include "stand_in.h"

#include <stdlib.h>
#include <string.h>

/* ---- what it does ---- */

uint64_t stand_in_reads(const struct leaves *leaves)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < leaves->count; i++)
        if (leaves->list[i].dir & DIR_IN)
            for (size_t k = 0; k < leaves->list[i].size; k++)
                sum = sum * 31 + leaves->list[i].at[k];
    return sum;
}

/* A buffer too small is told with the length that would do; nothing else is longer than the room. */
static CK_ULONG some_count(struct dice *d, const struct leaf *leaf, CK_RV rv, size_t most)
{
    CK_ULONG room = (leaf->size < most ? leaf->size : most) / leaf->unit;
    if (leaf->when == WHEN_TEMPLATE && dice_once_in(d, 4))
        return CK_UNAVAILABLE_INFORMATION;
    if (rv == CKR_BUFFER_TOO_SMALL && dice_once_in(d, 2))
        return leaf->size / leaf->unit + 1 + dice_throw(d, 100);
    return dice_throw(d, (uint32_t)room + 1);
}

/* What memory holds that nobody wrote is no value: the helper could not tell. */
static void write_output(struct dice *d, const struct leaf *leaf, size_t most)
{
    dice_fill(d, leaf->at, leaf->size < most ? leaf->size : most);
    if (leaf->size == 1 && *leaf->at == UNWRITTEN)
        *leaf->at = 0;
}

void stand_in_writes(struct dice *d, const struct leaves *leaves, CK_RV rv, size_t most)
{
    for (size_t i = 0; i < leaves->count; i++) {
        const struct leaf *leaf = &leaves->list[i];
        if (!(leaf->dir & DIR_OUT) || leaf->kind == LEAF_COUNT)
            continue;
        if (leaf->kind == LEAF_LENGTH)
            *(CK_ULONG *)(void *)leaf->at = dice_throw(d, 1000); /* of a buffer that follows, or of none */
        else
            write_output(d, leaf, most);
        if (leaf->length)
            *leaf->length = some_count(d, leaf, rv, most);
    }
}

static bool is_word(const uintptr_t *words, const uint8_t *at)
{
    return at >= (const uint8_t *)words && at < (const uint8_t *)(words + MAX_WORDS);
}

void stand_in_spoils(struct dice *d, const struct leaves *leaves, const uintptr_t *words)
{
    for (size_t i = 0; i < leaves->count; i++) {
        const struct leaf *leaf = &leaves->list[i];
        if (leaf->dir == DIR_IN && !is_word(words, leaf->at))
            dice_fill(d, leaf->at, leaf->size);
    }
}

/* ---- what comes of it ---- */

bool stand_in_carries(const struct leaf *leaf, CK_RV rv)
{
    bool partial = rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_BUFFER_TOO_SMALL;
    switch ((enum leaf_when)leaf->when) {
    case WHEN_OK: return rv == CKR_OK;
    case WHEN_TEMPLATE: return rv == CKR_OK || partial;
    default: return true;
    }
}

size_t stand_in_counted(const struct leaf *leaf)
{
    if (!leaf->length)
        return leaf->size;
    return *leaf->length <= leaf->size / leaf->unit ? *leaf->length * leaf->unit : 0;
}

/* ---- what it was given ---- */

static int by_address(const void *a, const void *b)
{
    const struct leaf *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static bool overlap(const struct leaves *leaves)
{
    static struct leaf sorted[LEAVES];
    const struct leaf *last = NULL;
    memcpy(sorted, leaves->list, leaves->count * sizeof *sorted);
    qsort(sorted, leaves->count, sizeof *sorted, by_address);
    for (size_t i = 0; i < leaves->count; i++) {
        const struct leaf *leaf = &sorted[i];
        if (last && last->at + last->size > leaf->at && leaf->size && ((last->dir | leaf->dir) & DIR_OUT))
            return true;
        if (leaf->size)
            last = leaf;
    }
    return false;
}

const char *stand_in_finds_fault(const struct leaves *leaves, const struct ends *ends)
{
    if (leaves->astray)
        return "a pointer leads where nothing was given";
    for (size_t i = 0; i < leaves->count; i++)
        if (!ends_gave(ends, leaves->list[i].at, leaves->list[i].size))
            return "something lies where nothing was given";
    return overlap(leaves) ? "an output overlaps with something else" : NULL;
}
