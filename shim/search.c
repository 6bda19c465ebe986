#include "search.h"

#include <stdatomic.h>

#include "limits.h"

enum { CELLS = 64 };

/* Of a session; 0 is none. Two threads in one search may lose a count: the next round has it. */
static struct {
    _Atomic CK_ULONG session, first;
    _Atomic uint32_t again;
} cells[CELLS];

static void begin(CK_ULONG session, CK_ULONG first)
{
    atomic_store_explicit(&cells[session % CELLS].session, first ? session : 0, memory_order_relaxed);
    atomic_store_explicit(&cells[session % CELLS].first, first, memory_order_relaxed);
    atomic_store_explicit(&cells[session % CELLS].again, 0, memory_order_relaxed);
}

static bool found(CK_ULONG session, const CK_ULONG *objects, CK_ULONG count)
{
    _Atomic uint32_t *again = &cells[session % CELLS].again;
    bool is_first = atomic_load_explicit(&cells[session % CELLS].session, memory_order_relaxed) != session;
    if (is_first)
        begin(session, objects[0]);
    CK_ULONG first = atomic_load_explicit(&cells[session % CELLS].first, memory_order_relaxed);
    for (CK_ULONG i = is_first ? 1 : 0; i < count; i++)
        if (objects[i] == first)
            atomic_fetch_add_explicit(again, 1, memory_order_relaxed);
    return atomic_load_explicit(again, memory_order_relaxed) > LIMIT_REPEATS;
}

static bool has_found(const struct function *f, const uintptr_t *words)
{
    const struct arg *arg = f->args;
    while (arg->pos != f->subject)
        arg++;
    const CK_ULONG *objects = (const CK_ULONG *)words[arg->pos], *count = (const CK_ULONG *)words[arg->count];
    return objects && count && *count && *count <= words[arg->len] && found(words[0], objects, *count);
}

bool search_goes_round(const struct function *f, const uintptr_t *words, CK_RV rv)
{
    if (f->effect == EFFECT_SEARCH)
        begin(words[0], 0);
    return f->effect == EFFECT_FIND && rv == CKR_OK && has_found(f, words);
}
