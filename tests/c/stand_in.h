/*
 * A stand-in for a provider: knows no cryptography, but reads every input it is given, writes every output it may, and
 * spoils what it should have left alone.
 */
#ifndef P11HOST_STAND_IN_H
#define P11HOST_STAND_IN_H

#include "dice.h"
#include "ends.h"
#include "visit.h"

/* Reads all there is to read. What it returns is of no use but to the optimiser. */
uint64_t stand_in_reads(const struct leaves *leaves);

/* Writes the outputs: all of them, lengths included, at most `most` bytes to each. */
void stand_in_writes(struct dice *dice, const struct leaves *leaves, CK_RV rv, size_t most);

/* Overwrites inputs, pointers among them; all but the words themselves, which a provider gets by value. */
void stand_in_spoils(struct dice *dice, const struct leaves *leaves, const uintptr_t *words);

/* Whether an output of that kind comes back with this answer. */
bool stand_in_carries(const struct leaf *leaf, CK_RV rv);

/* How many bytes of an output count now. */
size_t stand_in_counted(const struct leaf *leaf);

/*
 * NULL if a provider may use everything it was given: all of it lies in the arena, on the shelf or among the words, and
 * nothing it may write overlaps with anything else. Else what is wrong.
 */
const char *stand_in_finds_fault(const struct leaves *leaves, const struct ends *ends);

#endif
