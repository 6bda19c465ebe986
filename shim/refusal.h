/*
 * Why a call was refused, said where somebody reads it (specs/PROTOCOL.md, section 4.8): the shim, which has no log, tells its
 * helper; the helper writes a line to its standard error, which the broker logs.
 *
 * Knows names and numbers. Must not know a value of an argument: what is said here is no secret.
 */
#ifndef P11HOST_REFUSAL_H
#define P11HOST_REFUSAL_H

#include "codec.h"
#include "limits.h"

struct refusal {
    const char *function;
    uint64_t rv;
    uint64_t mechanism; /* all ones: the call has none */
    uint64_t length;    /* of the mechanism's parameter */
    uint64_t count;     /* how many there have been, this one included */
    char reason[LIMIT_REASON + 1];
};

/* Of many only the first few are said, then ever fewer. Counts one more; 0 if this one is not to be said. */
uint64_t refusal_count(_Atomic uint64_t *count);

/* The whole notification; and its params, whose function is written to `function`. */
void write_refusal(struct writer *w, const struct refusal *refusal);
void read_refusal(struct reader *r, struct refusal *ret_refusal, char function[LIMIT_NAME + 1]);

/* One line on standard error, if there is room for it at once. */
void refusal_say(const char *event, const struct refusal *refusal);

#endif
