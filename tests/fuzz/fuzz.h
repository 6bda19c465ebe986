/* What the fuzz targets share. */
#ifndef P11HOST_FUZZ_H
#define P11HOST_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the program, which tells the fuzzer that it found something. */
static inline void found(const char *what)
{
    fprintf(stderr, "found: %s\n", what);
    abort();
}

#endif
