/*
 * A provider whose slots are on a board: a file in memory that whoever tests it changes (board.h, tests/board.py).
 *
 *     READERS_BOARD=PATH   the board
 *     READERS_WAIT=HOW     C_WaitForSlotEvent: `none` is not supported, `good` tells each change once, `never` returns, `at-once` names the first slot
 *                          at once for ever, `wrong` waits as it should and names another slot, `nowhere` names one that there is not, at once,
 *                          `null` is no function, `locked` waits as it should and keeps all other calls waiting as well
 *     READERS_SLOW=1       C_Initialize stands still as other calls do
 *
 * C_Finalize wakes a wait. Slots are numbered from 100; a token's serial number is the number on the board.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "board.h"
#include "cryptoki.h"
#include "frame.h"

enum { FIRST_SLOT = 100, NOWHERE = 9999, TICK_MS = 100 };

static struct board *board;
static const char *how = "none";
static atomic_bool over;
static uint32_t told[BOARD_SLOTS]; /* the change of each slot that a wait told last */
static pthread_mutex_t the_lock = PTHREAD_MUTEX_INITIALIZER;

static int is(const char *mode)
{
    return !strcmp(how, mode);
}

static CK_RV initialize(void *args)
{
    (void)args;
    board = board_open(getenv("READERS_BOARD"));
    if (!board)
        return CKR_GENERAL_ERROR;
    while (getenv("READERS_SLOW") && atomic_load(&board->stuck))
        usleep(1000);
    for (uint32_t i = 0; i < BOARD_SLOTS; i++)
        told[i] = atomic_load(&board->slots[i].changes);
    return CKR_OK;
}

static CK_RV end(void *reserved)
{
    atomic_store(&over, true);
    board_ring(board);
    return nothing_to_do(reserved);
}

/* ---- slots ---- */

static void die_in(enum board_call call)
{
    uint32_t deadly = call;
    if (atomic_compare_exchange_strong(&board->deadly, &deadly, BOARD_NO_CALL))
        abort();
}

static void begin_call(enum board_call call)
{
    die_in(call);
    while (atomic_load(&board->stuck))
        usleep(1000);
    if (is("locked"))
        pthread_mutex_lock(&the_lock);
}

static CK_RV end_call(CK_RV rv)
{
    if (is("locked"))
        pthread_mutex_unlock(&the_lock);
    return rv;
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    begin_call(BOARD_LIST);
    CK_ULONG room = *count, n = 0, all = atomic_load(&board->n_slots);
    atomic_fetch_add(&board->looks, 1);
    for (CK_ULONG i = 0; i < all; i++) {
        if (present && !atomic_load(&board->slots[i].token))
            continue;
        if (slots && n < room)
            slots[n] = FIRST_SLOT + i;
        n++;
    }
    *count = n;
    return end_call(slots && n > room ? CKR_BUFFER_TOO_SMALL : CKR_OK);
}

static struct board_slot *find(CK_SLOT_ID slot)
{
    return slot >= FIRST_SLOT && slot < FIRST_SLOT + atomic_load(&board->n_slots) ? &board->slots[slot - FIRST_SLOT] : NULL;
}

static CK_RV get_slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    begin_call(BOARD_SLOT);
    const struct board_slot *found = find(slot);
    memset(info, 0, sizeof *info);
    pad(info->slotDescription, sizeof info->slotDescription, "reader");
    pad(info->manufacturerID, sizeof info->manufacturerID, "readers");
    info->flags = CKF_REMOVABLE_DEVICE | CKF_HW_SLOT;
    if (found && atomic_load(&found->token))
        info->flags |= CKF_TOKEN_PRESENT;
    return end_call(found ? CKR_OK : CKR_SLOT_ID_INVALID);
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    char serial[17];
    begin_call(BOARD_TOKEN);
    const struct board_slot *found = find(slot);
    uint32_t token = found ? atomic_load(&found->token) : 0;
    memset(info, 0, sizeof *info);
    pad(info->label, sizeof info->label, "card");
    pad(info->manufacturerID, sizeof info->manufacturerID, "readers");
    pad(info->model, sizeof info->model, "card");
    snprintf(serial, sizeof serial, "%u", token);
    pad(info->serialNumber, sizeof info->serialNumber, serial);
    pad(info->utcTime, sizeof info->utcTime, "");
    info->flags = CKF_TOKEN_INITIALIZED;
    return end_call(!found ? CKR_SLOT_ID_INVALID : token ? CKR_OK : CKR_TOKEN_NOT_PRESENT);
}

/* ---- events ---- */

static int take_change(CK_SLOT_ID *slot)
{
    for (uint32_t i = 0; i < atomic_load(&board->n_slots); i++) {
        uint32_t changes = atomic_load(&board->slots[i].changes);
        if (changes == told[i])
            continue;
        told[i] = changes;
        *slot = FIRST_SLOT + i;
        return 1;
    }
    return 0;
}

static CK_RV wait_well(CK_FLAGS flags, CK_SLOT_ID *slot)
{
    for (;;) {
        uint32_t rung = atomic_load(&board->bell);
        die_in(BOARD_WAIT);
        if (atomic_load(&over))
            return CKR_CRYPTOKI_NOT_INITIALIZED;
        if (take_change(slot))
            return CKR_OK;
        if (flags & CKF_DONT_BLOCK)
            return CKR_NO_EVENT;
        board_await(board, rung, TICK_MS);
    }
}

static CK_RV wait_for_slot_event(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
    (void)reserved;
    atomic_fetch_add(&board->waits, 1);
    if (is("none"))
        return CKR_FUNCTION_NOT_SUPPORTED;
    if (is("at-once") || is("nowhere")) {
        *slot = is("nowhere") ? NOWHERE : FIRST_SLOT;
        return flags & CKF_DONT_BLOCK ? CKR_NO_EVENT : CKR_OK;
    }
    while (is("never") && !(flags & CKF_DONT_BLOCK))
        pause();
    if (is("locked"))
        pthread_mutex_lock(&the_lock);
    CK_RV rv = wait_well(flags, slot);
    if (is("wrong") && rv == CKR_OK)
        *slot = FIRST_SLOT + (*slot == FIRST_SLOT);
    return end_call(rv);
}

static void fill(CK_FUNCTION_LIST *list)
{
    const char *wish = getenv("READERS_WAIT");
    how = wish ? wish : how;
    list->C_Initialize = initialize;
    list->C_Finalize = end;
    list->C_GetSlotList = get_slot_list;
    list->C_GetSlotInfo = get_slot_info;
    list->C_GetTokenInfo = get_token_info;
    list->C_WaitForSlotEvent = is("null") ? NULL : wait_for_slot_event;
}
