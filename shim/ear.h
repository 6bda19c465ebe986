/*
 * An ear: the channel on which the shim hears of one module's events, and what it knows of them (specs/PROTOCOL.md, section 4.10).
 *
 * It never waits: whoever has ears polls for all of them at once. One thread at a time uses them.
 */
#ifndef P11HOST_EAR_H
#define P11HOST_EAR_H

#include <poll.h>

#include "module.h"
#include "seen.h"

struct ear {
    struct channel *channel; /* NULL if there is none */
    bool greeted;            /* the helper has said hello on it */
    bool deaf;               /* this helper knows no events */
    bool hangs;              /* it will know no more: its provider does not come back from a look */
    unsigned asked;          /* requests that have not been answered */
    bool quick;              /* one of them does not wait: */
    uint64_t round;          /* the last such, by its round */
    uint64_t due_ms;         /* when the answer, or the hello, is overdue */
    uint64_t asked_ms;       /* when the last request was made */
    uint64_t rest_ms;        /* until then nothing is asked, and nobody for a helper */
    uint32_t pause_ms;       /* the next such rest, after a failure */
    _Atomic uint32_t of;     /* the generation whose slots the application knows; 0 if none */
    _Atomic bool hears;      /* the application knows them by events, no more by what calls tell it */
    _Atomic bool listed;     /* before that it was told all slots there were, or there was no helper to have any */
    unsigned vain;           /* answers that came at once and told of no event, in a row */
    bool subscribed;         /* there is a number: */
    uint64_t number;         /* of the last event that was told */
};

enum { EAR_TICK_MS = 50 };

/*
 * Does what can be done now without waiting: sees that there is a helper and a channel, and a question on it. In a `round` that is not 0 it asks
 * once, what the helper answers as soon as it can.
 */
void ear_tend(struct ear *ear, struct module *module, struct seen *seen, uint64_t round);

/* What to poll for, -1 for nothing; and how long at most. */
int ear_descriptor(const struct ear *ear);
uint64_t ear_until(const struct ear *ear, const struct module *module);

/* There is something to read, or the time has come. */
void ear_hear(struct ear *ear, struct module *module, struct seen *seen, bool readable);

/* Is it worth while to wait for this round's answer? */
bool ear_is_awaited(const struct ear *ear, uint64_t round);

/* The application has been told of this module's slots. False if it hears of them by events already, or they are another helper's. */
bool ear_may_tell(struct ear *ear, const struct module *module);

/* It has been told of all the slots that the module has. */
void ear_tell_all(struct ear *ear);

void ear_close(struct ear *ear, struct module *module);

#endif
