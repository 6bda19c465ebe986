/*
 * A module's own rows (section 8 of the protocol): what its vendor has beyond the standard, from the configuration.
 *
 * They come packed, ABI-neutral and not to be trusted. Decoded once, they are laid out for this width of CK_ULONG and
 * laid over the standard's tables: a struct tables in which the walker looks everything up as in any other.
 */
#ifndef P11HOST_ROWS_H
#define P11HOST_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "tables.h"

struct rows {
    struct arena arena; /* where all of this lies, itself too */
    struct tables tables;
    const uint8_t *packed;
    size_t len;
    struct rows *older; /* the owner's, to keep what may still be in use */
};

/* NULL with a negative errno in *ret_error: -EBADMSG or -EMSGSIZE for rows that are none, -ENOMEM. */
struct rows *rows_decode(const uint8_t *packed, size_t len, int *ret_error);

void rows_free(struct rows *rows); /* NULL is no rows */

/* Those of a module without any are the standard's. */
const struct tables *rows_tables(const struct rows *rows);

#endif
