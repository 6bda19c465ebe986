/* The provider a helper holds: hostile code, from the moment it is loaded. */
#ifndef P11HOST_PROVIDER_H
#define P11HOST_PROVIDER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cryptoki.h"

struct provider {
    CK_FUNCTION_LIST_3_2 list; /* our copy: what the newest list of its own has, what that lacks from older ones, else NULL */
    CK_VERSION version;        /* of the newest */
    bool serialize;            /* one call at a time: it cannot be used by threads */
    pthread_mutex_t turn;
    bool bound;                /* its sessions are bound to tokens */
    struct share *share;       /* NULL if one process has it to itself */
    const struct view *view;   /* NULL if all its slots are shown */
};

/* Loads the library at `path`, whose constructors run. CKR_OK, or why not, with a sentence for people in ret_error. */
CK_RV provider_load(struct provider *provider, const char *path, char *ret_error, size_t size);

/* Makes its first call, with `reserved` (may be NULL) as pReserved; answers as provider_load does. */
CK_RV provider_initialize(struct provider *provider, const char *path, const char *reserved, char *ret_error, size_t size);

/* Calls functions[fn], in turn where the provider wants that. */
CK_RV provider_call(struct provider *provider, unsigned fn, uintptr_t *words);

#endif
