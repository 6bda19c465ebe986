/*
 * small_calls MODULE COUNT: calls C_GetSessionInfo COUNT times with one thread, and marks the beginning and the end by writes
 * to no descriptor. The first calls, until the peers know each other, come before.
 */
#include <unistd.h>

#include "load.h"

enum { WARM = 100 };

static void mark(const char *what)
{
    check(write(-1, what, strlen(what)) < 0, what);
}

int main(int argc, char **argv)
{
    check(argc == 3, "usage");
    CK_FUNCTION_LIST *list = load(argv[1]);
    CK_SESSION_HANDLE session = begin(list);
    CK_SESSION_INFO info;
    for (int i = 0; i < WARM; i++)
        check(list->C_GetSessionInfo(session, &info) == CKR_OK, "C_GetSessionInfo");
    mark("begin");
    for (int i = atoi(argv[2]); i > 0; i--)
        check(list->C_GetSessionInfo(session, &info) == CKR_OK, "C_GetSessionInfo");
    mark("end");
    return list->C_Finalize(NULL) == CKR_OK ? 0 : 1;
}
