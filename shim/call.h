/* What the generated entry points need: one function for every call, and the mark of an exported symbol. */
#ifndef P11HOST_CALL_H
#define P11HOST_CALL_H

#include <stdint.h>

#include "cryptoki.h"

#define EXPORT __attribute__((visibility("default")))

/* Carries the call of functions[fn] with its C arguments as words to the module it belongs to. */
CK_RV call(unsigned fn, uintptr_t *words);

#endif
