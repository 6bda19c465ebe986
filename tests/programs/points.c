/* The other end of what the compiler and the linker put into the shim: see points.h. */
#include "points.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VISIBLE __attribute__((visibility("default")))
#define HERE __builtin_return_address(0)

static point_hook *watching;

VISIBLE void points_watch(point_hook *hook)
{
    __atomic_store_n(&watching, hook, __ATOMIC_SEQ_CST);
}

static void pass(enum point point, const void *where)
{
    point_hook *hook = __atomic_load_n(&watching, __ATOMIC_ACQUIRE);
    if (hook)
        hook(point, where);
}

/* ---- locks ---- */

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    pass(POINT_LOCK, HERE);
    int error = __real_pthread_mutex_lock(mutex);
    pass(POINT_LOCK, HERE);
    return error;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    pass(POINT_LOCK, HERE);
    int error = __real_pthread_mutex_unlock(mutex);
    pass(POINT_LOCK, HERE);
    return error;
}

int __real_pthread_mutex_trylock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *mutex);

int __wrap_pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    pass(POINT_LOCK, HERE);
    int error = __real_pthread_mutex_trylock(mutex);
    pass(POINT_LOCK, HERE);
    return error;
}

/* ---- atomic operations: the compiler's own, in the strictest order ---- */

#define ORDER __ATOMIC_SEQ_CST

#define CHANGE(bits, name, function)                                                    \
    uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t *, uint##bits##_t, int); \
    uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    {                                                                                   \
        (void)order;                                                                    \
        pass(POINT_CHANGE, HERE);                                                       \
        return function(at, value, ORDER);                                              \
    }

#define COMPARE(bits, strength)                                                         \
    bool __tsan_atomic##bits##_compare_exchange_##strength(volatile uint##bits##_t *, uint##bits##_t *, uint##bits##_t, int, int); \
    bool __tsan_atomic##bits##_compare_exchange_##strength(volatile uint##bits##_t *at, uint##bits##_t *expected,   \
                                                           uint##bits##_t value, int order, int otherwise)          \
    {                                                                                   \
        (void)order, (void)otherwise;                                                   \
        pass(POINT_CHANGE, HERE);                                                       \
        return __atomic_compare_exchange_n(at, expected, value, false, ORDER, ORDER);   \
    }

#define LOAD_AND_STORE(bits)                                                            \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *, int);    \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order) \
    {                                                                                   \
        (void)order;                                                                    \
        pass(POINT_ATOMIC, HERE);                                                       \
        return __atomic_load_n(at, ORDER);                                              \
    }                                                                                   \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *, uint##bits##_t, int);   \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    {                                                                                   \
        (void)order;                                                                    \
        pass(POINT_ATOMIC, HERE);                                                       \
        __atomic_store_n(at, value, ORDER);                                             \
    }

#define ATOMIC(bits)                                        \
    LOAD_AND_STORE(bits)                                    \
    COMPARE(bits, strong)                                   \
    COMPARE(bits, weak)                                     \
    CHANGE(bits, exchange, __atomic_exchange_n)             \
    CHANGE(bits, fetch_add, __atomic_fetch_add)             \
    CHANGE(bits, fetch_sub, __atomic_fetch_sub)             \
    CHANGE(bits, fetch_and, __atomic_fetch_and)             \
    CHANGE(bits, fetch_or, __atomic_fetch_or)               \
    CHANGE(bits, fetch_xor, __atomic_fetch_xor)

ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

/* ---- other accesses ---- */

#define ACCESS(name)                    \
    void __tsan_##name(void *);         \
    void __tsan_##name(void *at)        \
    {                                   \
        (void)at;                       \
        pass(POINT_ACCESS, HERE);       \
    }

#define ACCESS_RANGE(name)                      \
    void __tsan_##name(void *, size_t);         \
    void __tsan_##name(void *at, size_t size)   \
    {                                           \
        (void)at, (void)size;                   \
        pass(POINT_ACCESS, HERE);               \
    }

ACCESS(read1)
ACCESS(read2)
ACCESS(read4)
ACCESS(read8)
ACCESS(read16)
ACCESS(write1)
ACCESS(write2)
ACCESS(write4)
ACCESS(write8)
ACCESS(write16)
ACCESS(func_entry)
ACCESS_RANGE(read_range)
ACCESS_RANGE(write_range)

void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
    pass(POINT_ACCESS, HERE);
}

void __tsan_init(void);
void __tsan_init(void)
{
}
