#include "state.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "descriptors.h"
#include "events.h"

struct state *state_map(void)
{
    void *state = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return state == MAP_FAILED ? NULL : state;
}

/* All helpers start at the same time. Returns the first failure if none is ready, or will perhaps be. */
static CK_RV await_helpers(struct state *state)
{
    CK_RV first_failure = CKR_OK;
    unsigned hopes = 0;
    for (unsigned i = 0; i < state->n_modules; i++)
        module_greet(&state->modules[i]);
    for (unsigned i = 0; i < state->n_modules; i++) {
        CK_RV rv = module_await(&state->modules[i]);
        hopes += rv == CKR_OK || state->modules[i].greeting;
        if (first_failure == CKR_OK)
            first_failure = rv;
    }
    return hopes || state->n_modules == 0 ? CKR_OK : first_failure;
}

static void begin(struct state *state, bool lazy)
{
    memset(&state->lazy, 0, sizeof *state - offsetof(struct state, lazy)); /* not what late threads count in */
    atomic_store(&state->lazy, lazy);
}

CK_RV state_init(struct state *state, bool lazy)
{
    struct offer offers[LIMIT_MODULES];
    begin(state, lazy);
    CK_RV rv = attach(NULL, false, offers, &state->n_modules);
    if (rv != CKR_OK)
        state->n_modules = 0;
    for (unsigned i = 0; i < state->n_modules; i++) {
        module_init(&state->modules[i], &offers[i], &state->calls);
        state->strict = state->strict || offers[i].strict;
        state->inherited = state->inherited || offers[i].inherited;
        state->lasting = state->lasting || module_lasts(&state->modules[i]);
    }
    return rv == CKR_OK ? await_helpers(state) : rv;
}

CK_RV state_inherit(struct state *state, const struct state *parent, bool lazy)
{
    begin(state, lazy);
    state->strict = parent->strict;
    state->inherited = parent->inherited;
    state->lasting = parent->lasting;
    for (unsigned i = 0; i < parent->n_modules; i++, state->n_modules++)
        if (!module_inherit(&state->modules[i], &parent->modules[i], &state->calls))
            return CKR_HOST_MEMORY;
    return CKR_OK;
}

void state_keep_doors(const struct state *parent)
{
    for (unsigned i = 0; i < parent->n_modules; i++)
        if (module_has_heirs(&parent->modules[i]))
            descriptor_forget(parent->modules[i].door);
}

bool state_claim(struct state *state)
{
    return atomic_exchange(&state->lazy, false);
}

void state_end(struct state *state)
{
    atomic_store(&state->ending, true);
    for (unsigned i = 0; i < state->n_modules; i++)
        module_report_late(&state->modules[i]);
    descriptors_shut_down();
    attach_close();
}

void state_finish(struct state *state)
{
    events_finish(state);
    for (unsigned i = 0; i < state->n_modules; i++)
        module_finish(&state->modules[i]);
    operations_unmap(&state->operations);
}

static bool has_sessions(struct module *module, uint32_t of_sessions, uint32_t *ret_generation)
{
    *ret_generation = atomic_load_explicit(&module->generation, memory_order_acquire);
    return atomic_load_explicit(&module->of_sessions, memory_order_relaxed) == of_sessions;
}

struct module *state_module_of_sessions(struct state *state, uint32_t of_sessions, uint32_t *ret_generation)
{
    _Atomic uint8_t *hint = &state->found_at[of_sessions % SESSION_HINTS];
    unsigned at = atomic_load_explicit(hint, memory_order_relaxed);
    if (of_sessions == 0)
        return NULL;
    if (at < state->n_modules && has_sessions(&state->modules[at], of_sessions, ret_generation))
        return &state->modules[at];
    for (unsigned i = 0; i < state->n_modules; i++)
        if (has_sessions(&state->modules[i], of_sessions, ret_generation)) {
            atomic_store_explicit(hint, (uint8_t)i, memory_order_relaxed);
            return &state->modules[i];
        }
    return NULL;
}

struct module *state_module_of_inherited(struct state *state, CK_ULONG client, struct session *ret_session)
{
    for (unsigned i = 0; state->lasting && i < state->n_modules; i++)
        if (sessions_get(&state->modules[i].sessions, client, ret_session))
            return &state->modules[i];
    return NULL;
}

bool state_knows_session(struct state *state, CK_ULONG client)
{
    uint32_t generation;
    struct session session;
    return state_module_of_sessions(state, handle_generation(client), &generation) ||
           state_module_of_inherited(state, client, &session);
}

struct module *state_module_by_number(struct state *state, unsigned number)
{
    for (unsigned i = 0; i < state->n_modules; i++)
        if (state->modules[i].number == number)
            return &state->modules[i];
    return NULL;
}
