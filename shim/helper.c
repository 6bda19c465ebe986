/*
 * p11host-helper: holds one provider for one application.
 *
 * Started by the broker with nothing but its door. Takes channels from the door, has each served, and ends when every process that
 * opened one has gone; one that is shared, when nobody has its door any more. It never unloads the provider and never returns from main.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bound.h"
#include "door.h"
#include "owners.h"
#include "pin.h"
#include "provider.h"
#include "rows.h"
#include "sandbox.h"
#include "serve.h"
#include "served.h"
#include "share.h"
#include "slate.h"
#include "thread.h"
#include "trace.h"
#include "view.h"
#include "watch.h"

enum {
    EXIT_USAGE = 100,
    EXIT_UNFIT = 101,
    EXIT_SYSTEM = 111,
    FAREWELL_SECONDS = 2,
    LOAD_SECONDS = DEADLINE_LONG / 1000,
    LAST_CALL_MS = 100,
    LAST_CALLS = 20,
    DOOR = 0, /* places in the poll set */
    BELL = 1,
    TRACE = 2, /* after the door: who watches comes before the first channel */
    FIRST_OWNER = 3,
};

static struct {
    const char *module, *path, *reserved;
    int door;
    int rows; /* a file with them, -1 for none */
    int view; /* a file that says which slots to show, -1 for all */
    bool spare; /* started before anybody asked for it */
    int profile, learn; /* as sandbox_enter takes them */
    int trace; /* where the broker says who watches, -1 for nowhere */
    struct provider provider;
    CK_RV rv; /* of loading */
    char error[LIMIT_ERROR + 1];
} helper = {.door = -1, .rows = -1, .view = -1, .profile = -1, .learn = -1, .trace = -1};

static struct share share; /* of the processes that use it, where there may be several */
static _Atomic bool ready; /* to serve */
static int bell = -1; /* rung when a channel ends */
static bool had_channel;
static struct pollfd watched[FIRST_OWNER + OWNERS];

/* ---- before anything hostile is in here ---- */

static void usage(void)
{
    fputs("usage: p11host-helper [--serialize] [--shared] [--rows FD] [--profile FD [--learn FD]] [--spare] [--pin FD] [--slate FD] [--trace FD] "
          "[--view FD] [--interval MS] [--no-wait] [--bound] --door FD --module NAME PROVIDER.so\n", stderr);
    _exit(EXIT_USAGE);
}

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"bound", no_argument, NULL, 'b'},
        {"door", required_argument, NULL, 'd'},
        {"interval", required_argument, NULL, 'i'},
        {"learn", required_argument, NULL, 'l'},
        {"module", required_argument, NULL, 'm'},
        {"no-wait", no_argument, NULL, 'N'},
        {"pin", required_argument, NULL, 'P'},
        {"profile", required_argument, NULL, 'p'},
        {"rows", required_argument, NULL, 'r'},
        {"serialize", no_argument, NULL, 's'},
        {"shared", no_argument, NULL, 'S'},
        {"slate", required_argument, NULL, 'n'},
        {"spare", no_argument, NULL, 'w'},
        {"trace", required_argument, NULL, 't'},
        {"view", required_argument, NULL, 'v'},
        {0},
    };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'b': helper.provider.bound = true; break;
        case 'd': helper.door = atoi(optarg); break;
        case 'i': watch_interval((uint32_t)atoi(optarg)); break;
        case 'l': helper.learn = atoi(optarg); break;
        case 'm': helper.module = optarg; break;
        case 'N': watch_without_wait(); break;
        case 'P': pin_read(atoi(optarg)); break;
        case 'p': helper.profile = atoi(optarg); break;
        case 'r': helper.rows = atoi(optarg); break;
        case 's': helper.provider.serialize = true; break;
        case 'S': helper.provider.share = &share; break;
        case 'n': slate_use(atoi(optarg)); break;
        case 't': helper.trace = atoi(optarg); break;
        case 'v': helper.view = atoi(optarg); break;
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

/* Without it nothing may be shown. */
static void take_view(void)
{
    static uint8_t packed[LIMIT_VIEW + 1];
    int error = 0;
    if (helper.view < 0)
        return;
    ssize_t len = pread(helper.view, packed, sizeof packed, 0);
    helper.provider.view = len < 0 ? NULL : view_decode(packed, (size_t)len, &error);
    if (!helper.provider.view) {
        snprintf(helper.error, sizeof helper.error, "the module's view cannot be used: %s", strerror(len < 0 ? errno : -error));
        helper.rv = CKR_GENERAL_ERROR;
    }
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
    bell = served_init(&helper.provider);
    owners_init(&helper.provider, &watched[FIRST_OWNER]);
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
    return served_count() || owners_are_busy() || bound_is_busy();
}

/* A card or HSM is left in order, if nothing is in progress and the provider does it in time. */
static _Noreturn void leave(void)
{
    watch_end();
    for (int i = 0; i < LAST_CALLS && (is_busy() || watch_is_busy()); i++)
        poll(NULL, 0, LAST_CALL_MS / LAST_CALLS);
    bool idle = helper.rv == CKR_OK && !is_busy() && !watch_is_busy();
    slate_note(SLATE_LEAVING);
    if (idle && helper.provider.list.C_Finalize && die_in(FAREWELL_SECONDS))
        helper.provider.list.C_Finalize(NULL);
    _exit(0);
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
    uint32_t owner = owners_watch(pid);
    channel->theirs = hello_width(&hello);
    if (!hello_fits(&hello))
        served_turn_away(channel, "this helper speaks version 1 of the protocol with a CK_ULONG of 4 or 8 bytes only");
    else if (served_is_full())
        served_turn_away(channel, "too many channels");
    else
        served_start(channel, owner);
}

static bool is_deserted(void)
{
    bool owners_gone = !helper.provider.share && had_channel && !owners_had_stranger() && owners_count() == 0;
    bool channels_gone = watched[DOOR].fd < 0 && served_all_hung_up();
    return owners_gone || channels_gone;
}

/* Once the door is shut a channel may end while its thread is with the provider: nobody rings then. */
static int patience(void)
{
    if (watched[DOOR].fd < 0)
        return LAST_CALL_MS;
    return had_channel ? -1 : DEADLINE_BROKER;
}

static void hear_broker(void)
{
    bool look = false;
    if (!trace_hear(helper.trace, &look))
        watched[TRACE].fd = -1;
    if (!look)
        return;
    watch_prompt();
    bound_prompt(&helper.provider);
}

static void receive_channels(void)
{
    watched[DOOR] = (struct pollfd){.fd = helper.door, .events = POLLIN};
    watched[BELL] = (struct pollfd){.fd = bell, .events = POLLIN};
    watched[TRACE] = (struct pollfd){.fd = helper.trace > helper.door ? helper.trace : -1, .events = POLLIN};
    while (!is_deserted()) {
        uint64_t rung;
        int n = poll(watched, FIRST_OWNER + owners_count(), patience());
        if (n == 0 && !had_channel)
            return; /* nobody came */
        if (n <= 0)
            continue;
        if ((watched[BELL].revents | watched[DOOR].revents) & POLLNVAL)
            return; /* the provider has closed what is ours */
        if (watched[TRACE].revents)
            hear_broker();
        if (watched[BELL].revents && read(bell, &rung, sizeof rung) < 0)
            continue;
        if (watched[DOOR].revents)
            take_channel();
        else
            owners_forget_dead();
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

static void make_hello(void)
{
    struct hello hello = hello_ours();
    hello.pid = (uint64_t)getpid();
    hello.cryptoki[0] = helper.provider.version.major;
    hello.cryptoki[1] = helper.provider.version.minor;
    hello.rv = helper.rv;
    hello.serial = helper.provider.serialize;
    strncpy(hello.module, helper.module, LIMIT_NAME);
    memcpy(hello.error, helper.error, sizeof hello.error);
    served_greet_with(&hello);
}

/* A spare one that cannot be used makes room for another try. */
static void load(void)
{
    struct provider *provider = &helper.provider;
    slate_note(SLATE_LOADING);
    die_in(LOAD_SECONDS);
    thread_start(run_watch, NULL);
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
    take_view();
    enter_sandbox();
    close_all_else();
    prepare_door();
    prepare_trace();
    serve_init();
    load();
    make_hello();
    receive_channels();
    leave();
}
