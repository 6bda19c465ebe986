/*
 * Searches for objects that come to no end: a provider that gives the same object again and again would keep a program
 * that wants all of them busy for ever. In the helper.
 *
 * Of each session what it found first is remembered, in as many cells as there are; sessions that share a cell are
 * noticed a little later, or together not at all.
 */
#ifndef P11HOST_SEARCH_H
#define P11HOST_SEARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "tables.h"

/* After a call of any function: has it found what it had found over and over before? */
bool search_goes_round(const struct function *f, const uintptr_t *words, CK_RV rv);

#endif
