/* One call to one module: request, response, and what a failure of the wire means in PKCS#11. */
#ifndef P11HOST_EXCHANGE_H
#define P11HOST_EXCHANGE_H

#include "state.h"
#include "walk.h"

struct call {
    struct state *state;
    struct module *module;
    uint32_t generation;
    const struct function *function;
    uintptr_t *words;
    CK_ULONG slot, session; /* the provider's own */
    bool over;              /* the helper refused and closes the channel */
};

CK_RV exchange(struct call *call);

#endif
