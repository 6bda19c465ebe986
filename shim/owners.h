/*
 * A helper's owners: the processes that opened its channels. Each is watched, as an end of file may never come: an idle child may hold
 * what its parent had.
 *
 * Only the thread that takes channels watches; any may hold and release.
 */
#ifndef P11HOST_OWNERS_H
#define P11HOST_OWNERS_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "limits.h"
#include "provider.h"

enum {
    OWNERS = sizeof(void *) == 8 ? LIMIT_CHANNELS : LIMIT_NARROW_CHANNELS, /* that are watched at most */
    OWNERS_STRANGER = UINT32_MAX, /* all that cannot be watched: nobody knows when they end */
};

/* Before any other. What is to be polled for them is written at `places`, which has room for OWNERS. */
void owners_init(struct provider *provider, struct pollfd *places);

/* Watches a process from now on, if it is not watched yet and can be. Its number. */
uint32_t owners_watch(pid_t pid);

/* Of those at `places` some may have ended: takes these out, and has closed what they had open. */
void owners_forget_dead(void);

unsigned owners_count(void);

/* Whether there has been a process that cannot be watched. */
bool owners_had_stranger(void);

/* What may still call for an owner, besides its life: a channel, which may outlast it by a call. */
void owners_hold(uint32_t owner);
void owners_release(uint32_t owner);

/* Whether something is being closed that a process had open. */
bool owners_are_busy(void);

#endif
