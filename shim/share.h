/*
 * A provider that several processes use as one application (`fork = "inherit"`): its sessions, and whose each is.
 *
 * A process uses and closes its own only. When it has ended, its sessions are closed, but for one in each slot where somebody is
 * logged in: with the last session the provider would end the login, which is everybody's. Those of the first process stay: with
 * them would go the session objects it made before it forked.
 */
#ifndef P11HOST_SHARE_H
#define P11HOST_SHARE_H

#include "limits.h"
#include "provider.h"
#include "sessions.h"

struct share {
    struct sessions sessions;
    pthread_mutex_t holds_lock; /* zero is unlocked */
    struct hold {
        uint32_t owner; /* 0: a free place */
        unsigned count;
    } holds[2 * LIMIT_CHANNELS];
};

/* A call of functions[fn] by the process `owner`, a number that is not 0. To the provider as it is, if it is not shared. */
CK_RV share_call(struct provider *provider, unsigned fn, uintptr_t *words, uint32_t owner);

/* One more that may call for this process: its life, or a channel of it. */
void share_hold(struct share *share, uint32_t owner);

/* One less. True if it was the last. */
bool share_release(struct share *share, uint32_t owner);

/* Nobody is left who could call for this process. */
void share_bury(struct provider *provider, uint32_t owner);

#endif
