/* Rows as a broker packs them: of the standard's own tables, or piece by piece; and whether what was decoded is sound. */
#ifndef P11HOST_TEST_PACK_H
#define P11HOST_TEST_PACK_H

#include "codec.h"
#include "rows.h"

enum { PACK_NEW_NUMBERS = 0x40000000 }; /* the bit that a packed standard mechanism has more */

struct packed {
    uint8_t bytes[LIMIT_ROWS + 1];
    size_t len;
};

extern struct writer pack_writer;
extern struct packed packed;

void pack_begin(void);
void pack_text(const char *word);
void pack_finish(void); /* what was written is in `packed` */

int pack_decode(struct rows **ret_rows);
void pack_expect_refused(void); /* finishes, too */

/* Whatever was accepted is safe to walk. */
void pack_expect_sound(const struct rows *rows);

/* The standard's tables as if they were a vendor's. */
void pack_standard(void);
extern unsigned pack_order[], pack_ordered; /* its structs, each behind those in it */
const char *pack_new_name(unsigned layout);

#endif
