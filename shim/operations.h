/*
 * What either end remembers of the operations of its sessions: the mechanism a message's parameter follows from, and the
 * memory of a parameter that later calls may write.
 *
 * An operation is known by its session and its flag in CK_MECHANISM_INFO, one of the function's `operations`. At most
 * `most` are remembered; then the oldest is forgotten. A session of which nothing is known costs no lock.
 */
#ifndef P11HOST_OPERATIONS_H
#define P11HOST_OPERATIONS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "arena.h"
#include "tables.h"

enum {
    LATE_PARTS = 4,              /* of one parameter */
    LATE_MOST = 2 * LATE_PARTS,  /* of the operations of one call */
    ALL_OPERATIONS = UINT16_MAX,
};

/* A byte string in the parameter of an operation's beginning. */
struct late {
    uint8_t *at;
    CK_ULONG size; /* at most LIMIT_LATE */
    bool output;   /* comes back with the parameter at the beginning */
    bool changed;  /* by the present call */
    uint8_t was[LIMIT_LATE]; /* as both ends last knew it */
};

/* What is known of the operations a call is about. */
struct recall {
    bool known;
    CK_MECHANISM_TYPE mechanism;
    bool begun;   /* by the present call, with a mechanism */
    bool lost;    /* a part was not written */
    unsigned count;
    struct late list[LATE_MOST];
};

struct operation {
    CK_ULONG session;
    CK_MECHANISM_TYPE mechanism;
    struct arena arena; /* the helper's: the memory the provider was given at the beginning */
    uint16_t flag, next; /* next: its place in `list` + 1, 0 at the end */
    uint8_t count;
    struct late list[LATE_PARTS];
};

enum { OPERATION_BUCKETS = 1024 };

/* Zero is empty but for `most`. */
struct operations {
    pthread_mutex_t lock;
    unsigned most;
    unsigned used; /* of list, so far */
    unsigned hand; /* where to look for the next to forget */
    uint16_t spare;
    _Atomic uint16_t buckets[OPERATION_BUCKETS];
    struct operation list[LIMIT_OPERATIONS];
};

/* An application needs them only when something is to be remembered. NULL when out of memory. */
struct operations *operations_find_or_map(_Atomic(struct operations *) *at);
void operations_unmap(_Atomic(struct operations *) *at);

/*
 * Where `operations` is NULL nothing is remembered.
 */

/* Fills in what is known of a session's operations with these flags, and the late parts of each in the order of flags. */
void operations_recall(struct operations *operations, CK_ULONG session, unsigned flags, struct recall *ret_recall);

/* The parts are now as the recall says. */
void operations_update(struct operations *operations, CK_ULONG session, unsigned flags, const struct recall *recall);

void operations_forget(struct operations *operations, CK_ULONG session, unsigned flags);

/* Room for one more, the caller's until it gives it to one of the next two. */
struct operation *operations_reserve(struct operations *operations);
void operations_release(struct operations *operations, struct operation *operation);

/* Takes the place of an older operation of that session with that flag. */
void operations_remember(struct operations *operations, struct operation *operation, CK_ULONG session, unsigned flag,
                         const struct recall *recall);

/* Whether a call that was answered with `rv` has ended its operations (section 5 of the standard). */
bool operations_ended(const struct function *function, const uintptr_t *words, CK_RV rv);

/* The flags that a successful call of ROLE_CANCEL ends. */
unsigned operations_cancelled(const struct function *function, const uintptr_t *words);

/* The session that a successful call of ROLE_OPEN opened. */
CK_ULONG operations_opened(const struct function *function, const uintptr_t *words);

#endif
