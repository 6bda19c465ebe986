/*
 * A provider that does not notice when a token is pulled, or another pushed in its place: its sessions go on with what is there then.
 *
 *     READERS_BOARD=PATH   what is in its slots (board.h); who asks about slots and tokens is told the truth
 *     BLIND_LOG=PATH       a line for each call with a session: its name, the session, the token that it reached
 *     BLIND_STUBBORN=1     C_CloseSession fails
 *
 * A new session gets the smallest number that is free. C_GenerateRandom gives the token's serial number. The user's login is the slot's, as long as
 * a session is open there. Each token has one key: two tokens' keys are called the same and have the same handle.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "board.h"
#include "cryptoki.h"
#include "frame.h"

enum { FIRST_SLOT = 100, SESSIONS = 64, KEY = 7 };

static struct board *board;
static FILE *written;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static CK_SLOT_ID opened_in[SESSIONS]; /* 0 is a free number; the session with the number 1 is the first */
static unsigned char logged_in[BOARD_SLOTS];

static CK_RV initialize(void *args)
{
    (void)args;
    board = board_open(getenv("READERS_BOARD"));
    written = fopen(getenv("BLIND_LOG") ? getenv("BLIND_LOG") : "/dev/null", "ae");
    return board && written ? CKR_OK : CKR_GENERAL_ERROR;
}

/* ---- slots ---- */

static struct board_slot *find(CK_SLOT_ID slot)
{
    return slot >= FIRST_SLOT && slot < FIRST_SLOT + atomic_load(&board->n_slots) ? &board->slots[slot - FIRST_SLOT] : NULL;
}

static uint32_t token_in(CK_SLOT_ID slot)
{
    return atomic_load(&find(slot)->token);
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    CK_ULONG room = *count, n = 0;
    for (CK_SLOT_ID slot = FIRST_SLOT; find(slot); slot++) {
        if (present && !token_in(slot))
            continue;
        if (slots && n < room)
            slots[n] = slot;
        n++;
    }
    *count = n;
    return slots && n > room ? CKR_BUFFER_TOO_SMALL : CKR_OK;
}

static CK_RV get_slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    if (!find(slot))
        return CKR_SLOT_ID_INVALID;
    memset(info, 0, sizeof *info);
    pad(info->slotDescription, sizeof info->slotDescription, "reader");
    pad(info->manufacturerID, sizeof info->manufacturerID, "blind");
    info->flags = CKF_REMOVABLE_DEVICE | CKF_HW_SLOT | (token_in(slot) ? CKF_TOKEN_PRESENT : 0);
    return CKR_OK;
}

/* What is flagged changes with each login, as it may. */
static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    char serial[17];
    if (!find(slot))
        return CKR_SLOT_ID_INVALID;
    if (!token_in(slot))
        return CKR_TOKEN_NOT_PRESENT;
    memset(info, 0, sizeof *info);
    snprintf(serial, sizeof serial, "%u", token_in(slot));
    pad(info->label, sizeof info->label, "card");
    pad(info->manufacturerID, sizeof info->manufacturerID, "blind");
    pad(info->model, sizeof info->model, "card");
    pad(info->serialNumber, sizeof info->serialNumber, serial);
    pad(info->utcTime, sizeof info->utcTime, "");
    info->flags = CKF_TOKEN_INITIALIZED | (logged_in[slot - FIRST_SLOT] ? CKF_WRITE_PROTECTED : CKF_USER_PIN_COUNT_LOW);
    return CKR_OK;
}

/* ---- sessions ---- */

static void note(const char *name, CK_SESSION_HANDLE session, CK_SLOT_ID slot)
{
    fprintf(written, "%s %lu %u\n", name, session, token_in(slot));
    fflush(written);
}

/* Under the lock, which is kept for end_call. 0 if there is no such session. */
static CK_SLOT_ID begin_call(const char *name, CK_SESSION_HANDLE session)
{
    pthread_mutex_lock(&lock);
    CK_SLOT_ID slot = session && session <= SESSIONS ? opened_in[session - 1] : 0;
    if (slot)
        note(name, session, slot);
    return slot;
}

static CK_RV end_call(CK_SLOT_ID slot)
{
    pthread_mutex_unlock(&lock);
    return slot ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    CK_SESSION_HANDLE number = 0;
    (void)flags, (void)application, (void)notify;
    if (!find(slot))
        return CKR_SLOT_ID_INVALID;
    if (!token_in(slot))
        return CKR_TOKEN_NOT_PRESENT;
    pthread_mutex_lock(&lock);
    while (number < SESSIONS && opened_in[number])
        number++;
    if (number < SESSIONS) {
        opened_in[number] = slot;
        *session = number + 1;
        note("C_OpenSession", *session, slot);
    }
    pthread_mutex_unlock(&lock);
    return number < SESSIONS ? CKR_OK : CKR_SESSION_COUNT;
}

/* Under the lock: with the last one the login ends. */
static void close_one(CK_SESSION_HANDLE session, CK_SLOT_ID slot)
{
    unsigned others = 0;
    opened_in[session - 1] = 0;
    for (unsigned i = 0; i < SESSIONS; i++)
        others += opened_in[i] == slot;
    logged_in[slot - FIRST_SLOT] &= others > 0;
}

static CK_RV close_session(CK_SESSION_HANDLE session)
{
    CK_SLOT_ID slot = begin_call("C_CloseSession", session);
    bool stubborn = getenv("BLIND_STUBBORN");
    if (slot && !stubborn)
        close_one(session, slot);
    CK_RV rv = end_call(slot);
    return stubborn ? CKR_DEVICE_ERROR : rv;
}

static CK_RV close_all_sessions(CK_SLOT_ID slot)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < SESSIONS; i++)
        if (opened_in[i] == slot)
            close_one(i + 1, slot);
    pthread_mutex_unlock(&lock);
    return CKR_OK;
}

static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    CK_SLOT_ID slot = begin_call("C_GetSessionInfo", session);
    memset(info, 0, sizeof *info);
    info->slotID = slot;
    info->flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    info->state = slot && logged_in[slot - FIRST_SLOT] ? CKS_RW_USER_FUNCTIONS : CKS_RW_PUBLIC_SESSION;
    return end_call(slot);
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG len)
{
    CK_SLOT_ID slot = begin_call("C_Login", session);
    (void)user, (void)pin, (void)len;
    bool again = slot && logged_in[slot - FIRST_SLOT];
    if (slot)
        logged_in[slot - FIRST_SLOT] = 1;
    CK_RV rv = end_call(slot);
    return again ? CKR_USER_ALREADY_LOGGED_IN : rv;
}

static CK_RV generate_random(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG len)
{
    CK_SLOT_ID slot = begin_call("C_GenerateRandom", session);
    if (slot)
        memset(data, (int)token_in(slot), len);
    return end_call(slot);
}

/* ---- the key ---- */

static CK_RV find_objects_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count)
{
    (void)template, (void)count;
    return end_call(begin_call("C_FindObjectsInit", session));
}

/* A search is over when it has found the key. */
static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, CK_ULONG most, CK_ULONG *count)
{
    CK_SLOT_ID slot = begin_call("C_FindObjects", session);
    *count = slot && most ? 1 : 0;
    if (*count)
        *objects = KEY;
    return end_call(slot);
}

static CK_RV find_objects_final(CK_SESSION_HANDLE session)
{
    return end_call(begin_call("C_FindObjectsFinal", session));
}

static void give(CK_ATTRIBUTE *attribute)
{
    static CK_BBOOL token = CK_TRUE;
    static CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    static CK_KEY_TYPE type = CKK_RSA;
    static CK_BYTE id = 1;
    struct {
        CK_ATTRIBUTE_TYPE type;
        void *value;
        CK_ULONG len;
    } const all[] = {{CKA_TOKEN, &token, sizeof token}, {CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_ID, &id, 1}};
    CK_ULONG room = attribute->ulValueLen;
    attribute->ulValueLen = CK_UNAVAILABLE_INFORMATION;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].type == attribute->type && room >= all[i].len) {
            memcpy(attribute->pValue, all[i].value, all[i].len);
            attribute->ulValueLen = all[i].len;
        }
}

static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    CK_SLOT_ID slot = begin_call("C_GetAttributeValue", session);
    for (CK_ULONG i = 0; i < count; i++)
        give(&template[i]);
    CK_RV rv = end_call(slot);
    return rv != CKR_OK ? rv : object == KEY ? CKR_ATTRIBUTE_TYPE_INVALID : CKR_OBJECT_HANDLE_INVALID;
}

static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    (void)mechanism;
    CK_RV rv = end_call(begin_call("C_SignInit", session));
    return rv != CKR_OK ? rv : key == KEY ? CKR_OK : CKR_KEY_HANDLE_INVALID;
}

static void fill(CK_FUNCTION_LIST *list)
{
    list->C_Initialize = initialize;
    list->C_GetSlotList = get_slot_list;
    list->C_GetSlotInfo = get_slot_info;
    list->C_GetTokenInfo = get_token_info;
    list->C_OpenSession = open_session;
    list->C_CloseSession = close_session;
    list->C_CloseAllSessions = close_all_sessions;
    list->C_GetSessionInfo = get_session_info;
    list->C_Login = login;
    list->C_GenerateRandom = generate_random;
    list->C_FindObjectsInit = find_objects_init;
    list->C_FindObjects = find_objects;
    list->C_FindObjectsFinal = find_objects_final;
    list->C_GetAttributeValue = get_attribute_value;
    list->C_SignInit = sign_init;
}
