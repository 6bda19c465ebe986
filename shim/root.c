#include "root.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "descriptors.h"
#include "mark.h"
#include "selection.h"
#include "shared.h"
#include "state.h"

enum { PAGE = 4096 };

/* All zero is its beginning: glibc's and musl's mutexes are unlocked then. */
struct root {
    _Atomic(struct state *) state;
    _Atomic(struct state *) spare;   /* a list: ended, to be used again */
    pthread_mutex_t lock;            /* one thread at a time builds or ends the state */
    pthread_mutex_t names_lock;
    pthread_mutex_t attach_lock;
    _Atomic uint32_t life;           /* of this process; 0 in one that has not called yet */
    bool cleaned;                    /* the descriptors inherited from the parent are closed */
    struct mark mark;                /* empty where the page is wiped: then nobody need ask */
};

/*
 * Ordinary memory, inherited by a child: where the page is, and whether the program wants to be initialised, that is,
 * has called C_Initialize and not C_Finalize, here or in an ancestor.
 */
static _Atomic(struct root *) the_root;
static _Atomic bool wanted;
static _Atomic uint32_t last_life;

/*
 * The state of this process or, in a child that has none yet, its parent's as it was at the fork: only if there is something
 * in it for a child to inherit.
 */
static _Atomic(struct state *) heritage;

/* With `fork = "strict"` a child is not initialised until it calls C_Initialize itself. */
static _Atomic bool strict;

/* A kernel or emulator that takes advice it cannot know only pretends. */
static bool wipes_on_fork(void *page)
{
    const char *detection = secure_getenv("P11HOST_FORK_DETECTION");
    if (detection && !strcmp(detection, "pid"))
        return false;
    return madvise(page, PAGE, -1) == -1 && errno == EINVAL && madvise(page, PAGE, MADV_WIPEONFORK) == 0;
}

static struct root *map_root(void)
{
    struct root *root = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (root == MAP_FAILED)
        return NULL;
    if (!wipes_on_fork(root))
        mark_make(&root->mark);
    return root;
}

/* It is published with its mark. */
static inline bool is_ours(const struct root *root)
{
    return root->mark.pid == 0 || mark_is_ours(&root->mark);
}

/* The root of this process; NULL if there never was one here and `create` is false, or out of memory. */
static struct root *find_root(bool create)
{
    struct root *root = atomic_load_explicit(&the_root, memory_order_acquire);
    if (root && is_ours(root))
        return root;
    if (!root && !create)
        return NULL;
    struct root *fresh = map_root();
    if (!fresh)
        return NULL;
    /* The old one, if any, is the parent's: left as it is. */
    if (atomic_compare_exchange_strong(&the_root, &root, fresh))
        return fresh;
    mark_drop(&fresh->mark);
    munmap(fresh, PAGE);
    return atomic_load(&the_root);
}

uint32_t root_life(void)
{
    const struct root *root = atomic_load_explicit(&the_root, memory_order_relaxed);
    return root && is_ours(root) ? atomic_load_explicit(&root->life, memory_order_relaxed) : 0;
}

const _Atomic uint32_t *root_life_page(void)
{
    struct root *root = atomic_load_explicit(&the_root, memory_order_relaxed);
    return root->mark.pid == 0 ? &root->life : NULL;
}

pthread_mutex_t *root_names_lock(void)
{
    return &atomic_load(&the_root)->names_lock;
}

pthread_mutex_t *root_attach_lock(void)
{
    return &atomic_load(&the_root)->attach_lock;
}

/*
 * The memory of a state is never given back, only used again: a thread that comes too late counts itself in and out of
 * it, whosever it is by then.
 */
static void put_spare(struct root *root, struct state *state)
{
    struct state *next = atomic_load(&root->spare);
    do
        state->next = next;
    while (!atomic_compare_exchange_weak(&root->spare, &next, state));
}

/* Under root->lock: nobody else takes any, so none comes back while we look. NULL when out of memory. */
static struct state *take_spare(struct root *root)
{
    struct state *state = atomic_load(&root->spare);
    while (state && !atomic_compare_exchange_weak(&root->spare, &state, state->next))
        ;
    return state ? state : state_map();
}

/* The last to leave a state that has been retired ends it. */
static void leave(struct root *root, struct state *state)
{
    unsigned last = RETIRED;
    if (atomic_fetch_sub(&state->inside, 1) - 1 != RETIRED || !atomic_compare_exchange_strong(&state->inside, &last, 0))
        return;
    state_finish(state);
    put_spare(root, state);
}

void state_leave(struct state *state)
{
    leave(atomic_load_explicit(&the_root, memory_order_relaxed), state);
}

static void close_inherited(const struct state *parent)
{
    if (parent)
        state_keep_doors(parent);
    descriptors_close_inherited();
    shared_leave_inherited();
}

static uint32_t begin_life(struct root *root)
{
    uint32_t life = atomic_load(&root->life);
    if (life)
        return life;
    life = atomic_fetch_add(&last_life, 1) + 1;
    atomic_store(&root->life, life);
    return life;
}

/*
 * Complete or not at all. A child that a signal handler forked while its parent was at it has another life, or none yet: the state is
 * its parent's, and its next step is to build its own.
 */
static void publish(struct root *root, struct state *state, uint32_t life)
{
    struct state *before = atomic_load(&heritage);
    atomic_store(&heritage, state->inherited ? state : NULL);
    atomic_store(&root->state, state);
    if (atomic_load(&root->life) == life) {
        atomic_store(&strict, state->strict);
        return;
    }
    atomic_store(&root->state, NULL);
    atomic_store(&heritage, before);
}

/* Under root->lock. */
static CK_RV build(struct root *root, bool lazy)
{
    struct state *parent = atomic_load(&heritage);
    if (!root->cleaned)
        close_inherited(parent);
    root->cleaned = true;
    uint32_t life = begin_life(root);
    struct state *state = take_spare(root);
    if (!state)
        return CKR_HOST_MEMORY;
    CK_RV rv = parent ? state_inherit(state, parent, lazy) : state_init(state, lazy);
    if (rv != CKR_OK) {
        state_finish(state);
        put_spare(root, state);
        return rv;
    }
    publish(root, state, life);
    return CKR_OK;
}

/* The first call in a child. */
static CK_RV build_lazily(struct root *root)
{
    CK_RV rv = CKR_OK;
    pthread_mutex_lock(&root->lock);
    if (!atomic_load(&wanted))
        rv = CKR_CRYPTOKI_NOT_INITIALIZED;
    else if (!atomic_load(&root->state))
        rv = build(root, true);
    pthread_mutex_unlock(&root->lock);
    return rv;
}

CK_RV state_enter(struct state **ret_state)
{
    struct root *root = find_root(false);
    if (!root)
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    for (;;) {
        struct state *state = atomic_load(&root->state);
        if (state) {
            atomic_fetch_add(&state->inside, 1);
            *ret_state = state;
            if (atomic_load(&root->state) == state)
                return CKR_OK;
            leave(root, state);
            continue;
        }
        bool may_build = atomic_load(&wanted) && !atomic_load(&strict);
        CK_RV rv = may_build ? build_lazily(root) : CKR_CRYPTOKI_NOT_INITIALIZED;
        if (rv != CKR_OK)
            return rv;
    }
}

CK_RV state_initialize(const struct selection *selection)
{
    struct root *root = find_root(true);
    if (!root)
        return CKR_HOST_MEMORY;
    CK_RV rv = CKR_OK;
    pthread_mutex_lock(&root->lock);
    struct state *state = atomic_load(&root->state);
    if (!state) {
        selection_make(selection);
        rv = build(root, false);
    } else if (!state_claim(state))
        rv = CKR_CRYPTOKI_ALREADY_INITIALIZED;
    if (rv == CKR_OK)
        atomic_store(&wanted, true);
    pthread_mutex_unlock(&root->lock);
    return rv;
}

/* Threads that wait for an answer are woken; the last one to leave frees the state. */
static void retire(struct root *root, struct state *state)
{
    atomic_fetch_add(&state->inside, 1);
    atomic_store(&root->state, NULL);
    state_end(state);
    atomic_fetch_or(&state->inside, RETIRED);
    leave(root, state);
}

/* A child that never used us does nothing at all here: its parent's state is not its own to end. */
CK_RV state_finalize(void)
{
    struct root *root = find_root(false);
    if (!root || !atomic_load(&wanted))
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    pthread_mutex_lock(&root->lock);
    bool was_wanted = atomic_exchange(&wanted, false);
    atomic_store(&heritage, NULL);
    struct state *state = atomic_load(&root->state);
    if (state)
        retire(root, state);
    pthread_mutex_unlock(&root->lock);
    return was_wanted ? CKR_OK : CKR_CRYPTOKI_NOT_INITIALIZED;
}
