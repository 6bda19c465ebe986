/* The mark by which a process knows that memory is its own, where no page is wiped at a fork. */
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mark.h"
#include "test.h"

enum { CHECKERS = 4, CHECKS = 2000 };

static struct mark mark;

static void forbid_timers(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_SIGPENDING, &limit);
    limit.rlim_cur = 0;
    setrlimit(RLIMIT_SIGPENDING, &limit);
}

static void allow_timers(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_SIGPENDING, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_SIGPENDING, &limit);
}

/* What a child makes of the mark. */
static bool is_a_childs(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(mark_is_ours(&mark));
    expect(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status) != 0;
}

static void a_timer_is_not_a_childs(void)
{
    mark_make(&mark);
    expect(mark.has_timer);
    expect(mark_is_ours(&mark));
    expect(!is_a_childs());
    mark_drop(&mark);
    expect(!mark_is_ours(&mark));
}

static void without_timers_the_pid_is_not_a_childs(void)
{
    forbid_timers();
    mark_make(&mark);
    allow_timers();
    expect(!mark.has_timer && mark.begun != 0);
    expect(mark_is_ours(&mark));
    expect(!is_a_childs());
    mark_drop(&mark);
}

/* As in a namespace of its own, or when all pids have been given out. */
static bool is_ours_with_the_same_pid(struct mark theirs)
{
    theirs.pid = getpid();
    return mark_is_ours(&theirs);
}

static void await_the_next_tick(void)
{
    struct timespec tick = {.tv_nsec = 2000000000L / sysconf(_SC_CLK_TCK)};
    nanosleep(&tick, NULL);
}

static void a_process_of_the_same_pid_began_at_another_time(void)
{
    int status;
    forbid_timers();
    mark_make(&mark);
    allow_timers();
    await_the_next_tick();
    pid_t pid = fork();
    if (pid == 0)
        _exit(is_ours_with_the_same_pid(mark));
    expect(waitpid(pid, &status, 0) == pid);
    expect_number(0, status);
    mark.begun = 0;
    expect(mark_is_ours(&mark)); /* where nobody tells when a process began, the pid has to do */
}

static void *check_often(void *ret_good)
{
    bool good = true;
    for (int i = 0; i < CHECKS; i++)
        good = good && mark_is_ours(&mark);
    *(bool *)ret_good = good;
    return NULL;
}

static void many_threads_may_ask(void)
{
    pthread_t threads[CHECKERS];
    bool good[CHECKERS];
    for (int timers = 0; timers < 2; timers++) {
        if (!timers)
            forbid_timers();
        mark_make(&mark);
        allow_timers();
        for (int i = 0; i < CHECKERS; i++)
            expect(pthread_create(&threads[i], NULL, check_often, &good[i]) == 0);
        for (int i = 0; i < CHECKERS; i++) {
            pthread_join(threads[i], NULL);
            expect(good[i]);
        }
        mark_drop(&mark);
    }
}

static const struct test tests[] = {
    TEST(a_timer_is_not_a_childs, "a child has no timer of its parent's, and so is not taken for it"),
    TEST(without_timers_the_pid_is_not_a_childs, "where there can be no timer a child has another pid"),
    TEST(a_process_of_the_same_pid_began_at_another_time, "of two processes with one pid each knows when it began"),
    TEST(many_threads_may_ask, "threads of the process that made a mark all find it theirs"),
};

TEST_MAIN(tests)
