/*
 * The state of an initialised application: its modules. One life of the process: from C_Initialize, or from a child's
 * first call, to C_Finalize.
 */
#ifndef P11HOST_STATE_H
#define P11HOST_STATE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "cryptoki.h"
#include "limits.h"
#include "module.h"
#include "operations.h"

#define RETIRED 0x80000000U

enum { SESSION_HINTS = 64 };

struct state {
    _Atomic unsigned inside; /* threads in a call; RETIRED when it is no longer the present one */
    struct state *next;      /* in the list of those to be used again */
    _Atomic bool lazy;   /* built by a child's first call: C_Initialize has yet to be called */
    _Atomic bool ending; /* C_Finalize has begun */
    bool strict;         /* some module wants every child to call C_Initialize */
    bool inherited;      /* some module's helper is to be shared with children */
    bool lasting;        /* some module's sessions last longer than a life */
    _Atomic unsigned calls; /* in progress */
    _Atomic(struct events *) events; /* NULL until the application knows of a slot, or waits */
    _Atomic(struct operations *) operations; /* NULL until there is one to remember */
    _Atomic uint8_t found_at[SESSION_HINTS]; /* by generation: which module's sessions had one like it last */
    unsigned n_modules;
    struct module modules[LIMIT_MODULES];
};

/* Memory for a state; NULL when there is none. */
struct state *state_map(void);

/* Asks the broker and waits until the helpers are ready. CKR_OK if at least one is, or none is configured. */
CK_RV state_init(struct state *state, bool lazy);

/*
 * In a child: begins with the modules of its parent's state, as it was at the fork. Those with `fork = "inherit"` keep their helper,
 * the others get one when it is needed. Nobody is asked, and nothing is opened.
 */
CK_RV state_inherit(struct state *state, const struct state *parent, bool lazy);

/* Before a child closes what it inherited: what state_inherit will use is not to be closed. */
void state_keep_doors(const struct state *parent);

/* Closes what it has; its memory stays. */
void state_finish(struct state *state);

/* An explicit C_Initialize finds a state: true if a child's first call had built it and this is the first. */
bool state_claim(struct state *state);

/* Tells every thread inside to leave. */
void state_end(struct state *state);

/*
 * The module whose sessions, those that this process opened, have handles of that generation, and the generation it is in.
 * NULL when there is none.
 */
struct module *state_module_of_sessions(struct state *state, uint32_t of_sessions, uint32_t *ret_generation);

/* The module that knows this session, which an earlier process or helper gave out. NULL when there is none. */
struct module *state_module_of_inherited(struct state *state, CK_ULONG client, struct session *ret_session);

/* Is this the handle of a session, as far as can be told without asking its provider? */
bool state_knows_session(struct state *state, CK_ULONG client);

struct module *state_module_by_number(struct state *state, unsigned number);

#endif
