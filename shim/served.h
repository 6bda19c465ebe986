/*
 * The channels that a helper serves, each in a thread of its own, which may be with the provider when its peer has gone.
 *
 * Knows which there are and how each is greeted. Must not know how they come, nor how calls are answered.
 */
#ifndef P11HOST_SERVED_H
#define P11HOST_SERVED_H

#include <stdbool.h>
#include <stdint.h>

#include "channel.h"
#include "door.h"
#include "provider.h"

/* Before any other. A descriptor that can be read when a channel has ended, or -1. */
int served_init(struct provider *provider);

/* With what each channel is greeted from now on: it serves for no more than that if the hello tells an error. */
void served_greet_with(const struct hello *hello);

/* Serves a channel that an owner has opened. The channel is no longer the caller's. */
void served_start(struct channel *channel, uint32_t owner);

/* Says why not, and closes it. */
void served_turn_away(struct channel *channel, const char *why);

/* Channels whose thread has not ended. */
unsigned served_count(void);

/* Whether no more can be served. */
bool served_is_full(void);

/* Threads that a provider does not let go of serve nobody. */
bool served_all_hung_up(void);

#endif
