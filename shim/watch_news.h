/* What a watch tells, on the wire: both ends (specs/PROTOCOL.md, section 4.10). */
#ifndef P11HOST_WATCH_NEWS_H
#define P11HOST_WATCH_NEWS_H

#include "codec.h"
#include "watch_log.h"

/*
 * The result of `watch`. `log` is NULL as long as nothing is known; `after` if the caller knows of nothing. The look under way takes so many
 * milliseconds by now; 0: that is not worth telling.
 */
void write_news(struct writer *w, const struct watch_log *log, const uint64_t *after, uint64_t looking_ms);

/* Its params: the number in *ret_after if there is one, in milliseconds how long the caller waits. */
void read_watch(struct reader *r, bool *ret_has_after, uint64_t *ret_after, uint32_t *ret_wait_ms);

#endif
