/*
 * Between the files that decode rows: rows.c for the whole, unpack_structs.c for structs, unpack.c for what both take.
 *
 * The first error stays in the reader, and nothing is taken after it.
 */
#ifndef P11HOST_UNPACK_H
#define P11HOST_UNPACK_H

#include "codec.h"
#include "tables.h"

struct unpacking {
    struct reader r;
    struct arena arena;
    struct layout *layouts;
    struct tagged_union *unions;
    struct choice *choices;
    uint8_t *depths; /* of the vendor's layouts: structs inside one another */
    unsigned layout_count, union_count, choice_count;
};

void unpack_fail(struct unpacking *d);
bool unpack_failed(const struct unpacking *d);

/* The place of the next word in a list of them, in which places may be empty. */
uint8_t unpack_word(struct unpacking *d, const char *const *words, size_t count);
CK_ULONG unpack_value(struct unpacking *d);
uint16_t unpack_at_most(struct unpacking *d, uint64_t most);

/* Of an array: an element has a byte at least, so no more of them than there are bytes. */
size_t unpack_count(struct unpacking *d);

/* All zero: the arena is new. What is not used of it never becomes memory. */
void *unpack_memory(struct unpacking *d, size_t count, size_t size);

/* By enum value_kind. */
extern const char *const unpack_kinds_of_value[VALUE_NONE];

/* The index of the struct whose name is next. */
uint16_t unpack_struct(struct unpacking *d);

void unpack_structs(struct unpacking *d);
void unpack_completion(struct unpacking *d); /* the length of one field of a struct that is known */

/* Once all structs are known: a length in the enclosing struct is at one and the same place in each that may enclose. */
void unpack_check_parents(struct unpacking *d);

#endif
