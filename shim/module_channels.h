/*
 * A module's channels: opened through its door, greeted by its helper, and those that wait for a call.
 *
 * For module.c, which knows when there is a helper; module_give is here, too.
 */
#ifndef P11HOST_MODULE_CHANNELS_H
#define P11HOST_MODULE_CHANNELS_H

#include "door.h"
#include "module.h"

/* NULL where there is no door, or nobody behind it. */
struct channel *module_open_channel(struct module *module, enum door_kind kind);

/* The helper's hello. CKR_OK when it is ready. */
CK_RV module_hear_hello(struct module *module, struct channel *channel, uint32_t within_ms);

/* Something has come, or the end. It is only looked for once nobody waits any more. */
bool module_has_come(const struct channel *channel, uint64_t by);

/* One that waits for a call, of this generation; NULL if none does. */
struct channel *module_take_idle(struct module *module, uint32_t generation);

/* What late.h has, too: no call is to be made by these any more. */
void module_drop_idle(struct module *module);

/* Forgets and frees it. NULL, also if it is. */
struct channel *module_free_channel(struct channel *channel);

#endif
