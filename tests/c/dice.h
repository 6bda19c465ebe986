/*
 * Where generated values come from: a seed, the same for ever, or the first bytes of a fuzzer's input, so that the
 * fuzzer decides.
 */
#ifndef P11HOST_DICE_H
#define P11HOST_DICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dice {
    uint64_t state;
    const uint8_t *bytes; /* NULL: from the state alone */
    size_t left;          /* of the bytes; after them every throw is 0 */
};

struct dice dice_from_seed(uint64_t seed);
struct dice dice_from_bytes(const uint8_t *bytes, size_t count);

/* 0 to sides - 1. */
uint32_t dice_throw(struct dice *dice, uint32_t sides);

/* True once in `sides` throws; never when the bytes have run out. */
bool dice_once_in(struct dice *dice, uint32_t sides);

/* Numbers as Cryptoki has them: mostly small, sometimes the greatest, sometimes any. */
uint64_t dice_number(struct dice *dice);

void dice_fill(struct dice *dice, void *at, size_t size);

#endif
