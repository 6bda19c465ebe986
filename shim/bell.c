#include "bell.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "limits.h"

enum {
    WHOLE = BELL_PAGE + LIMIT_SHELF,
    LOOK_NS = 50000,   /* about what it costs to be woken */
    LOOK_MOST_NS = 2000000,
    LOOKS = 32,        /* between two looks at the clock */
    YIELDS = 8,        /* how often others go first, where there are too few processors */
    DOZE_MS = 20,      /* how long a peer's death may go unnoticed */
    PATIENT = 3,       /* misses before the first rest */
    LONGEST_REST = 10, /* 2^n messages */
};

static unsigned count_cpus(void)
{
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 1;
}

void bell_heed(struct bell *bell, _Atomic unsigned *crowd, bool leaves)
{
    bell->crowd = crowd;
    bell->leaves = leaves;
    bell->cpus = count_cpus();
}

void bell_sleep(struct bell *bell)
{
    if (bell->leaves)
        atomic_fetch_sub_explicit(bell->crowd, 1, memory_order_relaxed);
}

void bell_wake(struct bell *bell)
{
    if (bell->leaves)
        atomic_fetch_add_explicit(bell->crowd, 1, memory_order_relaxed);
}

/* How the wait for a message may begin, before any sleep. */
enum manner { AT_ONCE_TO_SLEEP, LOOKING, BETWEEN_OTHERS };

/* Two threads on one processor change places by sleeping; more than two waste less when they let each other go first. */
static enum manner manner_of(const struct bell *bell)
{
    unsigned crowd = bell->crowd ? atomic_load_explicit(bell->crowd, memory_order_relaxed) : 0;
    if (crowd == 0)
        return AT_ONCE_TO_SLEEP;
    if (2 * crowd <= bell->cpus)
        return LOOKING;
    return crowd > 1 ? BETWEEN_OTHERS : AT_ONCE_TO_SLEEP;
}

static bool map(struct bell *bell, int fd)
{
    uint8_t *whole = mmap(NULL, WHOLE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *bell = (struct bell){0};
    if (whole == MAP_FAILED)
        return false;
    bell->page = (struct bell_page *)(void *)whole;
    bell->shelf = (struct shelf){.base = whole + BELL_PAGE, .size = LIMIT_SHELF};
    return true;
}

int bell_make(struct bell *bell)
{
    *bell = (struct bell){0};
    int fd = memfd_create("p11host-bell", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (ftruncate(fd, WHOLE) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0 || !map(bell, fd)) {
        close(fd);
        return -1;
    }
    bell->ours = &bell->page->to_maker;
    bell->theirs = &bell->page->to_hanger;
    return fd;
}

/* A file that can shrink would kill its reader. */
static bool is_steady(int fd)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &st) == 0 && st.st_size >= WHOLE;
}

void bell_hang(struct bell *bell, int fd)
{
    *bell = (struct bell){0};
    if (!is_steady(fd) || !map(bell, fd))
        return;
    bell->ours = &bell->page->to_hanger;
    bell->theirs = &bell->page->to_maker;
}

void bell_finish(struct bell *bell)
{
    if (bell->page)
        munmap(bell->page, WHOLE);
    *bell = (struct bell){0};
}

static uint32_t state_of(const struct bell_side *side)
{
    return atomic_load_explicit(&side->state, memory_order_acquire);
}

/* From a state that is expected to another. False if the peer was faster. */
static bool pass(struct bell_side *side, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong(&side->state, &from, to);
}

static bool is_dozing(uint32_t state)
{
    return state == TRAY_DOZED_AT || state == TRAY_DOZED_AT_TOO;
}

/*
 * Both ends map the file, so the futex is one of two processes. A sleeper may see that it is to wake before it sleeps, and be asleep anew
 * when the other end comes to wake it: so the one doze and the next are told apart, and nobody is woken in vain.
 */
static void doze(struct bell_side *side, uint32_t state)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += DOZE_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    syscall(SYS_futex, &side->state, FUTEX_WAIT_BITSET, state, &until, NULL, 1U << state);
}

static bool rouse(struct bell_side *side, uint32_t to)
{
    uint32_t state = state_of(side);
    if (!is_dozing(state) || !pass(side, state, to))
        return false;
    syscall(SYS_futex, &side->state, FUTEX_WAKE_BITSET, 1, NULL, NULL, 1U << state);
    return true;
}

static bool is_anothers(const struct bell *bell)
{
    return bell->owner && owner_is_another(bell->owner);
}

int bell_lay(struct bell *bell, const struct iovec *spans, size_t n_spans, size_t total)
{
    struct bell_side *side = bell->theirs;
    uint32_t state = bell->page ? state_of(side) : TRAY_SHUT;
    bell->by_the_tray = state != TRAY_SHUT;
    if (total > BELL_TRAY || (state != TRAY_OPEN && !is_dozing(state)))
        return 0;
    uint8_t *at = side->tray;
    for (size_t i = 0; i < n_spans; at += spans[i++].iov_len)
        memcpy(at, spans[i].iov_base, spans[i].iov_len);
    side->len = (uint32_t)total;
    if (is_anothers(bell)) /* who has laid the same, or wipes it */
        return -EOWNERDEAD;
    if (pass(side, TRAY_OPEN, TRAY_LAID) || rouse(side, TRAY_LAID)) /* it may have dozed off in between */
        return 1;
    explicit_bzero(side->tray, total);
    return 0;
}

bool bell_was_untouched(const struct bell *bell)
{
    return bell->page && state_of(bell->theirs) == TRAY_LAID;
}

void bell_ring(struct bell *bell)
{
    if (!bell->page)
        return;
    atomic_store(&bell->theirs->rung, ++bell->sent);
    /* One that was in recv() has the message, and may even doze for the next. */
    if (bell->by_the_tray)
        rouse(bell->theirs, TRAY_OPEN);
}

static void pause_briefly(void)
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool has_rung(const struct bell *bell)
{
    return (int32_t)(atomic_load(&bell->ours->rung) - bell->received) > 0;
}

/* A nanosecond for each byte: a digest or a cipher takes about that. */
static uint64_t look_ns(uint64_t bytes)
{
    return bytes < LOOK_MOST_NS - LOOK_NS ? LOOK_NS + bytes : (uint64_t)LOOK_MOST_NS;
}

static bool has_come(const struct bell *bell)
{
    return state_of(bell->ours) == TRAY_LAID || has_rung(bell);
}

/* Each of these is true when a message was laid or sent. */
static bool look(const struct bell *bell, uint64_t ns)
{
    uint64_t end = now_ns() + ns;
    do
        for (int i = 0; i < LOOKS; i++) {
            if (has_come(bell))
                return true;
            pause_briefly();
        }
    while (now_ns() < end);
    return false;
}

/* The peer may need this processor, and so may other calls. */
static bool look_between_others(const struct bell *bell)
{
    for (int i = 0; i < YIELDS; i++) {
        if (has_come(bell))
            return true;
        sched_yield();
    }
    return has_come(bell);
}

/* Slow peers and busy machines are not looked at for long: the rests grow with every miss. */
static void miss(struct bell *bell)
{
    bell->misses++;
    if (bell->misses >= PATIENT) {
        uint32_t excess = bell->misses - PATIENT;
        bell->rest = 1U << (excess < LONGEST_REST ? excess : LONGEST_REST);
    }
}

/* False when looking was in vain, or does not pay. */
static bool look_if_it_pays(struct bell *bell, uint64_t asked)
{
    enum manner manner = manner_of(bell);
    if (manner == AT_ONCE_TO_SLEEP)
        return false;
    if (bell->rest) {
        bell->rest--;
        return false;
    }
    bool come = manner == LOOKING ? look(bell, look_ns(asked)) : look_between_others(bell);
    if (come)
        bell->misses = 0;
    else
        miss(bell);
    return come;
}

/* Whoever sends sets the number first and then looks for a sleeper, so that one of the two sees the other. */
static void doze_a_while(struct bell *bell)
{
    uint32_t state = bell->dozes++ % 2 ? TRAY_DOZED_AT_TOO : TRAY_DOZED_AT;
    if (!pass(bell->ours, TRAY_OPEN, state) || has_rung(bell))
        return;
    bell_sleep(bell);
    doze(bell->ours, state);
    bell_wake(bell);
}

void bell_await(struct bell *bell, uint64_t asked)
{
    if (!bell->page)
        return;
    pass(bell->ours, TRAY_SHUT, TRAY_OPEN);
    if (!has_rung(bell) && !look_if_it_pays(bell, asked))
        doze_a_while(bell);
}

/* A copy of what was laid. Longer than it can be is nothing: the peer lies. */
static size_t copy_tray(const struct bell_side *side, void *bytes, size_t max)
{
    uint32_t len = __atomic_load_n(&side->len, __ATOMIC_RELAXED); /* once: the peer can change it */
    if (len > BELL_TRAY || len > max)
        return 0;
    memcpy(bytes, side->tray, len);
    return len;
}

/* Wiped, and open for the next. */
static void clear_tray(struct bell_side *side, size_t len)
{
    explicit_bzero(side->tray, len ? len : (size_t)BELL_TRAY);
    atomic_store_explicit(&side->state, TRAY_OPEN, memory_order_release);
}

/* Both a child and its parent may come this far: what the child shuts it leaves as it was, and it wipes nothing of its parent's. */
long bell_take(struct bell *bell, void *bytes, size_t max)
{
    if (!bell->page)
        return 0;
    /* Whoever shuts the tray may have been given something at the last moment. */
    uint32_t was = atomic_exchange(&bell->ours->state, TRAY_SHUT);
    if (is_anothers(bell)) {
        pass(bell->ours, TRAY_SHUT, was);
        return -EOWNERDEAD;
    }
    if (was != TRAY_LAID)
        return 0;
    size_t len = copy_tray(bell->ours, bytes, max);
    if (is_anothers(bell)) {
        explicit_bzero(bytes, len);
        return -EOWNERDEAD;
    }
    clear_tray(bell->ours, len);
    return (long)len;
}

bool bell_shut(struct bell *bell)
{
    if (!bell->page)
        return false;
    uint32_t was = atomic_exchange(&bell->ours->state, TRAY_SHUT);
    bool come = was == TRAY_LAID || is_anothers(bell);
    if (come)
        pass(bell->ours, TRAY_SHUT, was);
    return come || has_rung(bell);
}

void bell_answered(struct bell *bell)
{
    bell->received++;
    if (bell->page)
        pass(bell->ours, TRAY_SHUT, TRAY_OPEN);
}
