#include "state.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "descriptors.h"

struct state *state_map(void)
{
    void *state = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return state == MAP_FAILED ? NULL : state;
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* All helpers start at the same time and share one deadline. Returns the first failure if none is ready. */
static CK_RV await_helpers(struct state *state)
{
    struct channel *greetings[LIMIT_MODULES];
    uint64_t end = now_ms() + DEADLINE_START;
    CK_RV first_failure = CKR_OK;
    unsigned ready = 0;
    for (unsigned i = 0; i < state->n_modules; i++)
        greetings[i] = module_greet(&state->modules[i]);
    for (unsigned i = 0; i < state->n_modules; i++) {
        uint64_t now = now_ms();
        CK_RV rv = module_await(&state->modules[i], greetings[i], now < end ? (uint32_t)(end - now) : 1);
        ready += rv == CKR_OK;
        if (first_failure == CKR_OK)
            first_failure = rv;
    }
    return ready || state->n_modules == 0 ? CKR_OK : first_failure;
}

CK_RV state_init(struct state *state, bool lazy)
{
    struct offer offers[LIMIT_MODULES];
    memset(&state->lazy, 0, sizeof *state - offsetof(struct state, lazy)); /* not what late threads count in */
    atomic_store(&state->lazy, lazy);
    CK_RV rv = attach(NULL, offers, &state->n_modules);
    if (rv != CKR_OK)
        state->n_modules = 0;
    for (unsigned i = 0; i < state->n_modules; i++) {
        module_init(&state->modules[i], &offers[i], &state->calls);
        state->strict = state->strict || offers[i].strict;
    }
    return rv == CKR_OK ? await_helpers(state) : rv;
}

bool state_claim(struct state *state)
{
    return atomic_exchange(&state->lazy, false);
}

void state_end(struct state *state)
{
    atomic_store(&state->ending, true);
    descriptors_shut_down();
    attach_close();
}

void state_finish(struct state *state)
{
    for (unsigned i = 0; i < state->n_modules; i++)
        module_finish(&state->modules[i]);
    operations_unmap(&state->operations);
}

struct module *state_module_by_generation(struct state *state, uint32_t generation)
{
    for (unsigned i = 0; generation && i < state->n_modules; i++)
        if (atomic_load_explicit(&state->modules[i].generation, memory_order_relaxed) == generation)
            return &state->modules[i];
    return NULL;
}

struct module *state_module_by_number(struct state *state, unsigned number)
{
    for (unsigned i = 0; i < state->n_modules; i++)
        if (state->modules[i].number == number)
            return &state->modules[i];
    return NULL;
}
