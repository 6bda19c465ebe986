#include "watch.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "bound.h"
#include "say.h"
#include "slate.h"
#include "thread.h"
#include "watch_log.h"
#include "watch_look.h"
#include "watch_news.h"

#define MS UINT64_C(1000000)

static struct {
    uint32_t interval_ms;
    bool own_wait;
} settings = {.interval_ms = DEADLINE_LOOK, .own_wait = true};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t looker, done; /* on the monotonic clock, both */
    bool made, started, ending, looking, has_log;
    bool prompted;       /* somebody wants a look that begins after now */
    bool waits;          /* the own wait is ready, or there is none */
    bool trusted;        /* the own wait has told of changes, and missed none */
    bool stirred;        /* it has named a slot, and that is being looked into */
    uint64_t begun, looked; /* looks that have begun, and that are over */
    uint64_t began_at;   /* when the last did */
    uint64_t ended_at;   /* when the last was */
    uint64_t asked_at;   /* when somebody last asked */
    uint64_t changes;    /* all there were, told or not */
    uint64_t late, late_looks; /* the last look that took too long, and how many did */
    int ears[LIMIT_CHANNELS]; /* eventfd + 1 of those who wait; 0 is free */
    struct provider *provider;
    struct watch_log log;
    struct slot_look seen[LIMIT_MODULE_SLOTS]; /* the looker's own */
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER};

void watch_interval(uint32_t ms)
{
    settings.interval_ms = ms;
}

void watch_without_wait(void)
{
    settings.own_wait = false;
}

/* ---- under the lock ---- */

static void make_conditions(void)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&watch.looker, &monotonic);
    pthread_cond_init(&watch.done, &monotonic);
    pthread_condattr_destroy(&monotonic);
    watch.made = true;
}

/* False when it is that late. */
static bool sleep_until(pthread_cond_t *condition, uint64_t when)
{
    struct timespec t = {.tv_sec = (time_t)(when / (1000 * MS)), .tv_nsec = (long)(when % (1000 * MS))};
    return pthread_cond_timedwait(condition, &watch.lock, &t) != ETIMEDOUT;
}

static void call_ears(void)
{
    uint64_t one = 1;
    for (unsigned i = 0; i < LIMIT_CHANNELS; i++)
        if (watch.ears[i] && write(watch.ears[i] - 1, &one, sizeof one) < 0)
            continue; /* it has been told already */
}

/* A look that begins after this; returns when it is over, or so late. */
static bool await_look(uint64_t patience_ms)
{
    uint64_t wanted = watch.begun + 1, until = slate_clock() + patience_ms * MS;
    watch.prompted = true;
    pthread_cond_signal(&watch.looker);
    while (watch.looked < wanted && !watch.ending && sleep_until(&watch.done, until))
        ;
    return watch.looked >= wanted;
}

/* ---- looking ---- */

static void say_flapping(void)
{
    unsigned at;
    while ((at = watch_log_take_flapping(&watch.log)) < watch.log.n_slots)
        say("events.flapping slot=%llu count=%llu", (unsigned long long)watch.log.slots[at].told.slot,
                  (unsigned long long)watch.log.slots[at].held);
}

/* How long the look under way has taken, in milliseconds; 0 if there is none, or that is not long. */
static uint64_t late_by(uint64_t now)
{
    uint64_t ms = watch.looking ? (now - watch.began_at) / MS : 0;
    return ms < DEADLINE_LOOK_LATE ? 0 : ms;
}

/* Once, and again when the count has doubled. Who asks says it: a look that stands still cannot. */
static void say_late(uint64_t now)
{
    uint64_t ms = late_by(now);
    if (!ms || watch.late == watch.begun)
        return;
    watch.late = watch.begun;
    uint64_t count = ++watch.late_looks;
    if ((count & (count - 1)) == 0)
        say("events.look.late function=%s ms=%llu count=%llu", watch_look_is_in(), (unsigned long long)ms, (unsigned long long)count);
}

static void keep(unsigned n_seen, bool by_ourselves)
{
    uint64_t now = slate_clock();
    if (!watch.has_log) {
        watch_log_begin(&watch.log, watch.seen, n_seen, now);
        watch.has_log = true;
        return;
    }
    uint64_t before = watch.log.number;
    unsigned changes = watch_log_compare(&watch.log, watch.seen, n_seen, now);
    watch.changes += changes;
    if (changes && by_ourselves)
        watch.trusted = false;
    say_flapping();
    if (watch.log.number != before)
        call_ears();
}

/* Under the lock, which is let go meanwhile. */
static bool see(bool deep, unsigned *ret_count)
{
    pthread_mutex_unlock(&watch.lock);
    bool good = watch_look(watch.provider, deep, watch.seen, ret_count);
    if (good)
        bound_saw(watch.provider, watch.seen, *ret_count, watch.began_at);
    pthread_mutex_lock(&watch.lock);
    return good;
}

/* Under the lock. What tokens there are is asked where they may have changed. */
static void look(bool by_ourselves)
{
    unsigned n_seen;
    bool deep = !(by_ourselves && watch.trusted) || !watch.has_log || watch_log_due(&watch.log);
    watch.prompted = false;
    watch.looking = true;
    watch.begun++;
    watch.began_at = slate_clock();
    bool good = see(deep, &n_seen);
    if (good && !deep && watch_log_differs(&watch.log, watch.seen, n_seen))
        good = see(true, &n_seen);
    watch.looking = false;
    watch.looked++;
    watch.ended_at = slate_clock();
    if (good)
        keep(n_seen, by_ourselves && !watch.stirred);
    pthread_cond_broadcast(&watch.done);
}

/* When to look if nobody prompts: never, while nobody asks. */
static uint64_t next_look(void)
{
    uint64_t next = watch.ended_at + settings.interval_ms * MS, due = watch_log_due(&watch.log);
    if (slate_clock() - watch.asked_at > DEADLINE_LOOK_QUIET * MS)
        return 0;
    return due && due < next ? due : next;
}

/* Under the lock: false at the end. */
static bool await_reason(bool *ret_by_ourselves)
{
    while (!watch.ending) {
        uint64_t now = slate_clock(), soonest = watch.ended_at + DEADLINE_LOOK_GAP * MS, next = next_look();
        *ret_by_ourselves = !watch.prompted;
        if (watch.prompted && (now >= soonest || watch.stirred))
            return true;
        if (!watch.prompted && next && now >= next)
            return true;
        if (watch.prompted)
            sleep_until(&watch.looker, soonest);
        else if (next)
            sleep_until(&watch.looker, next);
        else
            pthread_cond_wait(&watch.looker, &watch.lock);
    }
    return false;
}

static void *run_looker(void *unused)
{
    uint64_t until = slate_clock() + DEADLINE_LOOK_NOW * MS;
    bool by_ourselves;
    pthread_mutex_lock(&watch.lock);
    while (!watch.waits && !watch.ending && sleep_until(&watch.looker, until))
        ;
    if (!watch.ending)
        look(false);
    while (await_reason(&by_ourselves))
        look(by_ourselves);
    pthread_mutex_unlock(&watch.lock);
    return unused;
}

static void *run_waiter(void *unused)
{
    watch_wait(watch.provider);
    return unused;
}

/* Under the lock. A provider that gets one call at a time cannot wait in one. */
static bool start(struct provider *provider)
{
    if (watch.started || watch.ending)
        return watch.started;
    if (!watch.made)
        make_conditions();
    watch.provider = provider;
    watch.log.narrow = provider->view != NULL;
    watch.asked_at = slate_clock();
    watch.waits = !settings.own_wait || provider->serialize || !thread_start(run_waiter, NULL);
    watch.started = thread_start(run_looker, NULL);
    return watch.started;
}

void watch_prompt(void)
{
    pthread_mutex_lock(&watch.lock);
    if (watch.started) {
        watch.prompted = true;
        pthread_cond_signal(&watch.looker);
    }
    pthread_mutex_unlock(&watch.lock);
}

void watch_end(void)
{
    pthread_mutex_lock(&watch.lock);
    watch.ending = true;
    if (watch.made) {
        pthread_cond_broadcast(&watch.looker);
        pthread_cond_broadcast(&watch.done);
    }
    call_ears();
    pthread_mutex_unlock(&watch.lock);
}

bool watch_is_busy(void)
{
    pthread_mutex_lock(&watch.lock);
    bool busy = watch.looking;
    pthread_mutex_unlock(&watch.lock);
    return busy;
}

/* ---- for whoever asks ---- */

/* A provider that stands still is not waited for again and again. */
static bool stands_still(uint64_t now)
{
    return watch.looking && now - watch.began_at > DEADLINE_LOOK_NOW * MS;
}

bool watch_join(struct provider *provider, bool now)
{
    pthread_mutex_lock(&watch.lock);
    bool started = start(provider);
    uint64_t at = slate_clock(), age = at - watch.ended_at;
    watch.asked_at = at;
    say_late(at);
    if (started && !stands_still(at) && (now || !watch.has_log))
        await_look(watch.has_log ? DEADLINE_LOOK_NOW : DEADLINE_LOOK_FIRST);
    else if (started && age > settings.interval_ms * MS)
        pthread_cond_signal(&watch.looker); /* nobody had asked for a while */
    pthread_mutex_unlock(&watch.lock);
    return started;
}

static bool has_news(const uint64_t *after)
{
    return watch.ending || (watch.has_log && (!after || *after != watch.log.number));
}

bool watch_has_news(const uint64_t *after)
{
    pthread_mutex_lock(&watch.lock);
    bool news = has_news(after);
    pthread_mutex_unlock(&watch.lock);
    return news;
}

void watch_write_news(struct writer *w, const uint64_t *after)
{
    pthread_mutex_lock(&watch.lock);
    write_news(w, watch.has_log ? &watch.log : NULL, after, late_by(slate_clock()));
    pthread_mutex_unlock(&watch.lock);
}

static void exchange_ear(int old, int new)
{
    unsigned i = 0;
    pthread_mutex_lock(&watch.lock);
    while (i < LIMIT_CHANNELS && watch.ears[i] != old)
        i++;
    if (i < LIMIT_CHANNELS)
        watch.ears[i] = new;
    pthread_mutex_unlock(&watch.lock);
}

void watch_lend_ear(int ear)
{
    if (ear >= 0)
        exchange_ear(0, ear + 1);
}

void watch_take_ear(int ear)
{
    if (ear >= 0)
        exchange_ear(ear + 1, 0);
}

/* ---- the own wait ---- */

void watch_waits(void)
{
    pthread_mutex_lock(&watch.lock);
    watch.waits = true;
    watch.prompted = watch.prompted || watch.begun; /* what it had to say may be of the time after that look */
    pthread_cond_signal(&watch.looker);
    pthread_mutex_unlock(&watch.lock);
}

/* Under the lock, after the look. */
static enum stirred stir(CK_SLOT_ID slot, bool changed)
{
    switch (watch_log_stir(&watch.log, slot, slate_clock())) {
    case STIR_KNOWN: return STIRRED_CHANGE;
    case STIR_TOLD: call_ears(); return changed ? STIRRED_CHANGE : STIRRED_NOTHING;
    default: return changed ? STIRRED_CHANGE : STIRRED_NO_SLOT;
    }
}

enum stirred watch_stirred(CK_SLOT_ID slot)
{
    enum stirred found = STIRRED_NOTHING;
    pthread_mutex_lock(&watch.lock);
    uint64_t before = watch.changes;
    watch.stirred = true;
    if (await_look(DEADLINE_LOOK_STIRRED) && watch.has_log)
        found = stir(slot, watch.changes != before);
    watch.stirred = false;
    pthread_mutex_unlock(&watch.lock);
    return found;
}

void watch_trusts_wait(bool trusts)
{
    pthread_mutex_lock(&watch.lock);
    watch.trusted = trusts;
    pthread_mutex_unlock(&watch.lock);
}

bool watch_is_ending(void)
{
    pthread_mutex_lock(&watch.lock);
    bool ending = watch.ending;
    pthread_mutex_unlock(&watch.lock);
    return ending;
}

void watch_nap(unsigned ms)
{
    uint64_t until = slate_clock() + ms * MS;
    pthread_mutex_lock(&watch.lock);
    while (!watch.ending && sleep_until(&watch.done, until))
        ;
    pthread_mutex_unlock(&watch.lock);
}
