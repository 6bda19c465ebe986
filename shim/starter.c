/*
 * p11host-start: detaches itself and becomes the broker, `p11host serve --on-demand`.
 *
 * Run by the shim inside somebody's program; everything inherited from there is let go: descriptors, terminal,
 * signal mask and dispositions.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void let_go_of_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void let_go_of_descriptors(void)
{
    close_range(3, ~0U, 0);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
}

/* The command named by the environment, the interpreter this was built with, whatever the path has. */
static void become_broker(void)
{
    const char *command = getenv("P11HOST_COMMAND");
    if (command)
        execl(command, command, "serve", "--on-demand", (char *)NULL);
    execl(PYTHON, PYTHON, "-m", "p11host", "serve", "--on-demand", (char *)NULL);
    execlp("p11host", "p11host", "serve", "--on-demand", (char *)NULL);
    _exit(127);
}

int main(void)
{
    let_go_of_signals();
    setsid();
    let_go_of_descriptors();
    if (chdir("/") != 0)
        _exit(126);
    become_broker();
}
