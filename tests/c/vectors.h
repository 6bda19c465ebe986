/* The conversation vectors of specs/vectors, as tests/vectors.py makes them into C. What each key means stands there. */
#ifndef P11HOST_VECTORS_H
#define P11HOST_VECTORS_H

#include "tables.h"

struct octets {
    const char *bytes;
    size_t len;
};

struct vector {
    const char *file, *name, *promise, *function, *begun, *call, *given, *wrote, *late, *got, *answer, *after;
    CK_RV rv;
    CK_MECHANISM_TYPE operation;
    struct octets request, response, send;
};

extern const struct vector vectors[];
extern const unsigned vector_count;

/* The next of a file after `last`, its first after NULL; NULL after its last. */
const struct vector *vector_next(const char *file, const struct vector *last);

/* The vector of calls.toml or structs.toml of that name; the program ends if there is none. */
const struct vector *vector_call(const char *name);

const struct function *vector_function(const struct vector *vector);

#endif
