/*
 * A module as the application sees it: the door to its helper, the channels that are idle, the generation it is in.
 *
 * One thread uses a channel at a time. Idle channels wait in a row of cells and are taken and given by atomic
 * exchange: no lock is held across a call, and there is none for a vanished thread to have left locked.
 */
#ifndef P11HOST_MODULE_H
#define P11HOST_MODULE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "attach.h"
#include "channel.h"
#include "names.h"
#include "tables.h"

enum { IDLE_CHANNELS = 64 };

struct module {
    char name[LIMIT_NAME + 1];
    unsigned number;                /* in names.c */
    _Atomic uint32_t patience[3]; /* milliseconds, by enum patience; a new helper may have others */
    _Atomic uint32_t generation;    /* 0 when it has no helper */
    pthread_mutex_t lock;           /* for door and generation to change */
    int door;                       /* -1 when it has no helper */
    _Atomic bool serial;            /* its provider gets one call at a time */
    _Atomic bool slots_known;       /* it has been asked for its slots in this life */
    _Atomic unsigned *calls;        /* in progress, the state's */
    _Atomic(struct rows *) rows;    /* its own, NULL when it has none; a new helper may have others */
    struct rows *kept;              /* all it ever had in this life: calls may still look into them */
    _Atomic uint64_t refusals;      /* calls that were not sent, in the life of the process */
    struct large_handles large;
    _Atomic(struct channel *) idle[IDLE_CHANNELS];
};

/* Takes over the descriptor and the rows of the offer. `calls`: how many are in progress in this process. */
void module_init(struct module *module, const struct offer *offer, _Atomic unsigned *calls);
void module_finish(struct module *module);

/* Two steps, so that many helpers start at the same time. The channel is NULL when nobody is behind the door. */
struct channel *module_greet(struct module *module);
CK_RV module_await(struct module *module, struct channel *greeting, uint32_t within_ms);

/* Has the module a helper? If not, asks the broker for a new one: a new generation. CKR_OK if it has one then. */
CK_RV module_revive(struct module *module);

/* A channel of that generation, idle or new. NULL when that life is over or no channel can be opened. */
struct channel *module_take(struct module *module, uint32_t generation);
void module_give(struct module *module, struct channel *channel);

/* A channel that is of no more use. If the helper is gone, ends the generation. */
void module_drop(struct module *module, struct channel *channel);

#endif
