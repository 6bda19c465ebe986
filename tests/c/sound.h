/* Whether decoded rows are safe to walk: every offset inside its struct, every index inside its table. */
#ifndef P11HOST_TEST_SOUND_H
#define P11HOST_TEST_SOUND_H

#include "rows.h"

/* NULL, or what is wrong. */
const char *sound_fault(const struct rows *rows);

#endif
