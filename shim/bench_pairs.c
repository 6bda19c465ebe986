/*
 * What no way can do without: work that is handed from one process to another and back.
 *
 * Pairs of threads, one here and one in a process with a session of its own, as helpers have. Memory that both share holds whose turn
 * it is; nothing is packed, sent or checked. Who waits sleeps on a futex, and before that may look for a while, or let others go first.
 */
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { MAX_PAIRS = 64, YIELDS = 8, LOOKS = 100000, WAYS = 3, DOZE_MS = 20, TRIALS = 8, CALIBRATION = 250000 };

enum turn { OURS, THEIRS };

/* Alone on its cache lines. */
struct pair {
    _Atomic uint32_t turn;
    uint8_t apart[60];
    _Atomic uint32_t asleep; /* futexes: whoever waits for its turn, by the turn */
    _Atomic uint32_t asleep_too;
    uint8_t apart_too[56];
};

struct shared {
    struct pair pairs[MAX_PAIRS];
    _Atomic bool begun, over; /* a turn has come back; no more will be counted */
};

static void look(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static void let_others_go(void)
{
    sched_yield();
}

/* What is done before a sleep, and how often. */
static const struct way {
    void (*wait)(void);
    unsigned times;
} ways[WAYS] = {{look, 0}, {let_others_go, YIELDS}, {look, LOOKS}};

static struct shared *shared;
static uint64_t steps; /* of work in each turn of theirs */
static const struct way *way;

static uint64_t compute(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005U + 1442695040888963407U;
    return x;
}

/* By the best of several trials: others may be at work here too. */
static uint64_t steps_in(int64_t ns)
{
    volatile uint64_t sink;
    int64_t least = INT64_MAX;
    for (unsigned i = 0; i < TRIALS; i++) {
        int64_t before = now_ns();
        sink = compute(CALIBRATION);
        int64_t took = now_ns() - before;
        least = took < least ? took : least;
    }
    (void)sink;
    return (uint64_t)((double)CALIBRATION * (double)ns / (double)least);
}

static _Atomic uint32_t *sleeper(struct pair *pair, enum turn turn)
{
    return turn == OURS ? &pair->asleep : &pair->asleep_too;
}

static void pass_turn(struct pair *pair, enum turn to)
{
    _Atomic uint32_t *asleep = sleeper(pair, to);
    atomic_store(&pair->turn, to);
    if (atomic_exchange(asleep, 0))
        syscall(SYS_futex, asleep, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* False when it is over. */
static bool await_turn(struct pair *pair, enum turn turn)
{
    struct timespec most = {.tv_nsec = DOZE_MS * 1000000L};
    _Atomic uint32_t *asleep = sleeper(pair, turn);
    for (unsigned i = 0; i < way->times && atomic_load(&pair->turn) != turn; i++)
        way->wait();
    while (atomic_load(&pair->turn) != turn && !atomic_load(&shared->over)) {
        atomic_store(asleep, 1);
        if (atomic_load(&pair->turn) != turn)
            syscall(SYS_futex, asleep, FUTEX_WAIT, 1, &most, NULL, 0);
    }
    return !atomic_load(&shared->over);
}

static void *serve_pair(void *argument)
{
    struct pair *pair = argument;
    volatile uint64_t sink;
    while (await_turn(pair, THEIRS)) {
        sink = compute(steps);
        pass_turn(pair, OURS);
    }
    (void)sink;
    return NULL;
}

static void *call_pair(void *argument)
{
    struct pair *pair = argument;
    uint64_t count = 0;
    for (;; count++) {
        pass_turn(pair, THEIRS);
        if (!await_turn(pair, OURS))
            return (void *)(uintptr_t)count;
        if (count == 0)
            atomic_store(&shared->begun, true);
    }
}

static void begin(pthread_t *threads, size_t n, void *(*work)(void *))
{
    for (size_t i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, work, &shared->pairs[i]) != 0)
            fail("pthread_create", CKR_HOST_MEMORY);
}

static uint64_t end(pthread_t *threads, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        void *count;
        pthread_join(threads[i], &count);
        sum += (uintptr_t)count;
    }
    return sum;
}

static pid_t begin_to_serve(size_t n)
{
    pthread_t threads[MAX_PAIRS];
    pid_t child = fork();
    if (child < 0)
        fail("fork", CKR_HOST_MEMORY);
    if (child > 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    begin(threads, n, serve_pair);
    end(threads, n);
    _exit(0);
}

static double rate_of(size_t n, int64_t ms)
{
    pthread_t threads[MAX_PAIRS];
    memset(shared, 0, sizeof *shared);
    pid_t child = begin_to_serve(n);
    int64_t before = now_ns();
    begin(threads, n, call_pair);
    do
        nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
    while (!atomic_load(&shared->begun));
    atomic_store(&shared->over, true);
    double rate = (double)end(threads, n) * 1e9 / (double)(now_ns() - before);
    waitpid(child, NULL, 0);
    return rate;
}

/* pairs THREADS NANOSECONDS MILLISECONDS: turns a second with so much work in each, by the best way to wait */
void measure_pairs(char **argv)
{
    size_t n = strtoul(argv[0], NULL, 10);
    int64_t ms = strtoll(argv[2], NULL, 10) / WAYS + 1;
    double best = 0;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || n < 1 || n > MAX_PAIRS)
        fail("threads: 1 to 64", CKR_ARGUMENTS_BAD);
    steps = steps_in(strtoll(argv[1], NULL, 10));
    for (way = ways; way < ways + WAYS; way++) {
        double rate = rate_of(n, ms);
        best = rate > best ? rate : best;
    }
    printf("{\"rate\": %.1f}\n", best);
}
