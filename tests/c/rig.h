/*
 * An application with one module, and its helper in a thread of the same process: the shim's half of a call from
 * exchange() down, against a real helper's loop or one that misbehaves.
 */
#ifndef P11HOST_RIG_H
#define P11HOST_RIG_H

#include <pthread.h>
#include <stdatomic.h>

#include "exchange.h"

enum { MOST_CHANNELS = 64, TICK_MS = 20, LONG_MS = 60000, HELPER = 4711 };

/* What a helper does with a channel after its hello. */
typedef void conversation(struct channel *channel);

struct helper {
    int door;
    conversation *converse;
    CK_RV rv; /* other than CKR_OK: what the hello says instead */
    pthread_t thread, channels[MOST_CHANNELS];
    struct channel *open[MOST_CHANNELS];
    _Atomic unsigned count; /* channels it has had */
};

/* Returns the caller's end of its door. */
int helper_start(struct helper *helper, conversation *converse);

/* At a door that there is already. */
void helper_start_at(struct helper *helper, conversation *converse, int door);

/* As if the process had ended: nothing is behind the door, every channel is closed. */
void helper_dies(struct helper *helper);

/* Serves a provider that gives random bytes, which are all the session's number, and little else. */
conversation rig_serve;

/* Takes a request and dies of it. */
conversation rig_die;

/* Reads a request and tells its id, 0 at the end. */
uint32_t rig_take_request(struct channel *channel);

extern struct state rig_state;
extern struct helper rig_helper;
extern uint64_t rig_hung; /* the helper that was reported last */
extern int rig_next_door; /* what the broker offers next, -1 for nothing */

struct module *rig_module(void);
/* A module with a helper's door, and how long its helper may take to start. */
void rig_module_init(struct module *module, int door, uint32_t start_ms);
void rig_begin(conversation *converse);
void rig_end(void);

/* A call of functions[fn] with these arguments, in a session of the provider's. */
CK_RV rig_call(unsigned fn, uintptr_t *words, CK_ULONG session);

/* C_GenerateRandom: what it returns, and that it is right. */
CK_RV rig_random(void);
void rig_expect_random(CK_ULONG session);

#endif
