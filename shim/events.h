/*
 * C_WaitForSlotEvent over all modules (section 5.5 of the standard), each with an ear at its helper's watch.
 *
 * There is no thread for it: whoever waits polls for all ears at once, so that no module keeps another's event from it.
 */
#ifndef P11HOST_EVENTS_H
#define P11HOST_EVENTS_H

#include "exchange.h"

struct events;

CK_RV events_wait(const struct call *call);

/* After C_GetSlotList, C_GetSlotInfo and C_GetTokenInfo: what they told the application is what its first wait begins with. */
void events_told(const struct call *call, unsigned fn, CK_RV rv);

/* At the end of a life, when nobody is inside any more. */
void events_finish(struct state *state);

#endif
