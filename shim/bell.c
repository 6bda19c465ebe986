#include "bell.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "limits.h"

enum {
    WHOLE = BELL_PAGE + LIMIT_SHELF,
    LOOK_NS = 50000,   /* about what it costs to be woken */
    LOOK_MOST_NS = 2000000,
    LOOKS = 32,        /* between two looks at the clock */
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

static bool is_crowded(const struct bell *bell)
{
    return !bell->crowd || 2 * atomic_load_explicit(bell->crowd, memory_order_relaxed) > bell->cpus;
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

bool bell_lay(struct bell *bell, const struct iovec *spans, size_t n_spans, size_t total)
{
    struct bell_side *side = bell->theirs;
    if (!bell->page || total > BELL_TRAY || state_of(side) != LOOKING)
        return false;
    uint8_t *at = side->tray;
    for (size_t i = 0; i < n_spans; at += spans[i++].iov_len)
        memcpy(at, spans[i].iov_base, spans[i].iov_len);
    side->len = (uint32_t)total;
    if (pass(side, LOOKING, LAID))
        return true;
    explicit_bzero(side->tray, total);
    return false;
}

void bell_ring(struct bell *bell)
{
    if (bell->page)
        atomic_store_explicit(&bell->theirs->rung, ++bell->sent, memory_order_release);
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
    return (int32_t)(atomic_load_explicit(&bell->ours->rung, memory_order_acquire) - bell->received) > 0;
}

/* A nanosecond for each byte: a digest or a cipher takes about that. */
static uint64_t look_ns(uint64_t bytes)
{
    return bytes < LOOK_MOST_NS - LOOK_NS ? LOOK_NS + bytes : (uint64_t)LOOK_MOST_NS;
}

/* True when a message was laid or sent. */
static bool look(const struct bell *bell, uint64_t ns)
{
    uint64_t end = now_ns() + ns;
    do
        for (int i = 0; i < LOOKS; i++) {
            if (state_of(bell->ours) == LAID || has_rung(bell))
                return true;
            pause_briefly();
        }
    while (now_ns() < end);
    return false;
}

/* What was laid, copied and wiped. Longer than it can be is nothing: the peer lies. */
static size_t clear_tray(struct bell_side *side, void *bytes, size_t max)
{
    uint32_t len = __atomic_load_n(&side->len, __ATOMIC_RELAXED); /* once: the peer can change it */
    bool fits = len <= BELL_TRAY && len <= max;
    if (fits)
        memcpy(bytes, side->tray, len);
    explicit_bzero(side->tray, fits ? len : (size_t)BELL_TRAY);
    atomic_store_explicit(&side->state, NOBODY_LOOKS, memory_order_release);
    return fits ? len : 0;
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

static void look_or_rest(struct bell *bell, uint64_t asked)
{
    if (look(bell, look_ns(asked)))
        bell->misses = 0;
    else
        miss(bell);
}

size_t bell_await(struct bell *bell, uint64_t asked, void *bytes, size_t max)
{
    if (!bell->page || has_rung(bell) || is_crowded(bell))
        return 0;
    if (bell->rest) {
        bell->rest--;
        return 0;
    }
    atomic_store(&bell->ours->state, LOOKING);
    look_or_rest(bell, asked);
    /* Whoever cannot stop looking has been given something at the last moment. */
    return pass(bell->ours, LOOKING, NOBODY_LOOKS) ? 0 : clear_tray(bell->ours, bytes, max);
}

void bell_answered(struct bell *bell)
{
    bell->received++;
}
