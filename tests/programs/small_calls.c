/*
 * small_calls MODULE COUNT: calls C_GetSessionInfo COUNT times between two C_GetSlotInfo, with one thread.
 * The first calls, until the peers know each other, come before.
 */
#include "load.h"

enum { WARM = 100 };

int main(int argc, char **argv)
{
    check(argc == 3, "usage");
    CK_FUNCTION_LIST *list = load(argv[1]);
    CK_SESSION_HANDLE session = begin(list);
    CK_SLOT_ID slot = first_slot(list);
    CK_SESSION_INFO info;
    CK_SLOT_INFO slot_info;
    for (int i = 0; i < WARM; i++)
        check(list->C_GetSessionInfo(session, &info) == CKR_OK, "C_GetSessionInfo");
    check(list->C_GetSlotInfo(slot, &slot_info) == CKR_OK, "C_GetSlotInfo");
    for (int i = atoi(argv[2]); i > 0; i--)
        check(list->C_GetSessionInfo(session, &info) == CKR_OK, "C_GetSessionInfo");
    check(list->C_GetSlotInfo(slot, &slot_info) == CKR_OK, "C_GetSlotInfo");
    return list->C_Finalize(NULL) == CKR_OK ? 0 : 1;
}
