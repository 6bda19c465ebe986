/*
 * What a call's arguments consist of: every cell, buffer and field they lead to, by the tables.
 *
 * A second reading of the tables, written apart from the walker's, so that the tests do not ask the walker what is
 * right. The memory is read as a provider reads it: a mechanism's parameter is what the mechanism, the function and the
 * length say, whatever was sent.
 */
#ifndef P11HOST_VISIT_H
#define P11HOST_VISIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tables.h"

enum leaf_kind {
    LEAF_NUMBERS = 1, /* CK_ULONGs: one, or as many as there is room for */
    LEAF_OBJECTS,
    LEAF_SESSIONS,
    LEAF_SLOTS,
    LEAF_BYTES,
    LEAF_LENGTH,  /* a CK_ULONG that says how much of another leaf counts */
    LEAF_COUNT,   /* a CK_ULONG that says how many other leaves there are: the stand-in leaves it alone */
    LEAF_POINTER, /* only whether it is NULL */
};

/* When an output comes back (section 4.3 of the protocol). */
enum leaf_when { WHEN_ALWAYS = 0, WHEN_OK, WHEN_TEMPLATE };

struct leaf {
    uint8_t *at;
    size_t size;
    CK_ULONG *length; /* an output's: where the provider says how much of it counts; NULL if it is all of it */
    uint8_t unit;     /* bytes to one of that length */
    uint8_t kind;     /* enum leaf_kind */
    uint8_t dir;      /* enum direction */
    uint8_t when;     /* enum leaf_when */
};

enum { LEAVES = 16384 };

struct leaves {
    size_t count;
    bool complete; /* false when there were more than fit */
    bool astray;   /* a pointer was not followed because `may_read` said no */
    struct leaf list[LEAVES];
};

typedef bool visit_guard(const void *context, const void *at, size_t size);

/*
 * All leaves of a call, always in the same order for arguments of the same shape. Where a peer made the arguments,
 * `may_read` says which pointers can be followed; NULL follows all.
 */
void visit_call(struct leaves *leaves, const struct function *function, uintptr_t *words, visit_guard *may_read, const void *context);

/* The mechanism of the operation whose messages are visited. */
extern CK_MECHANISM_TYPE visit_operation;

/* The choice a parameter of `len` bytes is read by; NULL when the tables know none. */
const struct choice *visit_choose(uint8_t context, const CK_MECHANISM *mechanism);

/* How many elements lie behind a pointer field. False when nothing says so. */
bool visit_extent(const struct field *field, const uint8_t *base, const uint8_t *parent, CK_ULONG *ret_count);

/* The variant of a tagged union; NULL for a tag that is not listed. */
const struct variant *visit_variant(const struct field *field, const uint8_t *base);

CK_ULONG visit_number(const void *at);
void *visit_pointer(const void *at);

#endif
