#include "late.h"

#include "module_channels.h"

uint32_t late_patience(const struct module *module)
{
    return atomic_load_explicit(&module->list_ms, memory_order_relaxed);
}

/* Else a module that is always slow would never be seen. */
static void give_more_time(struct module *module)
{
    uint32_t ms = late_patience(module);
    atomic_store_explicit(&module->list_ms, ms < INT32_MAX / 2 ? 2 * ms : INT32_MAX, memory_order_relaxed);
}

bool late_comes(struct channel *channel, uint64_t by)
{
    return channel_look(channel, channel_now_ms() < by) || module_has_come(channel, by);
}

static void keep(struct module *module, struct channel *channel)
{
    struct channel *none = NULL;
    if (!atomic_compare_exchange_strong(&module->late, &none, channel))
        module_free_channel(channel);
}

/* In a child that was forked meanwhile all of it is the parent's. */
void late_leave(struct module *module, struct channel *channel, uint64_t due_ms)
{
    if (owner_is_another(&channel->owner))
        return;
    channel->due_ms = due_ms;
    keep(module, channel);
}

static bool settle(struct module *module, struct channel *channel)
{
    if (owner_is_another(&channel->owner))
        return false;
    bool over = channel->generation != atomic_load(&module->generation);
    if (over || module_has_come(channel, 0)) {
        module_free_channel(channel);
        if (!over)
            give_more_time(module);
        return true;
    }
    if (channel_now_ms() >= channel->due_ms)
        module_give_up(module, channel, CKR_OK);
    else
        keep(module, channel);
    return false;
}

/* One thread looks at a time, or another would find nothing and ask again. */
bool late_may_ask(struct module *module)
{
    if (!atomic_load(&module->late_looked) && !atomic_load(&module->late))
        return true;
    if (atomic_exchange(&module->late_looked, true))
        return false;
    struct channel *channel = atomic_exchange(&module->late, NULL);
    bool may = !channel || settle(module, channel);
    atomic_store(&module->late_looked, false);
    return may;
}

void late_drop(struct module *module)
{
    module_free_channel(atomic_exchange(&module->late, NULL));
}
