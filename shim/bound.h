/*
 * Sessions are bound to the token that they were opened on: when that has gone, or another is in its place, no call with them reaches the
 * provider any more, whether it has noticed or not (specs/PROTOCOL.md, section 4.11).
 *
 * Knows which session was opened on what. Looks only where there is a reason to. As long as there is none a call with a session costs the load
 * of one word more; a provider that is not bound costs nothing.
 */
#ifndef P11HOST_BOUND_H
#define P11HOST_BOUND_H

#include "provider.h"
#include "watch_log.h"

/* For bound_call alone. */
CK_RV bound_check_call(struct provider *provider, unsigned fn, uintptr_t *words);

/* Calls functions[fn] as provider_call does, unless it is about a session whose token has gone. */
static inline CK_RV bound_call(struct provider *provider, unsigned fn, uintptr_t *words)
{
    return provider->bound ? bound_check_call(provider, fn, words) : provider_call(provider, fn, words);
}

/* A card has moved somewhere: looks at the tokens on which sessions are open, in a thread of its own. Calls that come first look themselves. */
void bound_prompt(struct provider *provider);

/* A look that began then has shown this in all slots there are. */
void bound_saw(struct provider *provider, const struct slot_look *seen, unsigned n_seen, uint64_t began);

/* Is that thread at work? */
bool bound_is_busy(void);

#endif
