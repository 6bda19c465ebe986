/* One call to one module: request, response, and what a failure of the wire means in PKCS#11. */
#ifndef P11HOST_EXCHANGE_H
#define P11HOST_EXCHANGE_H

#include "state.h"
#include "walk.h"

struct call {
    struct state *state;
    struct module *module;
    uint32_t generation;
    uint32_t of_sessions; /* the generation in handles of the sessions it opens */
    const struct function *function;
    uintptr_t *words;
    CK_ULONG slot, session; /* the provider's own */
    bool aside;             /* of our own: objects are those of this generation, and not got to know */
    const char *lost_object; /* why an object of an earlier generation is none in this one, and what is said of it */
    CK_RV lost_rv;
    bool over;              /* the helper refused and closes the channel */
    bool hung;              /* its deadline has passed */
    bool lost;              /* this is a child, forked within the call: the channel is its parent's */
    bool silent;            /* there was no helper, or none that answered */
    bool unsent;            /* no helper has received it: nothing was executed */
    bool hasty;             /* where the answer takes long, it is left to come (late.h) */
    bool late;              /* that is so */
};

/* A call on its way: from before its request until its answer has been read. */
struct talk {
    struct call *call;
    struct channel *channel; /* NULL: there was none */
    struct names names;
    struct walk walk;
    size_t shelved;
    uint64_t since;
    bool greeting; /* the helper has yet to say hello on the channel */
    bool sent;   /* an answer is to come */
    bool usable; /* the channel, for another call */
    CK_RV rv;    /* what comes of the call, if none is */
};

CK_RV exchange(struct call *call);

/* Has the helper log the user in, in the call's session, with the PIN that the broker gave it. */
CK_RV exchange_login(const struct call *call);

/*
 * A call that needs no session: the module gets a new helper if it has none, also if it turns out only now that it has
 * none any more.
 */
CK_RV exchange_anew(struct call *call);

/*
 * The same in three steps, so that several modules are at it at the same time, each for as long as the call may take, or as a hasty one
 * waits: the first for every call, the second for all together, the third for every one of them. Of functions without a role.
 */
void exchange_begin(struct talk *talk, struct call *call);
void exchange_greet(struct talk *const *talks, unsigned n);
CK_RV exchange_end(struct talk *talk);

#endif
