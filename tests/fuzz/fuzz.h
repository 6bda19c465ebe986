/* What the fuzz targets share. */
#ifndef P11HOST_FUZZ_H
#define P11HOST_FUZZ_H

#include <fcntl.h>
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

/* Descriptors with small numbers, where one that stays open sooner or later is. Cheaper than a look into /proc. */
static inline unsigned count_descriptors(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 64; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

#endif
