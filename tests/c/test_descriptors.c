/* Descriptors in somebody else's process: a number that the program has reused is the program's. */
#include <sys/socket.h>
#include <unistd.h>

#include "descriptors.h"
#include "fd_count.h"
#include "test.h"

static int ours[2], program[2];

static void begin(void)
{
    make_pair(SOCK_STREAM, ours);
    make_pair(SOCK_STREAM, program);
    descriptor_remember(ours[0]);
}

static void end(void)
{
    descriptor_forget(ours[0]);
    for (int i = 0; i < 2; i++) {
        close(ours[i]);
        close(program[i]);
    }
}

/* The program closes a number that is not its own, and gets it for something else. */
static void reuse(void)
{
    expect_number(ours[0], dup2(program[0], ours[0]));
}

static bool is_at_its_end(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static void ours_are_shut_down(void)
{
    begin();
    descriptors_shut_down();
    expect(is_at_its_end(ours[1]));
    expect(!is_at_its_end(program[1]));
    end();
}

static void a_reused_number_is_not_shut_down(void)
{
    begin();
    reuse();
    descriptors_shut_down();
    expect(!is_at_its_end(program[1]));
    end();
}

static void a_reused_number_is_not_closed(void)
{
    begin();
    reuse();
    descriptors_close_inherited();
    expect(is_open(ours[0]));
    end();
}

static void a_closed_number_is_nobody_s(void)
{
    begin();
    close(ours[0]);
    descriptors_shut_down();
    descriptors_close_inherited();
    expect(is_at_its_end(ours[1]));
    end();
}

static const struct test tests[] = {
    TEST(ours_are_shut_down, "what is remembered is shut down, and nothing else"),
    TEST(a_reused_number_is_not_shut_down, "a number that the program has reused is left alone"),
    TEST(a_reused_number_is_not_closed, "in a child too"),
    TEST(a_closed_number_is_nobody_s, "a number that is closed by now does no harm"),
};

TEST_MAIN(tests)
