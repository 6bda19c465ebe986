/*
 * Arguments for any function, made up by the tables: what a caller might give, all of it behind fences.
 *
 * Lengths fit what they measure. What a table cannot describe is left NULL.
 */
#ifndef P11HOST_MAKE_H
#define P11HOST_MAKE_H

#include "dice.h"
#include "tables.h"

enum { MAX_WORDS = 16 };

/* All of a function's C arguments. */
void make_call(struct dice *dice, const struct function *function, uintptr_t *ret_words);

/* A mechanism whose parameter is made by this choice; `choice` NULL for one without. */
CK_MECHANISM *make_mechanism(struct dice *dice, const struct mechanism *mechanism, const struct choice *choice);

/* One way a parameter can look: a mechanism and one of its choices. */
struct way {
    const struct mechanism *mechanism;
    const struct choice *choice;
};

/* The next in the order of the tables, the first after {0}. False, and {0}, after the last. */
bool make_next_way(struct way *way);

/* A struct's fields, pointers and what lies behind them. */
void make_fields(struct dice *dice, const struct layout *layout, uint8_t *base);

/* The first function with a mechanism for which the choice holds; NULL if there is none. */
const struct function *make_function_for(const struct choice *choice);

/* The first choice of a mechanism that holds in that context; NULL if there is none. */
const struct choice *make_find_choice(const struct mechanism *mechanism, enum context context);

/* Whether it is sent to a helper at all. */
bool make_crosses(const struct function *function);

/* The index in `args` of the argument of that kind; -1 if there is none. */
int make_find_arg(const struct function *function, enum arg_kind kind);

#endif
