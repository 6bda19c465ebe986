/*
 * The root: one page, wiped in every forked child, from which everything this library knows hangs.
 *
 * In a child the page reads zero: no state, no locks held, nobody inside. So a child needs no lock that a vanished
 * thread may hold, and nothing has to run at fork. Where the kernel cannot wipe a page (or only says that it does), the
 * root is marked as its process's, and one that finds another's takes a new one.
 */
#ifndef P11HOST_ROOT_H
#define P11HOST_ROOT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cryptoki.h"
#include "owner.h"

struct selection;
struct state;

/*
 * The state, held until state_leave: it is not freed before then. CKR_CRYPTOKI_NOT_INITIALIZED if there is none and
 * none is wanted. In a child whose parent was initialised the first call builds it.
 */
CK_RV state_enter(struct state **ret_state);
void state_leave(struct state *state);

/* A number for the life of this process: a child has another. 0 where there is none yet. */
uint32_t root_life(void);

/* Where that number stands, if it reads 0 in a child from its beginning; else NULL. There is a life. */
const _Atomic uint32_t *root_life_page(void);

/* Whose a channel is that is opened now: nobody's, if the call is one of a process that this one was forked from. */
static inline struct owner root_owner(void)
{
    uint32_t life = root_life();
    return (struct owner){life ? life : UINT32_MAX, root_life_page(), root_life};
}

/* C_Initialize and C_Finalize. The selection counts where there is no state yet. */
CK_RV state_initialize(const struct selection *selection);
CK_RV state_finalize(void);

/* The locks under which the tables in names.c grow, and under which attach.c looks for the broker. */
pthread_mutex_t *root_names_lock(void);
pthread_mutex_t *root_attach_lock(void);

#endif
