/*
 * One field of a struct: for walk_fields.c, which carries structs, and walk_changes.c, which carries what has become of them.
 *
 * `dir` is the direction a struct inherits from the pointer that leads to it: everything behind an output pointer is
 * output, whatever its own row says; in a struct that is the whole answer (DIR_WHOLE) every field goes. `parent` is the enclosing
 * struct, where lengths may stand.
 */
#ifndef P11HOST_WALK_FIELDS_H
#define P11HOST_WALK_FIELDS_H

#include <string.h>

#include "walk.h"

static inline uint8_t effective(const struct field *field, uint8_t inherited)
{
    return inherited == DIR_OUT || inherited == DIR_WHOLE ? inherited : field->dir;
}

static inline CK_ULONG number_at(const uint8_t *at)
{
    CK_ULONG value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline void *pointer_at(const uint8_t *at)
{
    void *value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline bool is_pointer(const struct field *field)
{
    return field->kind >= FIELD_BYTES;
}

/* A number or handle from the wire to `at`, and any field to its place in the struct at `base`. Errors stay in the reader. */
void get_number(struct walk *walk, const struct field *field, uint8_t *at);
void get_field(struct walk *walk, const struct field *field, uint8_t *base, uint8_t dir);

#endif
