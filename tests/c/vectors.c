#include "vectors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void missing(const char *name)
{
    fprintf(stderr, "vectors: nothing is called %s\n", name);
    abort();
}

const struct vector *vector_next(const char *file, const struct vector *last)
{
    for (unsigned i = last ? (unsigned)(last - vectors) + 1 : 0; i < vector_count; i++)
        if (!strcmp(vectors[i].file, file))
            return &vectors[i];
    return NULL;
}

const struct vector *vector_call(const char *name)
{
    for (unsigned i = 0; i < vector_count; i++)
        if (vectors[i].function[0] && !strcmp(vectors[i].name, name))
            return &vectors[i];
    missing(name);
}

const struct function *vector_function(const struct vector *vector)
{
    for (unsigned i = 0; i < FUNCTION_COUNT; i++)
        if (!strcmp(functions[i].name, vector->function))
            return &functions[i];
    missing(vector->function);
}
