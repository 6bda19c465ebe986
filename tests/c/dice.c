#include "dice.h"

#include <string.h>

struct dice dice_from_seed(uint64_t seed)
{
    return (struct dice){.state = seed};
}

struct dice dice_from_bytes(const uint8_t *bytes, size_t count)
{
    return (struct dice){.bytes = bytes, .left = count};
}

/* splitmix64: every seed is as good as any other. */
static uint64_t next_state(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint32_t next_byte(struct dice *dice)
{
    if (dice->left == 0)
        return 0;
    dice->left--;
    return *dice->bytes++;
}

uint32_t dice_throw(struct dice *dice, uint32_t sides)
{
    if (!dice->bytes)
        return (uint32_t)(next_state(&dice->state) % sides);
    uint32_t thrown = next_byte(dice);
    for (uint32_t range = 256; range < sides; range = range < 1U << 24 ? range << 8 : UINT32_MAX)
        thrown = thrown << 8 | next_byte(dice);
    return thrown % sides;
}

bool dice_once_in(struct dice *dice, uint32_t sides)
{
    return dice_throw(dice, sides) == sides - 1;
}

uint64_t dice_number(struct dice *dice)
{
    uint64_t any = 0;
    switch (dice_throw(dice, 6)) {
    case 0: return UINT64_MAX;
    case 1: dice_fill(dice, &any, sizeof any); return any;
    case 2: return dice_throw(dice, 1U << 24);
    default: return dice_throw(dice, 256);
    }
}

void dice_fill(struct dice *dice, void *at, size_t size)
{
    uint64_t own = dice->bytes ? next_byte(dice) : next_state(&dice->state), block = 0;
    uint8_t *byte = at;
    for (size_t i = 0; i < size; i++, block >>= 8) {
        if (i % sizeof block == 0)
            block = next_state(&own);
        byte[i] = (uint8_t)block;
    }
}
