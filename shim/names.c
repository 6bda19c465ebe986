#include "names.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>

#include "limits.h"
#include "root.h"

/* ---- handles ---- */

enum {
    WORD_BITS = sizeof(CK_ULONG) * 8,
    GENERATION_BITS = WORD_BITS / 4,
    VALUE_BITS = WORD_BITS - GENERATION_BITS - 1,
    LARGE_RESERVE = LIMIT_ELEMENTS * sizeof(CK_ULONG),
    INDEX_FIRST = 64, /* cells, a power of two, at least twice as many as there are handles */
    INDEX_RESERVE = 4 * LIMIT_ELEMENTS * sizeof(uint32_t),
    SLOT_HINTS = 256,
    HINT_STEP = 37, /* apart from one module to the next: most number their slots alike */
};

#define GENERATION_MASK (((CK_ULONG)1 << GENERATION_BITS) - 1)
#define LARGE_FLAG ((CK_ULONG)1 << VALUE_BITS)
#define VALUE_MASK (LARGE_FLAG - 1)

/* Ordinary memory: a child counts on from where its parent was, so no handle it inherited is ever one of its own. */
static _Atomic uint32_t last_generation;

uint32_t generation_next(void)
{
    uint32_t generation;
    do
        generation = (uint32_t)((atomic_fetch_add(&last_generation, 1) + 1) & GENERATION_MASK);
    while (generation == 0);
    return generation;
}

uint32_t handle_generation(CK_ULONG client)
{
    return (uint32_t)(client >> (VALUE_BITS + 1));
}

static CK_ULONG *large_list(struct large_handles *large)
{
    return (CK_ULONG *)(void *)large->list.base;
}

static bool large_get(struct large_handles *large, CK_ULONG place, CK_ULONG *ret_server)
{
    pthread_mutex_lock(&large->lock);
    bool known = place < large->count;
    if (known)
        *ret_server = large_list(large)[place];
    pthread_mutex_unlock(&large->lock);
    return known;
}

/* Where a handle's cell is looked for first. Whoever chooses handles does not know the key. */
static size_t hash(CK_ULONG server)
{
    uint64_t key, h;
    memcpy(&key, (const void *)getauxval(AT_RANDOM), sizeof key);
    h = key ^ server;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdU;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53U;
    return (size_t)(h ^ h >> 33);
}

/* The cell with a handle's place + 1, or the empty one it would get. There is always one. */
static uint32_t *large_cell(struct large_handles *large, CK_ULONG server)
{
    uint32_t *index = (uint32_t *)(void *)large->index.base;
    for (size_t at = hash(server);; at++) {
        uint32_t *cell = &index[at & (large->cells - 1)];
        if (!*cell || large_list(large)[*cell - 1] == server)
            return cell;
    }
}

/* Room for one more in list and index. */
static bool large_grow(struct large_handles *large)
{
    bool begun = large->list.base || arena_init(&large->list, LARGE_RESERVE) == 0;
    begun = begun && (large->index.base || arena_init(&large->index, INDEX_RESERVE) == 0);
    if (!begun || !arena_commit(&large->list, (large->count + 1) * sizeof(CK_ULONG)))
        return false;
    if (2 * (large->count + 1) <= large->cells)
        return true;
    size_t cells = large->cells ? 2 * large->cells : INDEX_FIRST;
    if (!arena_commit(&large->index, cells * sizeof(uint32_t)))
        return false;
    memset(large->index.base, 0, cells * sizeof(uint32_t));
    large->cells = cells;
    for (uint32_t i = 0; i < large->count; i++)
        *large_cell(large, large_list(large)[i]) = i + 1;
    return true;
}

/* The list's place for a server handle, VALUE_MASK when it is full. */
static CK_ULONG large_put(struct large_handles *large, CK_ULONG server)
{
    pthread_mutex_lock(&large->lock);
    uint32_t *cell = large->cells ? large_cell(large, server) : NULL;
    if ((!cell || !*cell) && large_grow(large)) {
        cell = large_cell(large, server);
        large_list(large)[large->count] = server;
        *cell = (uint32_t)++large->count;
    }
    CK_ULONG place = cell && *cell ? *cell - 1 : VALUE_MASK;
    pthread_mutex_unlock(&large->lock);
    return place;
}

bool large_handles_inherit(struct large_handles *large, const struct large_handles *parent)
{
    CK_ULONG count = atomic_load(&parent->count);
    const CK_ULONG *theirs = (const CK_ULONG *)(const void *)parent->list.base;
    for (CK_ULONG i = 0; i < count; i++)
        if (large_put(large, theirs[i]) != i)
            return false;
    return true;
}

void large_handles_finish(struct large_handles *large)
{
    pthread_mutex_lock(&large->lock);
    arena_finish(&large->list);
    arena_finish(&large->index);
    large->cells = 0;
    large->count = 0;
    pthread_mutex_unlock(&large->lock);
}

bool handle_to_server(struct large_handles *large, uint32_t generation, CK_ULONG client, CK_ULONG *ret_server)
{
    *ret_server = 0;
    if (client == 0)
        return true;
    if (handle_generation(client) != generation)
        return false;
    if (client & LARGE_FLAG)
        return large_get(large, client & VALUE_MASK, ret_server);
    *ret_server = client & VALUE_MASK;
    return true;
}

CK_ULONG handle_to_client(struct large_handles *large, uint32_t generation, CK_ULONG server)
{
    CK_ULONG tag = (CK_ULONG)generation << (VALUE_BITS + 1);
    if (server == 0)
        return 0;
    if (server <= VALUE_MASK)
        return tag | server;
    return tag | LARGE_FLAG | large_put(large, server);
}

/* ---- modules and slots ---- */

/*
 * Read without a lock: an entry is written before the count that includes it. Written under a lock that a child never
 * inherits locked; an entry half written when a process forked is simply not there in the child.
 */
static char module_names[LIMIT_MODULES][LIMIT_NAME + 1];
static _Atomic unsigned module_count;

static struct slot {
    unsigned module;
    CK_ULONG server;
} slots[LIMIT_SLOTS];
static _Atomic unsigned n_slots;
static unsigned slots_of[LIMIT_MODULES + 1]; /* what a provider makes up is not at the expense of others */

static unsigned find_module(const char *name)
{
    unsigned n = atomic_load(&module_count);
    for (unsigned i = 0; i < n; i++)
        if (!strcmp(module_names[i], name))
            return i;
    return LIMIT_MODULES;
}

unsigned module_number(const char *name)
{
    pthread_mutex_t *lock = root_names_lock();
    pthread_mutex_lock(lock);
    unsigned number = find_module(name);
    unsigned n = atomic_load(&module_count);
    if (number == LIMIT_MODULES && n < LIMIT_MODULES) {
        strncpy(module_names[n], name, LIMIT_NAME);
        atomic_store(&module_count, n + 1);
        number = n;
    }
    pthread_mutex_unlock(lock);
    return number;
}

/* Where a slot like this was found last. Every place that is known holds some slot, so a hint may be as old as it likes. */
static _Atomic unsigned slot_hints[SLOT_HINTS];

static bool is_slot(unsigned place, unsigned module, CK_ULONG server)
{
    return slots[place].module == module && slots[place].server == server;
}

static CK_ULONG find_slot(unsigned module, CK_ULONG server)
{
    _Atomic unsigned *hint = &slot_hints[(module * HINT_STEP + server) % SLOT_HINTS];
    unsigned n = atomic_load(&n_slots), place = atomic_load_explicit(hint, memory_order_relaxed);
    if (place < n && is_slot(place, module, server))
        return place + FIRST_SLOT_ID;
    for (place = 0; place < n && !is_slot(place, module, server); place++)
        ;
    if (place == n)
        return CK_UNAVAILABLE_INFORMATION;
    atomic_store_explicit(hint, place, memory_order_relaxed);
    return place + FIRST_SLOT_ID;
}

CK_ULONG slot_to_client(unsigned module, CK_ULONG server)
{
    CK_ULONG id = find_slot(module, server);
    if (id != CK_UNAVAILABLE_INFORMATION)
        return id;
    pthread_mutex_t *lock = root_names_lock();
    pthread_mutex_lock(lock);
    unsigned n = atomic_load(&n_slots);
    id = find_slot(module, server);
    if (id == CK_UNAVAILABLE_INFORMATION && n < LIMIT_SLOTS && slots_of[module] < LIMIT_MODULE_SLOTS) {
        slots_of[module]++;
        slots[n] = (struct slot){.module = module, .server = server};
        atomic_store(&n_slots, n + 1);
        id = n + FIRST_SLOT_ID;
    }
    pthread_mutex_unlock(lock);
    return id;
}

CK_ULONG slot_count(void)
{
    return atomic_load(&n_slots);
}

bool slot_to_server(CK_ULONG client, unsigned *ret_module, CK_ULONG *ret_server)
{
    CK_ULONG place = client - FIRST_SLOT_ID;
    if (place >= atomic_load(&n_slots))
        return false;
    *ret_module = slots[place].module;
    *ret_server = slots[place].server;
    return true;
}
