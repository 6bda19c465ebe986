/*
 * schedules MODULE PLACE WAY LEVEL EVERY: stops a thread at points of the shim (points.h) on its way through a place, and forks there.
 *
 *     PLACE  what the thread is inside of, see `places`
 *     WAY    beside: another thread forks while this one stands still; the child lives as if nothing had been.
 *            within: this thread forks, as a signal handler would, and parent and child both go on; of the two
 *            `within` lets the child be the first, `after` the parent
 *     LEVEL  the most frequent kind of point to stop at, a number of enum point
 *     EVERY  stops at each n-th of them only
 *
 * Prints a line for each point passed, `site` with its address in the module, and one for each stop that went wrong; at the end how many stops
 * there were.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "points.h"
#include "desk.h"

enum { PATIENCE_S = 20, MOST_STOPS = 20000, SITES = 8192, TURNS = 2 };
enum way { BESIDE, WITHIN, AFTER };

/* What a thread may be doing when it is stopped. */
struct place {
    const char *name;
    void (*before)(void);
    void (*act)(void);
    void (*after)(void);
    bool may_be_uninitialised; /* a child then has to call C_Initialize, and may in any case */
    bool in_a_child;           /* the thread is a child's itself, and this its first call */
    bool is_the_first;         /* nobody has called before in this process or those it was forked from */
};

/* The n-th time that a thread comes to a site. */
struct stop {
    const void *where;
    unsigned turn;
};

/* Of all the processes: what has been learnt of stops, and who may go on. */
static struct common {
    unsigned n_stops;
    struct stop stops[MOST_STOPS];
    CK_SLOT_ID slot;
    struct desk desk;
    sem_t go_on;
} *common;

static const struct place *place;
static enum way way;
static enum point level;
static struct stop target;
static const char *base;

/* The thread that is stopped, and what it tells the one that watches. */
static _Thread_local bool watched;
static struct {
    const void *where;
    unsigned turns;
} passed[SITES];
static sem_t told, resume;
static bool stopped, is_forked;
static pid_t self, forked;

/* ---- what a child does ---- */

static void live(void)
{
    CK_ULONG count = 0;
    CK_RV rv = list->C_GetSlotList(CK_TRUE, NULL, &count);
    if (place->may_be_uninitialised) {
        check(rv == CKR_OK || rv == CKR_CRYPTOKI_NOT_INITIALIZED, "C_GetSlotList");
        rv = list->C_Initialize(NULL);
        check(rv == CKR_OK || (is_forked && rv == CKR_CRYPTOKI_ALREADY_INITIALIZED), "C_Initialize");
    } else {
        must(rv, "C_GetSlotList");
    }
    check(first_slot(list) == slot, "the slot is the same");
    struct desk desk = new_desk();
    check(are_alike(&desk, &the_desk), "the same as in the parent");
    must(list->C_CloseSession(desk.session), "C_CloseSession");
}

static _Noreturn void live_and_end(void)
{
    alarm(PATIENCE_S);
    live();
    _exit(0);
}

static bool ended_well(pid_t pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0;
}

/* ---- at a point ---- */

static unsigned turn_at(const void *where)
{
    size_t at = (uintptr_t)where * 0x9e3779b97f4a7c15U >> 51;
    while (passed[at % SITES].where && passed[at % SITES].where != where)
        at++;
    passed[at % SITES].where = where;
    return ++passed[at % SITES].turns;
}

static bool is_known(const struct stop *stop)
{
    for (unsigned i = 0; i < common->n_stops; i++)
        if (common->stops[i].where == stop->where && common->stops[i].turn == stop->turn)
            return true;
    return false;
}

static void learn(const struct stop *stop)
{
    if (stop->turn <= TURNS && common->n_stops < MOST_STOPS && !is_known(stop))
        common->stops[common->n_stops++] = *stop;
}

static void fork_here(void)
{
    stopped = true;
    forked = fork();
    if (forked == 0) {
        is_forked = true;
        watched = false;
        alarm(PATIENCE_S);
        while (way == AFTER && sem_wait(&common->go_on) != 0)
            ;
        return;
    }
    if (way == WITHIN)
        check(ended_well(forked), "a child that came back into a call");
}

static void stop_here(void)
{
    stopped = true;
    sem_post(&told);
    while (sem_wait(&resume) != 0)
        ;
}

static void at_point(enum point point, const void *where)
{
    if (!watched || point > level)
        return;
    struct stop here = {where, turn_at(where)};
    if (way != BESIDE && getpid() != self) /* in what becomes a broker: it is nobody's call */
        return;
    learn(&here);
    if (stopped || here.where != target.where || here.turn != target.turn)
        return;
    if (way == BESIDE)
        stop_here();
    else
        fork_here();
}

/* ---- one schedule ---- */

static void *pass_through(void *unused)
{
    watched = true;
    place->act();
    watched = false;
    if (is_forked)
        live_and_end();
    sem_post(&told);
    return unused;
}

static void await(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        ;
}

static bool fork_beside(void)
{
    pid_t pid = fork();
    if (pid == 0)
        live_and_end();
    bool good = ended_well(pid);
    sem_post(&resume);
    await(&told);
    return good;
}

/* False if the child was not well. Leaves `stopped` false when the thread never came to the target. */
static bool try_once(void)
{
    pthread_t thread;
    bool good = true;
    stopped = false;
    self = getpid();
    memset(passed, 0, sizeof passed);
    check(pthread_create(&thread, NULL, pass_through, NULL) == 0, "pthread_create");
    await(&told);
    if (way == BESIDE && stopped)
        good = fork_beside();
    pthread_join(thread, NULL);
    if (way == AFTER && stopped) {
        sem_post(&common->go_on);
        good = ended_well(forked);
    }
    return good;
}

enum { GOOD, BAD, MISSED };

static int try_here(void)
{
    place->before();
    bool good = try_once();
    place->after();
    return !good ? BAD : stopped ? GOOD : MISSED;
}

/* The parent's side may fail too, by ending. */
static int try_in_a_child(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(2 * PATIENCE_S);
        if (!place->in_a_child && !place->may_be_uninitialised)
            the_desk = new_desk();
        _exit(try_here());
    }
    check(waitpid(pid, &status, 0) == pid, "waitpid");
    return WIFEXITED(status) && (WEXITSTATUS(status) == GOOD || WEXITSTATUS(status) == MISSED) ? WEXITSTATUS(status) : BAD;
}

/* ---- places ---- */

static void nothing(void)
{
}

static void begin_life(void)
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    must(list->C_Initialize(&args), "C_Initialize");
}

static void end_life(void)
{
    must(list->C_Finalize(NULL), "C_Finalize");
}

/* In a child that was forked within, a call may end in any way, but end it must. */
static void expect(CK_RV rv, const char *what)
{
    if (!is_forked)
        must(rv, what);
}

static void act_slots(void)
{
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    expect(list->C_GetSlotList(CK_TRUE, slots, &count), "C_GetSlotList");
}

static void act_initialize(void)
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    expect(list->C_Initialize(&args), "C_Initialize");
    if (!is_forked)
        act_slots();
}

static void act_finalize(void)
{
    expect(list->C_Finalize(NULL), "C_Finalize");
}

static void act_sign(void)
{
    CK_BYTE mac[MOST_BYTES] = {0};
    CK_RV rv = make_mac(the_desk.session, the_desk.key, mac);
    expect(rv, "C_Sign");
    check(rv != CKR_OK || !memcmp(mac, the_desk.mac, sizeof mac), "the same signature");
}

static void act_digest(void)
{
    CK_BYTE hash[MOST_BYTES] = {0};
    CK_RV rv = make_hash(the_desk.session, hash);
    expect(rv, "C_Digest");
    check(rv != CKR_OK || !memcmp(hash, the_desk.hash, sizeof hash), "the same digest");
}

static void act_session(void)
{
    CK_SESSION_HANDLE session;
    CK_RV rv = list->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session);
    expect(rv, "C_OpenSession");
    if (rv == CKR_OK)
        expect(list->C_CloseSession(session), "C_CloseSession");
}

/* The first wait of a life: nothing has happened since. */
static void act_events(void)
{
    CK_SLOT_ID event;
    CK_RV rv = list->C_WaitForSlotEvent(CKF_DONT_BLOCK, &event, NULL);
    expect(rv == CKR_NO_EVENT ? CKR_OK : rv, "C_WaitForSlotEvent");
}

/* Whether a session that was the parent's is this process's too depends on the module. */
static void act_first(void)
{
    CK_SESSION_INFO info;
    CK_RV rv = list->C_GetSessionInfo(the_desk.session, &info);
    expect(rv == CKR_SESSION_HANDLE_INVALID ? CKR_OK : rv, "C_GetSessionInfo");
    expect(list->C_Initialize(NULL), "C_Initialize");
    act_slots();
    act_session();
    expect(list->C_CloseAllSessions(slot), "C_CloseAllSessions");
}

/* The broker that this process started, by its socket; it ends and nobody listens any more. */
static void end_broker(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred broker = {0};
    socklen_t len = sizeof broker;
    end_life();
    strncpy(address.sun_path, getenv("P11HOST_SOCKET"), sizeof address.sun_path - 1);
    for (bool told_to_end = false;; told_to_end = true) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        bool listens = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
        if (listens && !told_to_end && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &broker, &len) == 0)
            kill(broker.pid, SIGTERM);
        close(fd);
        if (!listens)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static const struct place places[] = {
    {"initialize", nothing, act_initialize, end_life, .may_be_uninitialised = true, .is_the_first = true},
    {"broker", nothing, act_initialize, end_broker, .may_be_uninitialised = true, .is_the_first = true},
    {"finalize", begin_life, act_finalize, nothing, .may_be_uninitialised = true},
    {"events", begin_life, act_events, end_life, .may_be_uninitialised = true},
    {"child", nothing, act_first, nothing, .in_a_child = true},
    {"sign", nothing, act_sign, nothing, .in_a_child = false},
    {"digest", nothing, act_digest, nothing, .in_a_child = false},
    {"slots", nothing, act_slots, nothing, .in_a_child = false},
    {"session", nothing, act_session, nothing, .in_a_child = false},
};

static const struct place *place_of(const char *name)
{
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++)
        if (!strcmp(places[i].name, name))
            return &places[i];
    check(false, "there is no such place");
    return NULL;
}

/* ---- */

static void watch(const char *module)
{
    void (*set)(point_hook *);
    Dl_info info;
    void *symbol = dlsym(dlopen(module, RTLD_NOW | RTLD_NOLOAD), "points_watch");
    check(symbol != NULL, "points_watch");
    memcpy(&set, &symbol, sizeof set);
    check(dladdr(symbol, &info), "dladdr");
    base = info.dli_fbase;
    set(at_point);
}

static void share(void)
{
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(common != MAP_FAILED, "mmap");
    check(sem_init(&common->go_on, 1, 0) == 0 && sem_init(&told, 0, 0) == 0 && sem_init(&resume, 0, 0) == 0, "sem_init");
}

static int try_stop(const struct stop *stop)
{
    target = *stop;
    return place->in_a_child || place->is_the_first || way != BESIDE ? try_in_a_child() : try_here();
}

static void tell_bad(const struct stop *stop)
{
    printf("bad %#lx %u\n", (unsigned long)((const char *)stop->where - base), stop->turn);
    fflush(stdout);
}

/* The first time nobody is stopped, but everything learnt. What other turns of events lead to is learnt on the way. */
static void try_all(unsigned every)
{
    unsigned counts[3] = {0};
    check(try_stop(&(struct stop){0}) == MISSED, "a way without a stop");
    for (unsigned i = 0; i < common->n_stops; i += every) {
        int result = try_stop(&common->stops[i]);
        if (result == BAD)
            tell_bad(&common->stops[i]);
        counts[result]++;
    }
    for (unsigned i = 0; i < common->n_stops; i++)
        if (common->stops[i].turn == 1)
            printf("site %#lx\n", (unsigned long)((const char *)common->stops[i].where - base));
    printf("stops %u %u %u\n", counts[GOOD], counts[BAD], counts[MISSED]);
}

static void look_around(void)
{
    begin_life();
    set_up();
    check(all_alike, "a provider that says the same in every session");
    common->slot = slot;
    common->desk = the_desk;
    if (place->may_be_uninitialised)
        place->after == end_broker ? end_broker() : end_life();
}

/* By somebody else where this process is not to have called. */
static void learn_about_the_provider(void)
{
    pid_t pid = place->is_the_first ? fork() : 0;
    if (pid == 0)
        look_around();
    if (place->is_the_first && pid == 0)
        _exit(0);
    check(pid == 0 || ended_well(pid), "a look around");
    fill_data();
    slot = common->slot;
    the_desk = common->desk;
}

int main(int argc, char **argv)
{
    check(argc == 6, "usage");
    list = load(argv[1]);
    place = place_of(argv[2]);
    way = !strcmp(argv[3], "beside") ? BESIDE : !strcmp(argv[3], "within") ? WITHIN : AFTER;
    level = (enum point)atoi(argv[4]);
    share();
    watch(argv[1]);
    learn_about_the_provider();
    try_all((unsigned)atoi(argv[5]));
    return 0;
}
