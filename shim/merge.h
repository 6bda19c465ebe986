/* The three functions that speak of all modules at once: what they answer is put together here. */
#ifndef P11HOST_MERGE_H
#define P11HOST_MERGE_H

#include "exchange.h"

CK_RV merge_info(struct call *call);
CK_RV merge_slots(struct call *call);
CK_RV merge_events(struct call *call);

/*
 * Asks each module that has a helper for its slots, once in a life, and so gives them ids: in the order of the modules,
 * with a token or without. The same slots have the same ids in every program, whatever it asks first.
 */
void merge_learn_slots(const struct call *call);

#endif
