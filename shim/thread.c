#include <pthread.h>

#include "limits.h"
#include "thread.h"

/* Stacks count as memory that a helper has, and it may have a thread for each of LIMIT_CHANNELS; a system's usual 8 MiB each would be too much. */
bool thread_start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setstacksize(&detached, LIMIT_STACK);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    bool started = pthread_create(&thread, &detached, run, argument) == 0;
    pthread_attr_destroy(&detached);
    return started;
}
