/*
 * A helper's watch: what is in the provider's slots, for whoever waits for changes (specs/PROTOCOL.md, section 4.10).
 *
 * Begins when somebody first asks, so that others pay nothing. One thread looks at all slots and compares: at an interval, or at once when
 * prompted. Another is in the provider's own wait, as long as that is any good (watch_wait.c); what it says is only a reason to look.
 */
#ifndef P11HOST_WATCH_H
#define P11HOST_WATCH_H

#include "channel.h"
#include "provider.h"

/* Before anything else: how often to look; the provider's own wait is not to be used. */
void watch_interval(uint32_t ms);
void watch_without_wait(void);

/* Somebody knows of a change: looks now, if there is a watch. */
void watch_prompt(void);

/*
 * Answers a request `watch`, whose head has been read, in its own time: when there is something to tell, or the caller has waited as long as it
 * wants to, or it sends something else, or hangs up. False when the channel is of no more use.
 */
bool watch_answer(struct channel *channel, struct provider *provider, uint64_t id);

/* Ends it: no look begins after this. One may be in progress. The provider's C_Finalize wakes its own wait (section 5.5.4 of the standard). */
void watch_end(void);
bool watch_is_busy(void);

/* ---- for watch_answer.c ---- */

/*
 * Begins the watch, if it has not. Who wants to know `now` gets a look that is fresh, if the provider gives one within a moment; the
 * first in any case. False if there can be no watch.
 */
bool watch_join(struct provider *provider, bool now);

/* Is there anything to tell whoever knows of all until `after`? NULL: of nothing. */
bool watch_has_news(const uint64_t *after);
void watch_write_news(struct writer *w, const uint64_t *after);

/* This eventfd hears of news; -1 never. */
void watch_lend_ear(int ear);
void watch_take_ear(int ear);

/* ---- for watch_wait.c ---- */

/* The own wait is about to begin for the first time, or there is none: what it had to say of the time before is past. */
void watch_waits(void);

/* The wait named this slot: looks, and says what came of it. */
enum stirred { STIRRED_CHANGE, STIRRED_NOTHING, STIRRED_NO_SLOT } watch_stirred(CK_SLOT_ID slot);

/* Does the own wait tell of every change, as far as is known? Then a look at the interval need not ask what tokens there are. */
void watch_trusts_wait(bool trusts);

bool watch_is_ending(void);

/* Sleeps so long, or until the end. */
void watch_nap(unsigned ms);

/* In watch_wait.c: a thread's work. */
void watch_wait(struct provider *provider);

#endif
