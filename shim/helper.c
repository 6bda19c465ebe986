/*
 * p11host-helper: holds one provider for one application.
 *
 * Started by the broker with nothing but its door. Takes channels from the door, gives each a thread, and ends when
 * every process that opened one has gone; one that is shared, when nobody has its door any more. It never unloads the provider and never returns from main.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "door.h"
#include "pin.h"
#include "provider.h"
#include "rows.h"
#include "sandbox.h"
#include "serve.h"
#include "share.h"
#include "slate.h"
#include "trace.h"

enum {
    EXIT_USAGE = 100,
    EXIT_UNFIT = 101,
    EXIT_SYSTEM = 111,
    FAREWELL_SECONDS = 2,
    LOAD_SECONDS = DEADLINE_LONG / 1000,
    LAST_CALL_MS = 100,
    LAST_CALLS = 20,
    MOST_CHANNELS = sizeof(void *) == 8 ? LIMIT_CHANNELS : LIMIT_NARROW_CHANNELS,
    NARROW_STACK = 2 << 20, /* where addresses are scarce */
    OWNERS = MOST_CHANNELS, /* processes that opened a channel and are watched */
    DOOR = 0,     /* places in the poll set */
    BELL = 1,
    TRACE = 2, /* after the door: who watches comes before the first channel */
    FIRST_OWNER = 3,
};

static struct {
    const char *module, *path, *reserved;
    int door;
    int rows; /* a file with them, -1 for none */
    bool spare; /* started before anybody asked for it */
    int profile, learn; /* as sandbox_enter takes them */
    int trace; /* where the broker says who watches, -1 for nowhere */
    struct provider provider;
    CK_RV rv; /* of loading */
    char error[HELLO_ERROR];
} helper = {.door = -1, .rows = -1, .profile = -1, .learn = -1, .trace = -1};

static struct share share; /* of the processes that use it, where there may be several */

static _Atomic bool ready; /* to serve */
static _Atomic unsigned channels;
static _Atomic unsigned burials; /* threads that close what processes that have ended had open */
static int bell = -1; /* rung when a channel ends */

static struct channel *open_channels[LIMIT_CHANNELS];
static pthread_mutex_t open_channels_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- before anything hostile is in here ---- */

static void usage(void)
{
    fputs("usage: p11host-helper [--serialize] [--shared] [--rows FD] [--profile FD [--learn FD]] [--spare] [--pin FD] [--slate FD] [--trace FD] --door FD "
          "--module NAME PROVIDER.so\n", stderr);
    _exit(EXIT_USAGE);
}

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"door", required_argument, NULL, 'd'},
        {"learn", required_argument, NULL, 'l'},
        {"module", required_argument, NULL, 'm'},
        {"pin", required_argument, NULL, 'P'},
        {"profile", required_argument, NULL, 'p'},
        {"rows", required_argument, NULL, 'r'},
        {"serialize", no_argument, NULL, 's'},
        {"shared", no_argument, NULL, 'S'},
        {"slate", required_argument, NULL, 'n'},
        {"spare", no_argument, NULL, 'w'},
        {"trace", required_argument, NULL, 't'},
        {0},
    };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'd': helper.door = atoi(optarg); break;
        case 'l': helper.learn = atoi(optarg); break;
        case 'm': helper.module = optarg; break;
        case 'P': pin_read(atoi(optarg)); break;
        case 'p': helper.profile = atoi(optarg); break;
        case 'r': helper.rows = atoi(optarg); break;
        case 's': helper.provider.serialize = true; break;
        case 'S': helper.provider.share = &share; break;
        case 'n': slate_use(atoi(optarg)); break;
        case 't': helper.trace = atoi(optarg); break;
        case 'w': helper.spare = true; break;
        default: usage();
        }
    }
    if (optind + 1 != argc || helper.door < 3 || !helper.module || strlen(helper.module) > LIMIT_NAME)
        usage();
    helper.path = argv[optind];
    if (!slate && !slate_make())
        _exit(EXIT_SYSTEM);
}

/* The string for C_Initialize, out of the environment: it may hold a secret, and everybody can read a command line. */
static void take_reserved(void)
{
    const char *given = getenv("P11HOST_RESERVED");
    helper.reserved = given ? strdup(given) : NULL;
    if (given && !helper.reserved)
        _exit(EXIT_SYSTEM);
    unsetenv("P11HOST_RESERVED");
}

/* Nothing gained by exec, nothing read by others of the same user, nothing left in a core file. */
static void renounce(void)
{
    struct rlimit none = {0, 0};
    bool done = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 &&
                setrlimit(RLIMIT_CORE, &none) == 0;
    if (!done) {
        perror("p11host-helper: cannot give up privileges");
        _exit(EXIT_SYSTEM);
    }
    signal(SIGPIPE, SIG_IGN); /* a provider that writes to a broker that has gone is no reason to die */
}

/* The module's own, for as long as the helper lives. Without them no call could be understood as it was meant. */
static void take_rows(void)
{
    static uint8_t packed[LIMIT_ROWS + 1];
    int error = 0;
    ssize_t len = helper.rows < 0 ? 0 : pread(helper.rows, packed, sizeof packed, 0);
    struct rows *rows = len > 0 ? rows_decode(packed, (size_t)len, &error) : NULL;
    if (len < 0 || error) {
        snprintf(helper.error, sizeof helper.error, "the module's rows cannot be used: %s", strerror(len < 0 ? errno : -error));
        helper.rv = CKR_GENERAL_ERROR;
    }
    serve_with(rows_tables(rows));
}

/* Before there is anything in here that is hostile, or a thread. */
static void enter_sandbox(void)
{
    if (!sandbox_enter(helper.profile, helper.learn, helper.error, sizeof helper.error))
        helper.rv = CKR_GENERAL_ERROR;
}

static void close_between(int from, int to)
{
    if (to > from + 1)
        close_range((unsigned)from + 1, (unsigned)to - 1, 0);
}

/* Keeps stdin, stdout, stderr, the door and where the broker says who watches. */
static void close_all_else(void)
{
    int last = helper.trace > helper.door ? helper.trace : helper.door;
    close_between(STDERR_FILENO, helper.door);
    close_between(helper.door, last);
    close_range((unsigned)last + 1, ~0U, 0);
}

static void prepare_trace(void)
{
    if (helper.trace > helper.door && !trace_init(helper.trace)) {
        perror("p11host-helper: calls cannot be traced");
        _exit(EXIT_SYSTEM);
    }
}

static void prepare_door(void)
{
    int on = 1;
    bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fcntl(helper.door, F_SETFD, FD_CLOEXEC); /* a program that the provider runs is no helper, and must not seem to live as one */
    if (bell < 0 || setsockopt(helper.door, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) {
        perror("p11host-helper: the door is no socket");
        _exit(EXIT_SYSTEM);
    }
}

/* ---- the end ---- */

/*
 * Whatever the provider does then, and whether there is a broker or not; no provider can catch or block this. 0 is never. False if
 * there can be no such timer.
 */
static bool die_in(time_t seconds)
{
    static bool made;
    static timer_t timer;
    struct sigevent kill = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    struct itimerspec when = {.it_value.tv_sec = seconds};
    made = made || timer_create(CLOCK_MONOTONIC, &kill, &timer) == 0;
    return made && timer_settime(timer, 0, &when, NULL) == 0;
}

static bool is_busy(void)
{
    return atomic_load(&channels) || atomic_load(&burials);
}

/* A card or HSM is left in order, if nothing is in progress and the provider does it in time. */
static _Noreturn void leave(void)
{
    for (int i = 0; i < LAST_CALLS && is_busy(); i++)
        poll(NULL, 0, LAST_CALL_MS / LAST_CALLS);
    bool idle = helper.rv == CKR_OK && !is_busy();
    slate_note(SLATE_LEAVING);
    if (idle && helper.provider.list.C_Finalize && die_in(FAREWELL_SECONDS))
        helper.provider.list.C_Finalize(NULL);
    _exit(0);
}

/* ---- owners: the processes that opened channels ---- */

enum { STRANGER = UINT32_MAX }; /* all that cannot be watched: nobody knows when they end */

static uint32_t last_owner;

/* What may still call for an owner: its life and its channels, which may outlast it by a call. */
static void release_owner(uint32_t owner)
{
    if (owner != STRANGER && share_release(&share, owner))
        share_bury(&helper.provider, owner);
}

static bool start_thread(void *(*run)(void *), void *argument)
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

static void *run_release(void *argument)
{
    release_owner((uint32_t)(uintptr_t)argument);
    atomic_fetch_sub(&burials, 1);
    return NULL;
}

/* In a thread of its own: it may make calls to the provider. */
static void start_release(uint32_t owner)
{
    atomic_fetch_add(&burials, 1);
    if (!start_thread(run_release, (void *)(uintptr_t)owner))
        atomic_fetch_sub(&burials, 1);
}

/* ---- channels ---- */

static bool say_hello(struct channel *channel)
{
    struct hello hello = hello_ours();
    hello.pid = (uint64_t)getpid();
    hello.cryptoki[0] = helper.provider.version.major;
    hello.cryptoki[1] = helper.provider.version.minor;
    hello.rv = helper.rv;
    hello.bell = channel->bell.page != NULL;
    hello.serial = helper.provider.serialize;
    strncpy(hello.module, helper.module, LIMIT_NAME);
    memcpy(hello.error, helper.error, sizeof hello.error);
    write_hello(&channel->out, &hello);
    return channel_send(channel) == 0 && helper.rv == CKR_OK;
}

/* In the list, `old` becomes `new`: NULL is a free place. */
static void exchange_channel(const struct channel *old, struct channel *new)
{
    pthread_mutex_lock(&open_channels_lock);
    for (unsigned i = 0; i < LIMIT_CHANNELS; i++)
        if (open_channels[i] == old) {
            open_channels[i] = new;
            if (new)
                new->mark = &slate->marks[i], new->tallies = slate->tallies[i];
            break;
        }
    pthread_mutex_unlock(&open_channels_lock);
}

static bool is_hung_up(const struct channel *channel)
{
    struct pollfd p = {.fd = channel->from, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0;
}

/* Threads that a provider does not let go of serve nobody. */
static bool all_hung_up(void)
{
    bool all = true;
    pthread_mutex_lock(&open_channels_lock);
    for (unsigned i = 0; all && i < LIMIT_CHANNELS; i++)
        all = !open_channels[i] || is_hung_up(open_channels[i]);
    pthread_mutex_unlock(&open_channels_lock);
    return all;
}

static void channel_ended(struct channel *channel)
{
    uint64_t one = 1;
    uint32_t owner = channel->opener;
    exchange_channel(channel, NULL);
    channel_free(channel);
    release_owner(owner);
    atomic_fetch_sub(&channels, 1);
    if (write(bell, &one, sizeof one) < 0)
        return; /* rung already */
}

static void *run_channel(void *argument)
{
    struct channel *channel = argument;
    if (say_hello(channel))
        serve(channel, &helper.provider);
    channel_ended(channel);
    return NULL;
}

static void start_channel(struct channel *channel, uint32_t owner)
{
    channel->opener = owner;
    if (owner != STRANGER)
        share_hold(&share, owner);
    atomic_fetch_add(&channels, 1);
    exchange_channel(NULL, channel);
    channel_set_ticks(channel, 0, DEADLINE_SHORT);
    if (!start_thread(run_channel, channel))
        channel_ended(channel);
}

static void turn_away(struct channel *channel, const char *why)
{
    struct hello hello = hello_ours();
    hello.pid = (uint64_t)getpid();
    strncpy(hello.error, why, sizeof hello.error - 1);
    channel_set_ticks(channel, 0, DEADLINE_SHORT);
    channel_set_deadline(channel, DEADLINE_SHORT);
    write_hello(&channel->out, &hello);
    channel_send(channel);
    channel_free(channel);
}

/* ---- who is watched ---- */

static struct pollfd watched[FIRST_OWNER + OWNERS];
static struct {
    pid_t pid;
    uint32_t number;
} owners[OWNERS];
static unsigned n_owners;
static bool had_channel;
static bool had_stranger; /* a process that cannot be watched opened a channel */

static void call_roll(void)
{
    for (unsigned i = 0; i < n_owners; i++)
        atomic_store(&slate->pids[i], (uint32_t)owners[i].pid);
    atomic_store(&slate->served, n_owners);
}

/* The owner's number. */
static uint32_t watch_owner(pid_t pid)
{
    for (unsigned i = 0; i < n_owners; i++)
        if (owners[i].pid == pid)
            return owners[i].number;
    int fd = pid > 0 && n_owners < OWNERS ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (fd < 0) {
        had_stranger = true; /* of another pid namespace, or gone already: the door and the channels will tell */
        return STRANGER;
    }
    owners[n_owners].pid = pid;
    owners[n_owners].number = ++last_owner;
    watched[FIRST_OWNER + n_owners++] = (struct pollfd){.fd = fd, .events = POLLIN};
    share_hold(&share, last_owner);
    call_roll();
    return last_owner;
}

static void forget_dead_owners(void)
{
    for (unsigned i = 0; i < n_owners;) {
        if (!watched[FIRST_OWNER + i].revents) {
            i++;
            continue;
        }
        close(watched[FIRST_OWNER + i].fd);
        if (helper.provider.share)
            start_release(owners[i].number);
        n_owners--;
        owners[i] = owners[n_owners];
        watched[FIRST_OWNER + i] = watched[FIRST_OWNER + n_owners];
        call_roll();
    }
}

/* ---- the door ---- */

static void take_channel(void)
{
    struct hello hello;
    pid_t pid;
    int error;
    struct channel *channel = door_receive(helper.door, &hello, &pid, &error);
    if (error)
        watched[DOOR].fd = -1;
    if (!channel)
        return;
    had_channel = true;
    uint32_t owner = watch_owner(pid);
    channel->theirs = hello_width(&hello);
    if (!hello_fits(&hello))
        turn_away(channel, "this helper speaks version 1 of the protocol with a CK_ULONG of 4 or 8 bytes only");
    else if (atomic_load(&channels) >= MOST_CHANNELS)
        turn_away(channel, "too many channels");
    else
        start_channel(channel, owner);
}

static bool is_deserted(void)
{
    bool owners_gone = !helper.provider.share && had_channel && !had_stranger && n_owners == 0;
    bool channels_gone = watched[DOOR].fd < 0 && all_hung_up();
    return owners_gone || channels_gone;
}

/* Once the door is shut a channel may end while its thread is with the provider: nobody rings then. */
static int patience(void)
{
    if (watched[DOOR].fd < 0)
        return LAST_CALL_MS;
    return had_channel ? -1 : DEADLINE_BROKER;
}

static void receive_channels(void)
{
    watched[DOOR] = (struct pollfd){.fd = helper.door, .events = POLLIN};
    watched[BELL] = (struct pollfd){.fd = bell, .events = POLLIN};
    watched[TRACE] = (struct pollfd){.fd = helper.trace > helper.door ? helper.trace : -1, .events = POLLIN};
    while (!is_deserted()) {
        uint64_t rung;
        int n = poll(watched, FIRST_OWNER + n_owners, patience());
        if (n == 0 && !had_channel)
            return; /* nobody came */
        if (n <= 0)
            continue;
        if ((watched[BELL].revents | watched[DOOR].revents) & POLLNVAL)
            return; /* the provider has closed what is ours */
        if (watched[TRACE].revents && !trace_hear(helper.trace))
            watched[TRACE].fd = -1;
        if (watched[BELL].revents && read(bell, &rung, sizeof rung) < 0)
            continue;
        if (watched[DOOR].revents)
            take_channel();
        else
            forget_dead_owners();
    }
}

/* ---- loading ---- */

/*
 * A provider may hang while it is loaded, and the thread that loads it cannot look after anything else. So another ends the helper if
 * all who could have come have closed its door.
 */
static void *run_watch(void *unused)
{
    struct pollfd p = {.fd = helper.door, .events = POLLRDHUP};
    while (poll(&p, 1, -1) < 0)
        ;
    if (atomic_load(&ready))
        return unused;
    slate_note(SLATE_DESERTED);
    _exit(0);
}

/* Loaded and no more: a provider may hold a device from its first call on. Ends if nobody will come. */
static void wait_until_wanted(void)
{
    struct pollfd p = {.fd = helper.door, .events = POLLIN};
    char byte;
    slate_note(SLATE_SPARE);
    die_in(0);
    while (poll(&p, 1, -1) < 0)
        ;
    die_in(LOAD_SECONDS);
    if (recv(helper.door, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        _exit(0);
}

/* A spare one that cannot be used makes room for another try. */
static void load(void)
{
    struct provider *provider = &helper.provider;
    slate_note(SLATE_LOADING);
    die_in(LOAD_SECONDS);
    start_thread(run_watch, NULL);
    if (helper.rv == CKR_OK)
        helper.rv = provider_load(provider, helper.path, helper.error, sizeof helper.error);
    if (helper.spare && helper.rv != CKR_OK)
        _exit(EXIT_UNFIT);
    if (helper.spare)
        wait_until_wanted();
    slate_note(SLATE_INITIALIZING);
    if (helper.rv == CKR_OK)
        helper.rv = provider_initialize(provider, helper.path, helper.reserved, helper.error, sizeof helper.error);
    atomic_store(&ready, true);
    slate_note(SLATE_SERVING);
    die_in(0);
    if (helper.rv != CKR_OK)
        fprintf(stderr, "%s\n", helper.error);
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    take_reserved();
    renounce();
    take_rows();
    enter_sandbox();
    close_all_else();
    prepare_door();
    prepare_trace();
    serve_init();
    load();
    receive_channels();
    leave();
}
