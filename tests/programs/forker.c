/*
 * forker WAY [MODULE]: forks a child while the module, if there is one, is in use, and waits for the child. The child
 *     exec      runs /bin/true,
 *     exit      ends at once,
 *     finalize  calls C_Finalize and ends.
 * Without a module it does the same but for the calls.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

static int live_as_child(const char *way, CK_FUNCTION_LIST *list)
{
    if (!strcmp(way, "exec"))
        execl("/bin/true", "true", (char *)NULL);
    if (!strcmp(way, "finalize") && list)
        return list->C_Finalize(NULL) == CKR_OK ? 0 : 1;
    return 0;
}

int main(int argc, char **argv)
{
    int status;
    check(argc >= 2, "usage");
    CK_FUNCTION_LIST *list = argc > 2 ? load(argv[2]) : NULL;
    CK_SESSION_HANDLE session = list ? begin(list) : 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(live_as_child(argv[1], list));
    check(waitpid(pid, &status, 0) == pid && status == 0, "child");
    return list && list->C_CloseSession(session) != CKR_OK ? 1 : 0;
}
