/*
 * A helper's tracing: while somebody watches, each call is told twice, before it and after it, on a socket that the broker handed over.
 *
 * What is told are the arguments as on the wire, but of byte strings their lengths alone, and not even these where they are
 * the whole secret. Nobody waits for whoever watches: what does not fit is dropped and counted. Off, it costs one load a call.
 */
#ifndef P11HOST_TRACE_H
#define P11HOST_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "walk.h"

/* A thread's own: where it writes what it tells. Zero is empty. */
struct trace {
    struct writer writer;
    bool made;
    uint64_t place; /* tells it from other threads */
};

extern _Atomic uint32_t trace_watcher; /* a number for each that came; 0: nobody watches */

static inline uint32_t trace_wanted(void)
{
    return atomic_load_explicit(&trace_watcher, memory_order_relaxed);
}

/* The broker's messages come through this descriptor. False if that cannot be. */
bool trace_init(int control);

/* Somebody comes to watch, in the place of who did; or the broker wants the slots looked at. False at the end: nobody will come. */
bool trace_hear(int control, bool *ret_look);

/* `watcher` is what trace_wanted said before the call. */
void trace_enter(struct trace *trace, uint32_t watcher, const struct walk *walk);
void trace_leave(struct trace *trace, uint32_t watcher, const struct walk *walk, CK_RV rv);

void trace_finish(struct trace *trace);

#endif
