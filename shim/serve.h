/* A helper's channel: one thread that reads requests, calls the provider, writes responses. */
#ifndef P11HOST_SERVE_H
#define P11HOST_SERVE_H

#include "channel.h"
#include "provider.h"
#include "tables.h"

/* Builds what all channels share. Once, before any of them. */
void serve_init(void);

/* What the provider's mechanisms and attributes are looked up in; before any channel. The standard's if never called. */
void serve_with(const struct tables *tables);

/* Serves until the peer closes the channel or breaks the protocol. The channel stays the caller's. */
void serve(struct channel *channel, struct provider *provider);

#endif
