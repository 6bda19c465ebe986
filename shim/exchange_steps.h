/* The steps of an exchange, for those who make it: exchange.c one at a time, exchange_many.c several at the same time. */
#ifndef P11HOST_EXCHANGE_STEPS_H
#define P11HOST_EXCHANGE_STEPS_H

#include "exchange.h"

/* CKR_OK if the module has a helper, whose life the call is in then. */
CK_RV exchange_enter_life(struct call *call);

/* How long the call may take: milliseconds, 0 for ever. */
uint32_t exchange_patience(const struct call *call);

/* What comes of a call for which there is no channel. Nothing was sent: with its helper alive the same call may succeed later. */
CK_RV exchange_no_channel(struct call *call, bool late);

void exchange_prepare(struct talk *talk, struct call *call, struct channel *channel);

/* False if nothing was sent: then the call has come to its end, and the channel is of use or not. */
bool exchange_send(struct talk *talk);
void exchange_hear(struct talk *talk);

void exchange_give_back(const struct call *call, struct channel *channel, bool usable, CK_RV rv);

/* No helper has received it, and that it was meant for has gone. */
bool exchange_is_for_the_next(const struct call *call);

#endif
