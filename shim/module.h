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
#include "descriptors.h"
#include "names.h"
#include "objects.h"
#include "sessions.h"
#include "tables.h"

enum { IDLE_CHANNELS = 64 };

struct module {
    char name[LIMIT_NAME + 1];
    unsigned number;                /* in names.c */
    _Atomic uint32_t patience[3]; /* milliseconds, by enum patience; a new helper may have others */
    _Atomic uint32_t generation;    /* 0 when it has no helper */
    _Atomic uint32_t of_sessions;   /* the generation in handles of sessions: in a child that shares a helper its own */
    pthread_mutex_t lock;           /* for door and generation to change */
    int door;                       /* -1 when it has no helper */
    uint64_t helper;                /* the broker's number of its process, 0 if it did not say */
    bool absent;                    /* under the lock: the last offer was none, as has been logged */
    uint32_t start_ms;              /* how long a new helper is waited for */
    struct channel *greeting;       /* under the lock: to a helper that has yet to say hello */
    uint64_t ready_by;              /* when nobody waits for that any more */
    _Atomic uint32_t list_ms;       /* how long a list of many modules' slots waits for this one's */
    _Atomic(struct channel *) late; /* an answer is to come on it that nobody waits for: late.h */
    _Atomic bool late_looked;       /* a thread looks whether it has */
    _Atomic bool serial;            /* its provider gets one call at a time */
    struct identity door_identity;
    _Atomic bool inherited;         /* children share the helper */
    _Atomic bool resumes;           /* the next helper has what this one had, as far as resume.h goes */
    _Atomic bool is_heir;           /* the helper is one that an ancestor had started */
    _Atomic bool slots_known;       /* it has been asked for its slots in this life */
    _Atomic CK_ULONG slots_told[2]; /* 1 + how many it said there are, by whether a token must be there; 0 if it was not asked */
    _Atomic unsigned *calls;        /* in progress, the state's */
    _Atomic(struct rows *) rows;    /* its own, NULL when it has none; a new helper may have others */
    struct rows *kept;              /* all it ever had in this life: calls may still look into them */
    _Atomic uint64_t refusals;      /* calls that were not sent, in the life of the process */
    struct large_handles large;
    _Atomic uint32_t broken[LIMIT_BROKEN]; /* CK_RVs after which it needs another helper; 0 ends the list */
    uint32_t broken_pause_ms;       /* at most once in this time */
    _Atomic uint64_t broken_at;     /* when that was last, 0 for never */
    struct sessions sessions; /* if they last: all that this process may use */
    struct objects objects;   /* if it resumes */
    pthread_mutex_t user_lock; /* one thread logs the user in again */
    uint32_t user_life;        /* the generation in which that was tried */
    uint64_t user_face;        /* of the token where the user has logged in, 0 if that cannot be told */
    _Atomic uint32_t user_lost; /* the generation in which it failed */
    _Atomic(CK_ULONG) user_slot; /* where the user has logged in: see resume.c */
    _Atomic(struct channel *) idle[IDLE_CHANNELS];
};

/* Takes over the descriptor and the rows of the offer. `calls`: how many are in progress in this process. */
void module_init(struct module *module, const struct offer *offer, _Atomic unsigned *calls);
void module_finish(struct module *module);

/*
 * In a child: a module as its parent had it, with the same helper if that is to be shared; else without one, until it is
 * needed. False when out of memory.
 */
bool module_inherit(struct module *module, const struct module *parent, _Atomic unsigned *calls);

/* Does a session of it last longer than its helper's life, or this process's? Then it is in `sessions`. */
bool module_lasts(const struct module *module);

/* In a child: has it this door of its parent's, and shares it? */
bool module_has_heirs(const struct module *parent);

/* Has no more to do with the helper of that generation. Its sessions remain, to be opened with the next helper. */
void module_leave(struct module *module, uint32_t generation);

/*
 * Two steps, so that many helpers start at the same time, each with a deadline of its own. The second is CKR_OK if the helper is
 * ready; one that is late goes on starting, and is found ready by a later second step, which then does not wait.
 */
void module_greet(struct module *module);
CK_RV module_await(struct module *module);

/* Has yet to say hello, and nobody waits for it any more. */
bool module_is_late(struct module *module);

/* At the end: a helper that is late is the broker's to end, for one that stands still cannot do it itself. */
void module_report_late(struct module *module);

/* If the module has no helper, asks the broker for one, but does not wait for it. False if there is none to wait for. */
bool module_start(struct module *module);

/* Has the module a helper? If not, asks the broker for a new one: a new generation. CKR_OK if it has one then. */
CK_RV module_revive(struct module *module);

/* For a list of many modules' slots, which waits for none as long as a call to one would. */
bool module_is_late_for_list(struct module *module);
CK_RV module_revive_for_list(struct module *module);

/*
 * A channel of that generation, idle or new; for that its helper has so many milliseconds, 0 for as long as it has to start. NULL
 * when that life is over, if the helper was too slow (then it is), or no channel can be opened.
 */
struct channel *module_take(struct module *module, uint32_t generation, uint32_t within_ms, bool *ret_late);
void module_give(struct module *module, struct channel *channel);

/* The same without waiting: on a new one the hello has yet to come (module_hear). */
struct channel *module_take_now(struct module *module, uint32_t generation, bool *ret_greeting);

/*
 * For who polls: a channel whose hello has yet to come, NULL if that life is over or no channel can be opened. When the helper has begun to say
 * hello, the rest of that: CKR_OK if the channel can be used.
 */
struct channel *module_open(struct module *module, uint32_t generation);
CK_RV module_hear(struct module *module, struct channel *channel);

/* As module_start and module_revive, but waiting for nobody but the broker: has it a helper, will it soon, or is there none? */
enum readiness { MODULE_READY, MODULE_STARTING, MODULE_ABSENT } module_try(struct module *module);

/* A channel that is of no more use. If the helper is gone, ends the generation. */
void module_drop(struct module *module, struct channel *channel);

/*
 * The channel of a call after which the helper is of no more use: ends the generation, and has the broker end the helper. `rv` is what
 * the provider returned, CKR_OK if the call's deadline has passed.
 */
void module_give_up(struct module *module, struct channel *channel, CK_RV rv);

/* Does the configuration say that a provider which returns this needs another helper? */
bool module_calls_broken(const struct module *module, CK_RV rv);

/* The same, and not more often than it says, too. */
bool module_is_broken(struct module *module, CK_RV rv);

#endif
