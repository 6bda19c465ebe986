#include <pthread.h>

#include "thread.h"

enum { NARROW_STACK = 2 << 20 }; /* where addresses are scarce */

bool thread_start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    if (sizeof(void *) < 8)
        pthread_attr_setstacksize(&detached, NARROW_STACK);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    bool started = pthread_create(&thread, &detached, run, argument) == 0;
    pthread_attr_destroy(&detached);
    return started;
}
