/*
 * A provider for tests whose slots are what the file named by RACK says at each call, a line each:
 *
 *     ID LABEL [SERIAL [DESCRIPTION]]   a slot; LABEL "-": without a token; "!": C_GetTokenInfo fails; "!!": C_GetSlotInfo too, with SERIAL; "!-": is said to have no token, and C_GetTokenInfo fails
 *     many N                            N slots more, numbered from 0, each with a token "many"
 *     claims N                          whatever there is, C_GetSlotList says that there are N
 *     sleep MS                          C_GetSlotList takes so long
 *     holds WHAT FILE                   C_GetSlotList ("count": without a place for slots, "slots": with one, "any") adds a byte to
 *                                       FILE.held and waits as long as FILE is there
 *     dies                              C_GetSlotList aborts
 *     meets N FILE                      C_GetSlotList waits for those of N modules with the same FILE, and fails if they do not come
 *     event ID                          C_WaitForSlotEvent tells of it once, one after the other
 *
 * Every session is good, there are no objects, and C_GetSessionInfo says which slot it was opened with. C_InitToken and C_GetMechanismList know no slot at all:
 * what they answer shows that they were called.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cryptoki.h"
#include "frame.h"

enum { MOST = 64, TEXT = 40, SESSIONS = 1024 };

struct slot {
    CK_SLOT_ID id;
    char label[TEXT], serial[TEXT], description[TEXT];
};

struct rack {
    struct slot slots[MOST];
    CK_SLOT_ID events[MOST];
    CK_ULONG count, many, claims, sleep, n_events, meets;
    char place[256], hold[256], held[8];
    int dies;
};

static atomic_ulong sessions, events_told;
static CK_SLOT_ID slot_of[SESSIONS];

static void take_line(struct rack *rack, const char *line)
{
    struct slot *slot = &rack->slots[rack->count];
    if (sscanf(line, "many %lu", &rack->many) == 1 || sscanf(line, "claims %lu", &rack->claims) == 1 ||
        sscanf(line, "sleep %lu", &rack->sleep) == 1 || sscanf(line, "holds %7s %250s", rack->held, rack->hold) == 2 ||
        sscanf(line, "meets %lu %255s", &rack->meets, rack->place) == 2)
        return;
    if (rack->n_events < MOST && sscanf(line, "event %lu", &rack->events[rack->n_events]) == 1)
        rack->n_events++;
    else if (!strncmp(line, "dies", 4))
        rack->dies = 1;
    else if (rack->count < MOST && sscanf(line, "%lu %39s %39s %39s", &slot->id, slot->label, slot->serial, slot->description) >= 2)
        rack->count++;
}

static void look(struct rack *ret)
{
    char line[512];
    const char *path = getenv("RACK");
    FILE *file = path ? fopen(path, "re") : NULL;
    memset(ret, 0, sizeof *ret);
    while (file && fgets(line, sizeof line, file))
        take_line(ret, line);
    if (file)
        fclose(file);
}

/* The slots of `many` are one. NULL if there is no such slot. */
static const struct slot *find(const struct rack *rack, CK_SLOT_ID id)
{
    static const struct slot many = {0, "many", "1", "many"};
    for (CK_ULONG i = 0; i < rack->count; i++)
        if (rack->slots[i].id == id)
            return &rack->slots[i];
    return id < rack->many ? &many : NULL;
}

static CK_RV get_info(CK_INFO *info)
{
    memset(info, 0, sizeof *info);
    info->cryptokiVersion = (CK_VERSION){2, 40};
    pad(info->manufacturerID, sizeof info->manufacturerID, "rack");
    pad(info->libraryDescription, sizeof info->libraryDescription, "rack");
    return CKR_OK;
}

/* Each who comes adds a byte to the file; a round is full with as many as are to meet. */
static int meet(const struct rack *rack)
{
    enum { LOOKS = 3000, PAUSE_MS = 10 };
    int fd = open(rack->place, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct stat st;
    int came = fd >= 0 && write(fd, "x", 1) == 1;
    off_t place = came ? lseek(fd, 0, SEEK_CUR) : 0, all = (off_t)rack->meets, full = (place + all - 1) / all * all;
    for (int i = 0; came && i < LOOKS && fstat(fd, &st) == 0 && st.st_size < full; i++)
        poll(NULL, 0, PAUSE_MS);
    came = came && fstat(fd, &st) == 0 && st.st_size >= full;
    if (fd >= 0)
        close(fd);
    return came;
}

static void hold(const struct rack *rack, int counts)
{
    char path[264];
    if (!rack->hold[0] || !strcmp(rack->held, counts ? "slots" : "count"))
        return;
    snprintf(path, sizeof path, "%s.held", rack->hold);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) != 0)
        abort();
    while (access(rack->hold, F_OK) == 0)
        poll(NULL, 0, 10);
}

static CK_ULONG put(CK_SLOT_ID *slots, CK_ULONG room, CK_ULONG count, CK_SLOT_ID id)
{
    if (slots && count < room)
        slots[count] = id;
    return count + 1;
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    struct rack rack;
    CK_ULONG room = *count, n = 0;
    look(&rack);
    if (rack.dies)
        abort();
    if (rack.meets && !meet(&rack))
        return CKR_FUNCTION_FAILED;
    poll(NULL, 0, (int)rack.sleep);
    hold(&rack, !slots);
    for (CK_ULONG i = 0; i < rack.count; i++)
        if (!present || strcmp(rack.slots[i].label, "-") != 0)
            n = put(slots, room, n, rack.slots[i].id);
    for (CK_ULONG i = 0; i < rack.many; i++)
        n = put(slots, room, n, i);
    *count = rack.claims ? rack.claims : n;
    return slots && n > room ? CKR_BUFFER_TOO_SMALL : CKR_OK;
}

static CK_RV get_slot_info(CK_SLOT_ID id, CK_SLOT_INFO *info)
{
    struct rack rack;
    look(&rack);
    const struct slot *slot = find(&rack, id);
    if (!slot)
        return CKR_SLOT_ID_INVALID;
    if (!strcmp(slot->label, "!!"))
        return strtoul(slot->serial, NULL, 0);
    memset(info, 0, sizeof *info);
    pad(info->slotDescription, sizeof info->slotDescription, slot->description);
    pad(info->manufacturerID, sizeof info->manufacturerID, "rack");
    info->flags = CKF_REMOVABLE_DEVICE | (strcmp(slot->label, "-") && strcmp(slot->label, "!-") ? CKF_TOKEN_PRESENT : 0);
    return CKR_OK;
}

static CK_RV get_token_info(CK_SLOT_ID id, CK_TOKEN_INFO *info)
{
    struct rack rack;
    look(&rack);
    const struct slot *slot = find(&rack, id);
    if (!slot)
        return CKR_SLOT_ID_INVALID;
    if (!strcmp(slot->label, "-"))
        return CKR_TOKEN_NOT_PRESENT;
    if (slot->label[0] == '!')
        return CKR_DEVICE_ERROR;
    memset(info, 0, sizeof *info);
    memcpy(info->label, slot->label, strlen(slot->label) < sizeof info->label ? strlen(slot->label) : sizeof info->label); /* padded with NULs */
    pad(info->manufacturerID, sizeof info->manufacturerID, "rack");
    pad(info->model, sizeof info->model, "rack");
    pad(info->serialNumber, sizeof info->serialNumber, slot->serial[0] ? slot->serial : "0");
    pad(info->utcTime, sizeof info->utcTime, "");
    info->flags = CKF_TOKEN_INITIALIZED | CKF_USER_PIN_INITIALIZED;
    return CKR_OK;
}

static CK_RV get_mechanism_list(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count)
{
    (void)slot, (void)list, (void)count;
    return CKR_DEVICE_MEMORY;
}

static CK_RV init_token(CK_SLOT_ID slot, CK_UTF8CHAR *pin, CK_ULONG len, CK_UTF8CHAR *label)
{
    (void)slot, (void)pin, (void)len, (void)label;
    return CKR_DEVICE_MEMORY;
}

static CK_RV wait_for_slot_event(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
    struct rack rack;
    (void)flags, (void)reserved;
    look(&rack);
    CK_ULONG told = atomic_load(&events_told);
    if (told >= rack.n_events)
        return CKR_NO_EVENT;
    *slot = rack.events[told];
    atomic_store(&events_told, told + 1);
    return CKR_OK;
}

static CK_RV open_session(CK_SLOT_ID id, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    struct rack rack;
    (void)flags, (void)application, (void)notify;
    look(&rack);
    if (!find(&rack, id))
        return CKR_SLOT_ID_INVALID;
    *session = atomic_fetch_add(&sessions, 1) + 1;
    slot_of[*session % SESSIONS] = id;
    return CKR_OK;
}

static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    *info = (CK_SESSION_INFO){slot_of[session % SESSIONS], CKS_RW_PUBLIC_SESSION, CKF_SERIAL_SESSION | CKF_RW_SESSION, 0};
    return CKR_OK;
}

static CK_RV close_all_sessions(CK_SLOT_ID slot)
{
    (void)slot;
    return CKR_OK;
}

/* No token has an object. */
static CK_RV find_objects_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count)
{
    (void)session, (void)template, (void)count;
    return CKR_OK;
}

static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, CK_ULONG room, CK_ULONG *count)
{
    (void)session, (void)objects, (void)room;
    *count = 0;
    return CKR_OK;
}

static CK_RV find_objects_final(CK_SESSION_HANDLE session)
{
    (void)session;
    return CKR_OK;
}

static void fill(CK_FUNCTION_LIST *list)
{
    list->C_GetInfo = get_info;
    list->C_GetSlotList = get_slot_list;
    list->C_GetSlotInfo = get_slot_info;
    list->C_GetTokenInfo = get_token_info;
    list->C_GetMechanismList = get_mechanism_list;
    list->C_InitToken = init_token;
    list->C_WaitForSlotEvent = wait_for_slot_event;
    list->C_OpenSession = open_session;
    list->C_GetSessionInfo = get_session_info;
    list->C_CloseAllSessions = close_all_sessions;
    list->C_FindObjectsInit = find_objects_init;
    list->C_FindObjects = find_objects;
    list->C_FindObjectsFinal = find_objects_final;
}
