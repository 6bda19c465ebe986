/* Many modules as one library: what is put together here is what all of them say, or what there is to say for one that is silent. */
#ifndef P11HOST_MERGE_H
#define P11HOST_MERGE_H

#include "exchange.h"

CK_RV merge_info(struct call *call);
CK_RV merge_slots(struct call *call);

/*
 * After a call that looks at one slot of many: one whose module does not answer, or cannot even describe it, is there and has no
 * token. OpenSSL's engine and python-pkcs11, for two, have no tokens at all where one slot cannot be looked at.
 */
CK_RV merge_look(const struct call *call, CK_RV rv);

/*
 * Asks each module that has a helper for its slots, once in a life, and so gives them ids: in the order of the modules,
 * with a token or without. The same slots have the same ids in every program, whatever it asks first.
 */
void merge_learn_slots(const struct call *call);

#endif
