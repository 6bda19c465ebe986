/* What the parts of p11host-bench share. */
#ifndef P11HOST_BENCH_H
#define P11HOST_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "cryptoki.h"

enum { MAX_SLOTS = 1024 };

/* The library, once it is loaded. */
extern CK_FUNCTION_LIST *p11;

/* Say what failed, and end. */
_Noreturn void fail(const char *call, CK_RV rv);
void must(const char *call, CK_RV rv);

int64_t now_ns(void);
void *allocate(size_t count, size_t size);
void print_times(int64_t *ns, size_t count);

CK_ULONG start(const char *path, CK_SLOT_ID slots[MAX_SLOTS]);
CK_SLOT_ID start_token(const char *path, const char *label);
void log_in(CK_SLOT_ID slot, char *pin);

/* bench_pairs.c */
void measure_pairs(char **argv);

/* prefork.c */
void measure_prefork(char **argv);
void measure_children(char **argv);

#endif
