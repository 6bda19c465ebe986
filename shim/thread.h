/* A helper's threads. Nobody waits for one: a provider may keep it for ever. */
#ifndef P11HOST_THREAD_H
#define P11HOST_THREAD_H

#include <stdbool.h>

/* False if there can be no more. */
bool thread_start(void *(*run)(void *), void *argument);

#endif
