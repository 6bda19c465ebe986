#include "module_settings.h"

#include <string.h>

static void set_patience(struct module *module, const struct offer *offer)
{
    module->start_ms = (uint32_t)offer->start_ms;
    atomic_store(&module->list_ms, (uint32_t)offer->list_ms);
    module->patience[PATIENCE_SHORT] = (uint32_t)offer->short_ms;
    module->patience[PATIENCE_LONG] = (uint32_t)offer->long_ms;
    module->patience[PATIENCE_FOREVER] = 0;
}

static bool is_same(const struct rows *a, const struct rows *b)
{
    return a->len == b->len && !memcmp(a->packed, b->packed, a->len);
}

/* The configuration seldom changes: what it says again is found again. */
static void set_rows(struct module *module, struct rows *rows)
{
    struct rows *known = rows ? module->kept : NULL;
    while (known && !is_same(known, rows))
        known = known->older;
    if (known) {
        rows_free(rows);
        rows = known;
    } else if (rows) {
        rows->older = module->kept;
        module->kept = rows;
    }
    atomic_store(&module->rows, rows);
}

void module_free_rows(struct module *module)
{
    atomic_store(&module->rows, NULL);
    while (module->kept) {
        struct rows *rows = module->kept;
        module->kept = rows->older;
        rows_free(rows);
    }
}

void module_take_settings(struct module *module, const struct offer *offer)
{
    for (unsigned i = 0; i < LIMIT_BROKEN; i++)
        atomic_store_explicit(&module->broken[i], offer->broken[i], memory_order_relaxed);
    module->broken_pause_ms = offer->broken_pause_ms;
    set_patience(module, offer);
    set_rows(module, offer->rows);
}

bool module_calls_broken(const struct module *module, CK_RV rv)
{
    unsigned i = rv == CKR_OK ? LIMIT_BROKEN : 0;
    while (i < LIMIT_BROKEN && atomic_load_explicit(&module->broken[i], memory_order_relaxed) != rv)
        i++;
    return i < LIMIT_BROKEN;
}

bool module_is_broken(struct module *module, CK_RV rv)
{
    if (!module_calls_broken(module, rv))
        return false;
    uint64_t now = channel_now_ms(), before = atomic_load(&module->broken_at);
    bool due = before == 0 || now - before >= module->broken_pause_ms;
    return due && atomic_compare_exchange_strong(&module->broken_at, &before, now);
}
