/*
 * Points: places in the shim at which a thread can be stopped. In a shim built for this, and only there, every lock and unlock, every
 * atomic operation and every access to memory tells of itself before it happens.
 *
 * Nobody marks them. The compiler puts them there, as it would for the thread sanitizer, whose functions points.c has in its stead;
 * and the linker leads pthread_mutex_lock and its like to it.
 */
#ifndef POINTS_H
#define POINTS_H

/* From the rare to the frequent. */
enum point {
    POINT_LOCK,   /* before a mutex is locked or unlocked, and after */
    POINT_CHANGE, /* before an atomic exchange, compare-and-swap or addition */
    POINT_ATOMIC, /* before an atomic load or store */
    POINT_ACCESS, /* before any other access to memory, and where functions begin and end */
};

typedef void point_hook(enum point point, const void *where);

/* From now on every thread calls it at every point. NULL: no more. */
void points_watch(point_hook *hook);

#endif
