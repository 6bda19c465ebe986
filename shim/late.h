/*
 * Answers that nobody waits for any more: a list of many modules' slots does without one that takes long. The call in the helper goes
 * on, and the channel on which its answer is to come is no other call's; a module has one such channel at most.
 *
 * Knows channels and the clock; what was asked is none of its business. No lock is taken, for a vanished thread may have held it.
 */
#ifndef P11HOST_LATE_H
#define P11HOST_LATE_H

#include "module.h"

/* How long a module is waited for where there are others: milliseconds. */
uint32_t late_patience(const struct module *module);

/* Waits for the first byte of an answer, or the end of the channel. False if neither has come by then. */
bool late_comes(struct channel *channel, uint64_t by);

/* Leaves the answer to come: at `due_ms` of the clock it is overdue. */
void late_leave(struct module *module, struct channel *channel, uint64_t due_ms);

/*
 * Looks, without waiting. False while it is to come; so also when it is overdue: then the module has no helper any more, as after a call
 * whose deadline has passed. One that has come is nobody's, and the module has more time from then on.
 */
bool late_may_ask(struct module *module);

void late_drop(struct module *module);

#endif
