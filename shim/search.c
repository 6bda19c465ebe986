#include "search.h"

#include <stdatomic.h>

#include "limits.h"
#include "tables.h"

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

bool search_goes_round(unsigned fn, const uintptr_t *words, CK_RV rv)
{
    if (fn == FN_C_FindObjectsInit)
        begin(words[0], 0);
    if (fn != FN_C_FindObjects || rv != CKR_OK || !words[1] || !words[3])
        return false;
    CK_ULONG count = *(const CK_ULONG *)words[3];
    return count && count <= words[2] && found(words[0], (const CK_ULONG *)words[1], count);
}
