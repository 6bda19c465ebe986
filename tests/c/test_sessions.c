/* The table of sessions: what is put is found, what is taken is not, and a child finds its parent's as it was at the fork. */
#include <sys/wait.h>
#include <unistd.h>

#include "sessions.h"
#include "test.h"

enum { MANY = 5000, SLOTS = 7, FORKS = 200, STEADY = 100 };

static struct sessions sessions;

static struct session numbered(CK_ULONG handle)
{
    return (struct session){.handle = handle, .slot = handle % SLOTS, .flags = 4 + handle % 2, .life = 1, .server = handle + 7};
}

static void begin(void)
{
    sessions_finish(&sessions);
    for (CK_ULONG i = 1; i <= MANY; i++) {
        struct session session = numbered(i);
        expect(sessions_put(&sessions, &session));
    }
}

static void expect_numbered(CK_ULONG handle)
{
    struct session found = {0}, expected = numbered(handle);
    test_case("session %lu", handle);
    expect(sessions_get(&sessions, handle, &found));
    expect_number(expected.handle, found.handle);
    expect_number(expected.slot, found.slot);
    expect_number(expected.flags, found.flags);
    expect_number(expected.server, found.server);
}

static void what_is_put_is_found(void)
{
    begin();
    for (CK_ULONG i = 1; i <= MANY; i++)
        expect_numbered(i);
}

static void what_is_taken_is_gone(void)
{
    struct session session;
    begin();
    for (CK_ULONG i = 2; i <= MANY; i += 2)
        expect(sessions_take(&sessions, i, &session) && session.handle == i);
    for (CK_ULONG i = 1; i <= MANY; i += 2)
        expect_numbered(i);
    for (CK_ULONG i = 2; i <= MANY; i += 2)
        expect(!sessions_get(&sessions, i, &session) && !sessions_take(&sessions, i, &session));
}

static void handles_that_are_none_are_no_sessions(void)
{
    struct session session, none = {.handle = 0}, all_ones = {.handle = CK_UNAVAILABLE_INFORMATION};
    begin();
    expect(!sessions_put(&sessions, &none));
    expect(!sessions_put(&sessions, &all_ones));
    expect(!sessions_get(&sessions, 0, &session));
    expect(!sessions_get(&sessions, CK_UNAVAILABLE_INFORMATION, &session));
}

static void coming_and_going_takes_no_more_room(void)
{
    struct session session;
    sessions_finish(&sessions);
    for (CK_ULONG i = 1; i <= (CK_ULONG)MANY * 20; i++) {
        session = numbered(i);
        expect(sessions_put(&sessions, &session));
        expect(sessions_take(&sessions, i, &session));
    }
    expect(!sessions_find_of(&sessions, 1, &session));
}

static void a_slot_is_forgotten(void)
{
    struct session session;
    begin();
    sessions_forget_slot(&sessions, 3);
    expect(!sessions_find(&sessions, 3, 1, false, &session));
    expect(sessions_find(&sessions, 4, 1, false, &session));
    expect(!sessions_get(&sessions, SLOTS + 3, &session));
}

static void others_are_told_apart(void)
{
    struct session session = {.handle = 5, .slot = 2, .life = 8}, found;
    sessions_finish(&sessions);
    expect(sessions_put(&sessions, &session));
    expect(!sessions_find(&sessions, 2, 8, true, &found));
    expect(sessions_find(&sessions, 2, 9, true, &found));
    expect(!sessions_find_of(&sessions, 9, &found));
}

static void the_first_to_open_a_session_settles_it(void)
{
    begin();
    expect_number(50, sessions_settle(&sessions, 3, 2, 50));
    expect_number(50, sessions_settle(&sessions, 3, 2, 60));
    expect_number(70, sessions_settle(&sessions, 3, 4, 70));
    expect_number(0, sessions_settle(&sessions, MANY + 1, 2, 50));
}

/* ---- in a child ---- */

static atomic_bool done;

/* Opens and closes without a pause beside those that stay. */
static void *come_and_go(void *unused)
{
    for (CK_ULONG i = 2 * STEADY + 1; !atomic_load(&done); i++) {
        struct session session = numbered(i);
        sessions_put(&sessions, &session);
        sessions_take(&sessions, i - STEADY, &session);
        if (i % MANY == 0)
            sessions_forget_slot(&sessions, SLOTS - 1);
    }
    return unused;
}

static int live_as_child(void)
{
    static struct sessions own;
    struct session session;
    if (!sessions_inherit(&own, &sessions))
        return 1;
    for (CK_ULONG i = 1; i <= STEADY; i++)
        if (i % SLOTS != SLOTS - 1 && (!sessions_get(&own, i, &session) || session.slot != i % SLOTS || session.life != 0))
            return 2;
    /* Whatever else is there is whole. */
    while (sessions_find_of(&own, 0, &session)) {
        if (session.slot != session.handle % SLOTS || session.flags != 4 + session.handle % 2)
            return 3;
        sessions_take(&own, session.handle, &session);
    }
    return 0;
}

static void a_child_finds_what_there_was(void)
{
    pthread_t thread;
    sessions_finish(&sessions);
    atomic_store(&done, false);
    for (CK_ULONG i = 1; i <= STEADY; i++) {
        struct session session = numbered(i);
        expect(sessions_put(&sessions, &session));
    }
    expect(pthread_create(&thread, NULL, come_and_go, NULL) == 0);
    for (int i = 0; i < FORKS; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            alarm(30);
            _exit(live_as_child());
        }
        expect(waitpid(pid, &status, 0) == pid);
        expect_number(0, status);
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    sessions_finish(&sessions);
}

static const struct test tests[] = {
    TEST(what_is_put_is_found, "a session that was put is found by its handle, among many"),
    TEST(what_is_taken_is_gone, "one that was taken is not found, and the others are"),
    TEST(handles_that_are_none_are_no_sessions, "0 and all ones name no session"),
    TEST(coming_and_going_takes_no_more_room, "sessions may come and go for ever"),
    TEST(a_slot_is_forgotten, "all sessions of one slot are forgotten, and no others"),
    TEST(others_are_told_apart, "whose a session is is told"),
    TEST(the_first_to_open_a_session_settles_it, "of two threads that open a session the first is right"),
    TEST(a_child_finds_what_there_was, "a child forked at any moment finds its parent's sessions, each whole"),
};

TEST_MAIN(tests)
