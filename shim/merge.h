/* The three functions that speak of all modules at once: what they answer is put together here. */
#ifndef P11HOST_MERGE_H
#define P11HOST_MERGE_H

#include "exchange.h"

CK_RV merge_info(struct call *call);
CK_RV merge_slots(struct call *call);
CK_RV merge_events(struct call *call);

#endif
