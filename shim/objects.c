#include "objects.h"

#include <sys/mman.h>

enum { WAYS = 4, SETS = LIMIT_OBJECTS / WAYS };

/* ---- under the lock ---- */

static struct object *cells_of(struct objects *objects)
{
    return atomic_load_explicit(&objects->cells, memory_order_relaxed);
}

static bool make_cells(struct objects *objects)
{
    if (cells_of(objects))
        return true;
    void *cells = mmap(NULL, LIMIT_OBJECTS * sizeof(struct object), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (cells == MAP_FAILED)
        return false;
    atomic_store(&objects->cells, cells);
    return true;
}

static struct object *set_of(struct objects *objects, CK_ULONG client)
{
    uint64_t h = client * 0x9e3779b97f4a7c15U;
    return cells_of(objects) + WAYS * ((h >> 32) % SETS);
}

/* NULL if it is not remembered. */
static struct object *find(struct objects *objects, CK_ULONG client)
{
    struct object *set = client && cells_of(objects) ? set_of(objects, client) : NULL;
    for (unsigned i = 0; set && i < WAYS; i++)
        if (set[i].client == client)
            return &set[i];
    return NULL;
}

/* The cell that has waited longest for its object to be used again; a free one has waited for ever. */
static struct object *oldest(struct objects *objects, CK_ULONG client)
{
    struct object *set = set_of(objects, client), *old = set;
    for (unsigned i = 1; i < WAYS; i++)
        if (old->client && (!set[i].client || set[i].age < old->age))
            old = &set[i];
    return old;
}

/* A child that is forked meanwhile finds no handle there, or the whole. */
static void write_cell(struct object *cell, const struct object *object)
{
    atomic_store(&cell->client, 0);
    cell->slot = object->slot;
    cell->face = object->face;
    cell->life = object->life;
    cell->server = object->server;
    cell->findable = object->findable;
    cell->traits = object->traits;
    atomic_store(&cell->client, object->client);
}

/* ---- */

void objects_inherit(struct objects *objects, const struct objects *parent)
{
    const struct object *theirs = atomic_load(&parent->cells);
    if (!theirs || !make_cells(objects))
        return;
    for (unsigned i = 0; i < LIMIT_OBJECTS; i++)
        if (theirs[i].client)
            write_cell(&cells_of(objects)[i], &theirs[i]);
}

void objects_put(struct objects *objects, const struct object *object)
{
    pthread_mutex_lock(&objects->lock);
    if (object->client && make_cells(objects)) {
        struct object *known = find(objects, object->client);
        struct object *cell = known ? known : oldest(objects, object->client);
        write_cell(cell, object);
        cell->age = ++objects->clock;
    }
    pthread_mutex_unlock(&objects->lock);
}

bool objects_get(struct objects *objects, CK_ULONG client, struct object *ret_object)
{
    pthread_mutex_lock(&objects->lock);
    struct object *cell = find(objects, client);
    if (cell) {
        cell->age = ++objects->clock;
        *ret_object = (struct object){.client = client, .slot = cell->slot, .face = cell->face, .life = cell->life, .server = cell->server,
                                      .findable = cell->findable, .traits = cell->traits};
    }
    pthread_mutex_unlock(&objects->lock);
    return cell != NULL;
}

bool objects_has(struct objects *objects, CK_ULONG client)
{
    pthread_mutex_lock(&objects->lock);
    struct object *cell = find(objects, client);
    if (cell)
        cell->age = ++objects->clock;
    pthread_mutex_unlock(&objects->lock);
    return cell != NULL;
}

void objects_settle(struct objects *objects, CK_ULONG client, uint32_t life, CK_ULONG server)
{
    pthread_mutex_lock(&objects->lock);
    struct object *cell = find(objects, client);
    if (cell) {
        cell->life = life;
        cell->server = server;
    }
    pthread_mutex_unlock(&objects->lock);
}

void objects_forget(struct objects *objects, CK_ULONG client)
{
    pthread_mutex_lock(&objects->lock);
    struct object *cell = find(objects, client);
    if (cell)
        cell->client = 0;
    pthread_mutex_unlock(&objects->lock);
}

void objects_finish(struct objects *objects)
{
    pthread_mutex_lock(&objects->lock);
    struct object *cells = atomic_exchange(&objects->cells, NULL);
    if (cells)
        munmap(cells, LIMIT_OBJECTS * sizeof *cells);
    pthread_mutex_unlock(&objects->lock);
}
