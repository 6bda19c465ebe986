/*
 * What objects of a token are known by, so that a later life of its helper can find them again (`resume`).
 *
 * As many are remembered as the table has cells; one that is used again after it gave way is looked at again.
 */
#ifndef P11HOST_OBJECTS_H
#define P11HOST_OBJECTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cryptoki.h"
#include "limits.h"

/* A length of CK_UNAVAILABLE_INFORMATION: the object has no such attribute, or one that is too long to be remembered. */
struct traits {
    CK_OBJECT_CLASS class;
    CK_KEY_TYPE key_type; /* CK_UNAVAILABLE_INFORMATION: none */
    CK_ULONG id_len, label_len, unique_len;
    CK_BYTE id[LIMIT_OBJECT_ID];
    CK_BYTE label[LIMIT_OBJECT_LABEL];
    CK_BYTE unique[LIMIT_OBJECT_UNIQUE];
};

struct object {
    _Atomic(CK_ULONG) client; /* the handle, as the application has it; 0 is none, and one that is being written: a child may read it */
    CK_ULONG slot;   /* the provider's */
    uint64_t face;   /* of the token there (seen.h), 0 if that cannot be told */
    uint32_t life;   /* the generation in which it is `server` */
    CK_ULONG server;
    bool findable;   /* it is the token's, and has traits to find it by */
    uint32_t age;
    struct traits traits;
};

struct objects {
    pthread_mutex_t lock;   /* zero is unlocked */
    _Atomic(struct object *) cells; /* NULL until there is one to remember */
    uint32_t clock;
};

/* Where there is no memory for it, it is not remembered. */
void objects_put(struct objects *objects, const struct object *object);
bool objects_get(struct objects *objects, CK_ULONG client, struct object *ret_object);
bool objects_has(struct objects *objects, CK_ULONG client);

/* Where it has been found. */
void objects_settle(struct objects *objects, CK_ULONG client, uint32_t life, CK_ULONG server);

/* In a child: takes over what its parent knew. Where there is no memory for it, nothing. */
void objects_inherit(struct objects *objects, const struct objects *parent);

/* Its handle, or its traits, may soon be another's. */
void objects_forget(struct objects *objects, CK_ULONG client);
void objects_finish(struct objects *objects);

#endif
