#include "sessions.h"

#include <sys/mman.h>

enum { FEWEST = 64 }; /* cells, a power of two */

/* A handle that is none: 0 is a free cell, all ones one whose session has been removed. */
#define REMOVED CK_UNAVAILABLE_INFORMATION

struct cell {
    _Atomic(CK_ULONG) handle;
    CK_ULONG slot;
    CK_FLAGS flags;
    uint32_t life;
    CK_ULONG server;
    uint64_t face;
};

struct session_table {
    size_t cells; /* a power of two, at least twice as many as are used */
    size_t used;  /* those that are not free: removed ones too */
    size_t live;
    struct cell cell[];
};

/* ---- a table ---- */

static size_t size_of(size_t cells)
{
    return sizeof(struct session_table) + cells * sizeof(struct cell);
}

static struct session_table *new_table(size_t live)
{
    size_t cells = FEWEST;
    while (cells < 4 * live)
        cells *= 2;
    struct session_table *table = mmap(NULL, size_of(cells), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        return NULL;
    table->cells = cells;
    return table;
}

static void free_table(struct session_table *table)
{
    if (table)
        munmap(table, size_of(table->cells));
}

static size_t hash(CK_ULONG handle)
{
    uint64_t h = handle * 0x9e3779b97f4a7c15U;
    return (size_t)(h ^ h >> 32);
}

/* The cell with that handle, or the free one where it would be. */
static struct cell *cell_of(struct session_table *table, CK_ULONG handle)
{
    for (size_t at = hash(handle);; at++) {
        struct cell *cell = &table->cell[at & (table->cells - 1)];
        CK_ULONG there = atomic_load_explicit(&cell->handle, memory_order_relaxed);
        if (there == handle || there == 0)
            return cell;
    }
}

static bool is_session(CK_ULONG handle)
{
    return handle != 0 && handle != REMOVED;
}

static struct session session_in(struct cell *cell)
{
    return (struct session){
        .handle = atomic_load(&cell->handle), .slot = cell->slot, .flags = cell->flags, .life = cell->life, .server = cell->server,
        .face = cell->face,
    };
}

/* The handle last: whoever finds it finds the rest. */
static void insert(struct session_table *table, const struct session *session)
{
    struct cell *cell = cell_of(table, session->handle);
    bool fresh = atomic_load(&cell->handle) == 0;
    cell->slot = session->slot;
    cell->flags = session->flags;
    cell->life = session->life;
    cell->server = session->server;
    cell->face = session->face;
    atomic_store(&cell->handle, session->handle);
    table->used += fresh;
    table->live += fresh;
}

static void remove_from(struct session_table *table, struct cell *cell)
{
    atomic_store(&cell->handle, REMOVED);
    table->live--;
}

/* All that `from` holds, in a table with room for one more. NULL when out of memory. */
static struct session_table *copy_of(struct session_table *from)
{
    struct session_table *to = new_table((from ? from->live : 0) + 1);
    for (size_t i = 0; to && from && i < from->cells; i++) {
        struct session session = session_in(&from->cell[i]);
        if (is_session(session.handle))
            insert(to, &session);
    }
    return to;
}

/* ---- under the lock ---- */

static struct session_table *table_of(struct sessions *sessions)
{
    return atomic_load_explicit(&sessions->table, memory_order_relaxed);
}

static bool make_room(struct sessions *sessions)
{
    struct session_table *old = table_of(sessions);
    if (old && 2 * (old->used + 1) <= old->cells)
        return true;
    struct session_table *larger = copy_of(old);
    if (!larger)
        return false;
    atomic_store(&sessions->table, larger);
    free_table(old);
    return true;
}

/* NULL if there is no such session. */
static struct cell *find(struct sessions *sessions, CK_ULONG handle)
{
    struct session_table *table = table_of(sessions);
    if (!table || !is_session(handle))
        return NULL;
    struct cell *cell = cell_of(table, handle);
    return atomic_load(&cell->handle) == handle ? cell : NULL;
}

/* ---- */

bool sessions_put(struct sessions *sessions, const struct session *session)
{
    if (!is_session(session->handle))
        return false;
    pthread_mutex_lock(&sessions->lock);
    bool room = make_room(sessions);
    if (room)
        insert(table_of(sessions), session);
    pthread_mutex_unlock(&sessions->lock);
    return room;
}

bool sessions_get(struct sessions *sessions, CK_ULONG handle, struct session *ret_session)
{
    pthread_mutex_lock(&sessions->lock);
    struct cell *cell = find(sessions, handle);
    if (cell)
        *ret_session = session_in(cell);
    pthread_mutex_unlock(&sessions->lock);
    return cell != NULL;
}

bool sessions_take(struct sessions *sessions, CK_ULONG handle, struct session *ret_session)
{
    pthread_mutex_lock(&sessions->lock);
    struct cell *cell = find(sessions, handle);
    if (cell) {
        *ret_session = session_in(cell);
        remove_from(table_of(sessions), cell);
    }
    pthread_mutex_unlock(&sessions->lock);
    return cell != NULL;
}

CK_ULONG sessions_settle(struct sessions *sessions, CK_ULONG handle, uint32_t life, CK_ULONG server)
{
    CK_ULONG settled = 0;
    pthread_mutex_lock(&sessions->lock);
    struct cell *cell = find(sessions, handle);
    if (cell && cell->life != life) {
        cell->life = life;
        cell->server = server;
    }
    if (cell)
        settled = cell->server;
    pthread_mutex_unlock(&sessions->lock);
    return settled;
}

typedef bool matches_fn(const struct session *session, CK_ULONG slot, uint32_t life);

static bool is_of(const struct session *session, CK_ULONG slot, uint32_t life)
{
    (void)slot;
    return session->life == life;
}

static bool is_there_of(const struct session *session, CK_ULONG slot, uint32_t life)
{
    return session->slot == slot && session->life == life;
}

static bool is_there_of_another(const struct session *session, CK_ULONG slot, uint32_t life)
{
    return session->slot == slot && session->life != life;
}

static bool search(struct sessions *sessions, matches_fn *matches, CK_ULONG slot, uint32_t life, struct session *ret_session)
{
    bool found = false;
    pthread_mutex_lock(&sessions->lock);
    struct session_table *table = table_of(sessions);
    for (size_t i = 0; table && !found && i < table->cells; i++) {
        *ret_session = session_in(&table->cell[i]);
        found = is_session(ret_session->handle) && matches(ret_session, slot, life);
    }
    pthread_mutex_unlock(&sessions->lock);
    return found;
}

bool sessions_find(struct sessions *sessions, CK_ULONG slot, uint32_t life, bool others, struct session *ret_session)
{
    return search(sessions, others ? is_there_of_another : is_there_of, slot, life, ret_session);
}

bool sessions_find_of(struct sessions *sessions, uint32_t life, struct session *ret_session)
{
    return search(sessions, is_of, 0, life, ret_session);
}

size_t sessions_move(struct sessions *sessions, CK_ULONG slot, uint32_t life, uint32_t to)
{
    size_t moved = 0;
    pthread_mutex_lock(&sessions->lock);
    struct session_table *table = table_of(sessions);
    for (size_t i = 0; table && i < table->cells; i++) {
        struct session session = session_in(&table->cell[i]);
        if (!is_session(session.handle) || !is_there_of(&session, slot, life))
            continue;
        table->cell[i].life = to;
        moved++;
    }
    pthread_mutex_unlock(&sessions->lock);
    return moved;
}

void sessions_forget_slot(struct sessions *sessions, CK_ULONG slot)
{
    pthread_mutex_lock(&sessions->lock);
    struct session_table *table = table_of(sessions);
    for (size_t i = 0; table && i < table->cells; i++)
        if (is_session(atomic_load(&table->cell[i].handle)) && table->cell[i].slot == slot)
            remove_from(table, &table->cell[i]);
    pthread_mutex_unlock(&sessions->lock);
}

bool sessions_inherit(struct sessions *sessions, const struct sessions *parent)
{
    struct session_table *theirs = atomic_load(&parent->table);
    struct session_table *ours = theirs ? copy_of(theirs) : NULL;
    for (size_t i = 0; ours && i < ours->cells; i++)
        ours->cell[i].life = 0;
    atomic_store(&sessions->table, ours);
    return ours || !theirs;
}

void sessions_finish(struct sessions *sessions)
{
    pthread_mutex_lock(&sessions->lock);
    free_table(atomic_exchange(&sessions->table, NULL));
    pthread_mutex_unlock(&sessions->lock);
}
