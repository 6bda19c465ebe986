/*
 * A provider for tests: plain in most of what it does, and odd in what its environment says.
 *
 *     ODD_SLOTS=N          slots it has (1), numbered from 0x7000
 *     ODD_EMPTY=N          the first N of them have no token (0)
 *     ODD_DIES="WHERE HOW" dies in `constructor`, `C_Initialize` or `C_Sign` by `abort`, `exit` or `segv`
 *     ODD_LOCKING=none     cannot lock: C_Initialize refuses threads
 *     ODD_PARTY=N          C_GenerateRandom waits until that many callers are in it (1), or ODD_PATIENCE ms have
 *                          passed (20000); its bytes say how many there were at most
 *     ODD_WAITS=FIFO       C_Initialize waits until somebody opens that for writing
 *     ODD_FORKS=1          C_Initialize leaves a child behind, which stays
 *     ODD_LENGTH=N         every attribute but class and CKA_TOKEN has so many bytes, which it says of any buffer
 *     ODD_CLOSING=MS       C_CloseSession takes so long; C_Finalize meanwhile aborts
 *
 * C_Sign never returns, and C_WaitForSlotEvent only if it must; ulDeviceError of C_GetSessionInfo counts these calls, ulRwSessionCount of
 * C_GetTokenInfo how often it was asked how many slots there are.
 * C_DigestInit and its like take any mechanism without a parameter and refuse every other with CKR_MECHANISM_INVALID.
 * C_GetInterface answers 0x54 whatever it is asked, as one vendor's does: the function list is all there is.
 * It claims to have asynchronous sessions. C_SeedRandom writes to a pipe that nobody reads. ulMaxSessionCount of C_GetTokenInfo tells whether a core could be dumped.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "cryptoki.h"
#include "frame.h"

enum { FIRST_SLOT = 0x7000, FIRST_OBJECT = 100, REMEMBERED = 1024 };

static atomic_ulong sessions, closing, closed, objects, waits, looks, user_logged_in;
static CK_SLOT_ID slots_of_sessions[REMEMBERED];

static unsigned long setting(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 0) : otherwise;
}

static int is_slot(CK_SLOT_ID slot)
{
    return slot >= FIRST_SLOT && slot < FIRST_SLOT + setting("ODD_SLOTS", 1);
}

static int is_session(CK_SESSION_HANDLE session)
{
    return session >= 1 && session <= atomic_load(&sessions);
}

/* ---- ways to die ---- */

static void end(const char *how)
{
    if (!strcmp(how, "abort"))
        abort();
    if (!strcmp(how, "exit"))
        exit(0);
    *(volatile int *)(uintptr_t)getppid() = 0; /* no page of ours */
}

static void die_in(const char *where)
{
    const char *wish = getenv("ODD_DIES");
    size_t len = strlen(where);
    if (wish && !strncmp(wish, where, len) && wish[len] == ' ')
        end(wish + len + 1);
}

__attribute__((constructor)) static void construct(void)
{
    die_in("constructor");
}

/* ---- the library ---- */

static void misbehave(void)
{
    const char *fifo = getenv("ODD_WAITS");
    if (setting("ODD_FORKS", 0) && fork() == 0)
        for (;;)
            pause();
    if (fifo)
        close(open(fifo, O_RDONLY | O_CLOEXEC));
}

static CK_RV initialize(void *args)
{
    const CK_C_INITIALIZE_ARGS *given = args;
    const char *locking = getenv("ODD_LOCKING");
    die_in("C_Initialize");
    misbehave();
    if (locking && !strcmp(locking, "none") && given && (given->flags & CKF_OS_LOCKING_OK))
        return CKR_CANT_LOCK;
    return CKR_OK;
}

static CK_RV get_info(CK_INFO *info)
{
    memset(info, 0, sizeof *info);
    info->cryptokiVersion = (CK_VERSION){2, 40};
    info->libraryVersion = (CK_VERSION){7, 7};
    pad(info->manufacturerID, sizeof info->manufacturerID, "odd");
    pad(info->libraryDescription, sizeof info->libraryDescription, "odd");
    return CKR_OK;
}

/* ---- slots ---- */

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    CK_ULONG room = *count, all = setting("ODD_SLOTS", 1), first = present ? setting("ODD_EMPTY", 0) : 0;
    *count = all - first;
    if (!slots)
        atomic_fetch_add(&looks, 1);
    if (slots && room < *count)
        return CKR_BUFFER_TOO_SMALL;
    for (CK_ULONG i = first; slots && i < all; i++)
        slots[i - first] = FIRST_SLOT + i;
    return CKR_OK;
}

static CK_RV get_slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    if (!is_slot(slot))
        return CKR_SLOT_ID_INVALID;
    memset(info, 0, sizeof *info);
    pad(info->slotDescription, sizeof info->slotDescription, "odd");
    pad(info->manufacturerID, sizeof info->manufacturerID, "odd");
    info->flags = slot < FIRST_SLOT + setting("ODD_EMPTY", 0) ? 0 : CKF_TOKEN_PRESENT;
    return CKR_OK;
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    if (!is_slot(slot))
        return CKR_SLOT_ID_INVALID;
    memset(info, 0, sizeof *info);
    pad(info->label, sizeof info->label, "odd");
    pad(info->manufacturerID, sizeof info->manufacturerID, "odd");
    pad(info->model, sizeof info->model, "odd");
    pad(info->serialNumber, sizeof info->serialNumber, "1");
    pad(info->utcTime, sizeof info->utcTime, "");
    info->flags = CKF_TOKEN_INITIALIZED | CKF_USER_PIN_INITIALIZED | CKF_ASYNC_SESSION_SUPPORTED;
    info->ulMaxSessionCount = (CK_ULONG)prctl(PR_GET_DUMPABLE);
    info->ulRwSessionCount = atomic_load(&looks);
    info->ulSessionCount = atomic_load(&sessions) - atomic_load(&closed);
    return CKR_OK;
}

static CK_RV wait_for_slot_event(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
    (void)slot, (void)reserved;
    atomic_fetch_add(&waits, 1);
    while (!(flags & CKF_DONT_BLOCK))
        pause();
    return CKR_NO_EVENT;
}

/* ---- sessions and objects, which are numbered alike in every life ---- */

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    (void)flags, (void)application, (void)notify;
    if (!is_slot(slot))
        return CKR_SLOT_ID_INVALID;
    *session = atomic_fetch_add(&sessions, 1) + 1;
    slots_of_sessions[*session % REMEMBERED] = slot;
    return CKR_OK;
}

static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    if (!is_session(session))
        return CKR_SESSION_HANDLE_INVALID;
    CK_STATE state = atomic_load(&user_logged_in) ? CKS_RW_USER_FUNCTIONS : CKS_RW_PUBLIC_SESSION;
    CK_SLOT_ID slot = slots_of_sessions[session % REMEMBERED];
    *info = (CK_SESSION_INFO){slot, state, CKF_SERIAL_SESSION | CKF_RW_SESSION, atomic_load(&waits)};
    return CKR_OK;
}

static CK_RV close_session(CK_SESSION_HANDLE session)
{
    if (!is_session(session))
        return CKR_SESSION_HANDLE_INVALID;
    atomic_fetch_add(&closing, 1);
    poll(NULL, 0, (int)setting("ODD_CLOSING", 0));
    atomic_fetch_sub(&closing, 1);
    atomic_fetch_add(&closed, 1);
    return CKR_OK;
}

static CK_RV finalize_when_closed(void *reserved)
{
    if (atomic_load(&closing))
        abort();
    return nothing_to_do(reserved);
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG len)
{
    (void)user, (void)pin, (void)len;
    if (!is_session(session))
        return CKR_SESSION_HANDLE_INVALID;
    atomic_store(&user_logged_in, 1);
    return CKR_OK;
}

static CK_RV create_object(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *object)
{
    (void)template, (void)count;
    if (!is_session(session))
        return CKR_SESSION_HANDLE_INVALID;
    *object = FIRST_OBJECT + atomic_fetch_add(&objects, 1);
    return CKR_OK;
}

static CK_RV get_object_size(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ULONG *size)
{
    if (!is_session(session))
        return CKR_SESSION_HANDLE_INVALID;
    if (object < FIRST_OBJECT || object >= FIRST_OBJECT + atomic_load(&objects))
        return CKR_OBJECT_HANDLE_INVALID;
    *size = 1;
    return CKR_OK;
}

/* ---- operations ---- */

static CK_RV take_mechanism(const CK_MECHANISM *mechanism)
{
    return mechanism && !mechanism->pParameter ? CKR_OK : CKR_MECHANISM_INVALID;
}

static CK_RV digest_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism)
{
    return is_session(session) ? take_mechanism(mechanism) : CKR_SESSION_HANDLE_INVALID;
}

static CK_RV key_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    (void)key;
    return digest_init(session, mechanism);
}

static CK_RV wrap_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE by, CK_OBJECT_HANDLE key,
                      CK_BYTE *wrapped, CK_ULONG *len)
{
    (void)by, (void)key, (void)wrapped, (void)len;
    return digest_init(session, mechanism);
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG data_len, CK_BYTE *signature, CK_ULONG *len)
{
    (void)data, (void)data_len, (void)signature, (void)len;
    if (!is_session(session))
        return CKR_SESSION_HANDLE_INVALID;
    die_in("C_Sign");
    atomic_fetch_add(&waits, 1);
    for (;;)
        pause();
}

static CK_RV seed_random(CK_SESSION_HANDLE session, CK_BYTE *seed, CK_ULONG len)
{
    int ends[2];
    (void)session;
    if (pipe(ends) != 0)
        return CKR_HOST_MEMORY;
    close(ends[0]);
    ssize_t n = write(ends[1], seed, len);
    int error = errno;
    close(ends[1]);
    return n < 0 && error == EPIPE ? CKR_OK : CKR_GENERAL_ERROR;
}

/* ---- a party of callers ---- */

static pthread_mutex_t party_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t party_grew = PTHREAD_COND_INITIALIZER;
static unsigned long inside, most;

static struct timespec patience_end(void)
{
    unsigned long ms = setting("ODD_PATIENCE", 20000);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    long ns = t.tv_nsec + (long)(ms % 1000) * 1000000;
    return (struct timespec){.tv_sec = t.tv_sec + (time_t)(ms / 1000) + ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static unsigned long join_party(unsigned long wanted)
{
    struct timespec until = patience_end();
    pthread_mutex_lock(&party_lock);
    if (++inside > most)
        most = inside;
    pthread_cond_broadcast(&party_grew);
    while (most < wanted && pthread_cond_timedwait(&party_grew, &party_lock, &until) == 0)
        ;
    unsigned long seen = most;
    inside--;
    pthread_mutex_unlock(&party_lock);
    return seen;
}

static CK_RV generate_random(CK_SESSION_HANDLE session, CK_BYTE *bytes, CK_ULONG count)
{
    if (!is_session(session))
        return CKR_SESSION_HANDLE_INVALID;
    memset(bytes, (int)join_party(setting("ODD_PARTY", 1)), count);
    return CKR_OK;
}

/* The values that fit are given, of the others only the length is: as CKR_BUFFER_TOO_SMALL allows. */
static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    (void)session, (void)object;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_ULONG small = template[i].type == CKA_TOKEN ? 1 : template[i].type == CKA_CLASS ? sizeof(CK_ULONG) : 0;
        if (small && template[i].pValue && template[i].ulValueLen >= small)
            memset(template[i].pValue, CK_TRUE, small);
        template[i].ulValueLen = small ? small : setting("ODD_LENGTH", 0);
    }
    return CKR_BUFFER_TOO_SMALL;
}

static void fill_operations(CK_FUNCTION_LIST *list)
{
    list->C_DigestInit = digest_init;
    list->C_EncryptInit = list->C_DecryptInit = list->C_SignInit = list->C_VerifyInit = key_init;
    list->C_WrapKey = wrap_key;
    list->C_Sign = sign;
    list->C_SeedRandom = seed_random;
    list->C_GenerateRandom = generate_random;
}

static void fill(CK_FUNCTION_LIST *list)
{
    list->C_Initialize = initialize;
    list->C_Finalize = finalize_when_closed;
    list->C_GetInfo = get_info;
    list->C_GetSlotList = get_slot_list;
    list->C_GetSlotInfo = get_slot_info;
    list->C_GetTokenInfo = get_token_info;
    list->C_WaitForSlotEvent = wait_for_slot_event;
    list->C_OpenSession = open_session;
    list->C_CloseSession = close_session;
    list->C_GetSessionInfo = get_session_info;
    list->C_Login = login;
    list->C_CreateObject = create_object;
    list->C_GetObjectSize = get_object_size;
    if (setting("ODD_LENGTH", 0))
        list->C_GetAttributeValue = get_attribute_value;
    fill_operations(list);
}

__attribute__((visibility("default"))) CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **interface,
                                                            CK_FLAGS flags)
{
    (void)name, (void)version, (void)interface, (void)flags;
    return CKR_FUNCTION_NOT_SUPPORTED;
}
