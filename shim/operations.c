#include "operations.h"

#include <string.h>
#include <sys/mman.h>

static _Atomic uint16_t *bucket_of(struct operations *operations, CK_ULONG session)
{
    uint64_t mixed = (uint64_t)session * 0x9e3779b97f4a7c15U;
    return &operations->buckets[(mixed >> 32) % OPERATION_BUCKETS];
}

/* Asked without the lock: who has begun an operation knows that it has. */
static bool is_empty(struct operations *operations, CK_ULONG session)
{
    return atomic_load_explicit(bucket_of(operations, session), memory_order_acquire) == 0;
}

static struct operation *at_place(struct operations *operations, uint16_t place)
{
    return place ? &operations->list[place - 1] : NULL;
}

static uint16_t place_of(const struct operations *operations, const struct operation *operation)
{
    return (uint16_t)(operation - operations->list + 1);
}

static void give_back(struct operations *operations, struct operation *operation)
{
    if (operation->arena.base)
        arena_reset(&operation->arena, true);
    operation->flag = 0;
    operation->next = operations->spare;
    operations->spare = place_of(operations, operation);
}

static void set_next(struct operations *operations, CK_ULONG session, struct operation *before, uint16_t next)
{
    if (before)
        before->next = next;
    else
        atomic_store_explicit(bucket_of(operations, session), next, memory_order_release);
}

static void forget(struct operations *operations, CK_ULONG session, unsigned flags)
{
    struct operation *before = NULL, *operation;
    uint16_t place = atomic_load(bucket_of(operations, session));
    while ((operation = at_place(operations, place))) {
        place = operation->next;
        if (operation->session != session || !(operation->flag & flags)) {
            before = operation;
            continue;
        }
        set_next(operations, session, before, place);
        give_back(operations, operation);
    }
}

void operations_forget(struct operations *operations, CK_ULONG session, unsigned flags)
{
    if (!operations || is_empty(operations, session))
        return;
    pthread_mutex_lock(&operations->lock);
    forget(operations, session, flags);
    pthread_mutex_unlock(&operations->lock);
}

struct operations *operations_find_or_map(_Atomic(struct operations *) *at)
{
    struct operations *found = atomic_load(at);
    if (found)
        return found;
    struct operations *fresh = mmap(NULL, sizeof *fresh, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED)
        return NULL;
    fresh->most = LIMIT_OPERATIONS;
    if (atomic_compare_exchange_strong(at, &found, fresh))
        return fresh;
    munmap(fresh, sizeof *fresh);
    return found;
}

void operations_unmap(_Atomic(struct operations *) *at)
{
    struct operations *operations = atomic_exchange(at, NULL);
    if (operations)
        munmap(operations, sizeof *operations);
}

/* ---- recalling ---- */

/* Of those with these flags the one with the lowest; NULL if there is none. */
static struct operation *find_lowest(struct operations *operations, CK_ULONG session, unsigned flags)
{
    struct operation *found = NULL, *operation;
    for (uint16_t place = atomic_load(bucket_of(operations, session)); (operation = at_place(operations, place)); place = operation->next)
        if (operation->session == session && (operation->flag & flags) && (!found || operation->flag < found->flag))
            found = operation;
    return found;
}

static void add(struct recall *recall, const struct operation *operation)
{
    recall->known = true;
    recall->mechanism = operation->mechanism;
    for (unsigned i = 0; i < operation->count && recall->count < LATE_MOST; i++)
        recall->list[recall->count++] = operation->list[i], recall->list[recall->count - 1].changed = false;
}

void operations_recall(struct operations *operations, CK_ULONG session, unsigned flags, struct recall *ret_recall)
{
    const struct operation *operation;
    ret_recall->known = false;
    ret_recall->begun = ret_recall->lost = false;
    ret_recall->count = 0;
    if (!operations || is_empty(operations, session))
        return;
    pthread_mutex_lock(&operations->lock);
    while ((operation = find_lowest(operations, session, flags))) {
        add(ret_recall, operation);
        flags &= ~(unsigned)operation->flag;
    }
    pthread_mutex_unlock(&operations->lock);
}

static void update_one(struct operation *operation, const struct recall *recall)
{
    for (unsigned i = 0; i < operation->count; i++)
        for (unsigned k = 0; k < recall->count; k++)
            if (operation->list[i].at == recall->list[k].at && operation->list[i].size == recall->list[k].size)
                memcpy(operation->list[i].was, recall->list[k].was, recall->list[k].size);
}

void operations_update(struct operations *operations, CK_ULONG session, unsigned flags, const struct recall *recall)
{
    struct operation *operation;
    if (!operations || is_empty(operations, session))
        return;
    pthread_mutex_lock(&operations->lock);
    while ((operation = find_lowest(operations, session, flags))) {
        update_one(operation, recall);
        flags &= ~(unsigned)operation->flag;
    }
    pthread_mutex_unlock(&operations->lock);
}

/* ---- remembering ---- */

/* All are in use: the one whose turn it is, which is among the oldest, is forgotten. */
static struct operation *forget_oldest(struct operations *operations)
{
    for (unsigned i = 0; i < operations->most; i++) {
        struct operation *oldest = &operations->list[operations->hand++ % operations->most];
        if (!oldest->flag)
            continue; /* some thread's, reserved */
        forget(operations, oldest->session, oldest->flag);
        break;
    }
    return at_place(operations, operations->spare);
}

struct operation *operations_reserve(struct operations *operations)
{
    pthread_mutex_lock(&operations->lock);
    struct operation *operation = at_place(operations, operations->spare);
    if (!operation && operations->used == operations->most)
        operation = forget_oldest(operations);
    if (operation)
        operations->spare = operation->next;
    else if (operations->used < operations->most)
        operation = &operations->list[operations->used++];
    pthread_mutex_unlock(&operations->lock);
    return operation;
}

void operations_release(struct operations *operations, struct operation *operation)
{
    pthread_mutex_lock(&operations->lock);
    give_back(operations, operation);
    pthread_mutex_unlock(&operations->lock);
}

void operations_remember(struct operations *operations, struct operation *operation, CK_ULONG session, unsigned flag,
                         const struct recall *recall)
{
    operation->session = session;
    operation->mechanism = recall->mechanism;
    operation->count = (uint8_t)(recall->count < LATE_PARTS ? recall->count : LATE_PARTS);
    memcpy(operation->list, recall->list, operation->count * sizeof *operation->list);
    pthread_mutex_lock(&operations->lock);
    forget(operations, session, flag);
    operation->flag = (uint16_t)flag;
    operation->next = atomic_load(bucket_of(operations, session));
    atomic_store_explicit(bucket_of(operations, session), place_of(operations, operation), memory_order_release);
    pthread_mutex_unlock(&operations->lock);
}

/* ---- what a call does to its operations ---- */

static const struct arg *find_arg(const struct function *function, enum arg_kind kind)
{
    for (unsigned i = 0; i < function->n_args; i++)
        if (function->args[i].kind == kind)
            return &function->args[i];
    return NULL;
}

bool operations_ended(const struct function *function, const uintptr_t *words, CK_RV rv)
{
    const struct arg *out = find_arg(function, ARG_OUT_BYTES);
    switch ((enum role)function->role) {
    case ROLE_CONTINUE: return rv != CKR_OK && !(out && rv == CKR_BUFFER_TOO_SMALL);
    case ROLE_END: return !(out && (rv == CKR_BUFFER_TOO_SMALL || (rv == CKR_OK && !words[out->pos])));
    case ROLE_FINISH: return rv == CKR_OK;
    default: return false;
    }
}

unsigned operations_cancelled(const struct function *function, const uintptr_t *words)
{
    const struct arg *flags = find_arg(function, ARG_NUMBER);
    return flags ? (unsigned)words[flags->pos] & ALL_OPERATIONS : 0;
}

CK_ULONG operations_opened(const struct function *function, const uintptr_t *words)
{
    const struct arg *cell = find_arg(function, ARG_OUT_SESSION);
    const CK_ULONG *session = cell ? (const CK_ULONG *)words[cell->pos] : NULL;
    return session ? *session : 0;
}
