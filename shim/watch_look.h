/* Looks at slots of a provider, by calls that any program may make. */
#ifndef P11HOST_WATCH_LOOK_H
#define P11HOST_WATCH_LOOK_H

#include "provider.h"
#include "watch_log.h"

/*
 * At all slots. Writes at most LIMIT_MODULE_SLOTS to ret_seen. If `deep`, the provider is asked what tokens there are. False if it does not even say
 * what slots it has.
 */
bool watch_look(struct provider *provider, bool deep, struct slot_look *ret_seen, unsigned *ret_count);

/* The name of the function that a look of another thread is in; "none" between two. */
const char *watch_look_is_in(void);

/* At one slot alone. */
void watch_look_at(struct provider *provider, CK_SLOT_ID slot, struct slot_look *ret_seen);

#endif
