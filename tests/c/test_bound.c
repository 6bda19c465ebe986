/* Sessions that are bound to tokens: threads open, use and close them while tokens are exchanged under a provider that does not notice. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "bound.h"
#include "slate.h"
#include "tables.h"
#include "test.h"

enum { SLOTS = 2, SESSIONS = 64, WORKERS = 4, EXCHANGES = 200, CALLS_BETWEEN = 20, CLOSE_EVERY = 9 };

/* ---- the provider ---- */

static struct {
    bool open;
    CK_SLOT_ID slot;
    unsigned token, worker;
} sessions[SESSIONS]; /* the first has the number 1 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint tokens[SLOTS];
static atomic_uint astray, others; /* calls that reached another token than their session's, or another's session */

static CK_RV get_slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    memset(info, 0, sizeof *info);
    info->flags = atomic_load(&tokens[slot]) ? CKF_TOKEN_PRESENT : 0;
    return CKR_OK;
}

static void write_serial(CK_UTF8CHAR *serial, unsigned token)
{
    memcpy(serial, &token, sizeof token);
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    unsigned token = atomic_load(&tokens[slot]);
    memset(info, 0, sizeof *info);
    write_serial(info->serialNumber, token);
    return token ? CKR_OK : CKR_TOKEN_NOT_PRESENT;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *worker, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    unsigned place = 0;
    (void)flags, (void)notify;
    if (!atomic_load(&tokens[slot]))
        return CKR_TOKEN_NOT_PRESENT;
    pthread_mutex_lock(&lock);
    while (place < SESSIONS && sessions[place].open)
        place++;
    if (place < SESSIONS) {
        sessions[place].open = true;
        sessions[place].slot = slot;
        sessions[place].token = atomic_load(&tokens[slot]);
        sessions[place].worker = (unsigned)(uintptr_t)worker;
        *session = place + 1;
    }
    pthread_mutex_unlock(&lock);
    return place < SESSIONS ? CKR_OK : CKR_SESSION_COUNT;
}

static CK_RV close_session(CK_SESSION_HANDLE session)
{
    pthread_mutex_lock(&lock);
    bool open = sessions[session - 1].open;
    sessions[session - 1].open = false;
    pthread_mutex_unlock(&lock);
    return open ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
}

/* Who asks says in slotID which worker it is. */
static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    pthread_mutex_lock(&lock);
    bool open = sessions[session - 1].open;
    atomic_fetch_add(&astray, open && sessions[session - 1].token != atomic_load(&tokens[sessions[session - 1].slot]));
    atomic_fetch_add(&others, open && sessions[session - 1].worker != info->slotID);
    pthread_mutex_unlock(&lock);
    return open ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
}

static struct provider provider = {
    .bound = true,
    .list = {
        .C_GetSlotInfo = get_slot_info, .C_GetTokenInfo = get_token_info, .C_OpenSession = open_session,
        .C_CloseSession = close_session, .C_GetSessionInfo = get_session_info,
    },
};

/* ---- those who call it ---- */

static pthread_rwlock_t world = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP; /* exclusive: a token goes, and that is known */
static atomic_bool over;
static atomic_uint used, lost;

static CK_ULONG open_one(CK_ULONG worker)
{
    CK_ULONG session = 0;
    uintptr_t words[] = {worker % SLOTS, CKF_SERIAL_SESSION, worker, 0, (uintptr_t)&session};
    CK_RV rv = bound_call(&provider, FN_C_OpenSession, words);
    return rv == CKR_OK ? session : 0;
}

static bool use(CK_ULONG session, CK_ULONG worker)
{
    CK_SESSION_INFO info = {.slotID = worker};
    uintptr_t words[] = {session, (uintptr_t)&info};
    bool good = bound_call(&provider, FN_C_GetSessionInfo, words) == CKR_OK;
    atomic_fetch_add(good ? &used : &lost, 1);
    return good;
}

static void close_one(CK_ULONG session)
{
    uintptr_t words[] = {session};
    bound_call(&provider, FN_C_CloseSession, words);
}

static void *work(void *argument)
{
    CK_ULONG worker = (uintptr_t)argument, session = 0;
    for (unsigned round = 1; !atomic_load(&over); round++) {
        pthread_rwlock_rdlock(&world);
        if (!session)
            session = open_one(worker);
        else if (!use(session, worker))
            session = 0;
        if (session && round % CLOSE_EVERY == 0) {
            close_one(session);
            session = 0;
        }
        pthread_rwlock_unlock(&world);
    }
    return NULL;
}

static void show_all(void)
{
    struct slot_look seen[SLOTS];
    uint64_t began = slate_clock();
    for (CK_SLOT_ID i = 0; i < SLOTS; i++) {
        unsigned token = atomic_load(&tokens[i]);
        seen[i] = (struct slot_look){.slot = i, .state = token ? SLOT_TOKEN : SLOT_EMPTY};
        write_serial(seen[i].token.serial, token);
    }
    bound_saw(&provider, seen, SLOTS, began);
}

/* One of the slots has a token always. */
static void await_calls(void)
{
    unsigned before = atomic_load(&used);
    while (atomic_load(&used) - before < CALLS_BETWEEN)
        usleep(50);
}

static void no_call_reaches_another_token(void)
{
    pthread_t threads[WORKERS];
    expect(slate_make());
    for (unsigned i = 0; i < SLOTS; i++)
        atomic_store(&tokens[i], i + 1);
    for (uintptr_t i = 0; i < WORKERS; i++)
        expect_number(0, pthread_create(&threads[i], NULL, work, (void *)i));
    for (unsigned i = 0; i < EXCHANGES; i++) {
        await_calls();
        pthread_rwlock_wrlock(&world);
        atomic_store(&tokens[i % SLOTS], i % 5 == 0 ? 0 : 1000 + i);
        if (i % 3)
            bound_prompt(&provider);
        else
            show_all();
        pthread_rwlock_unlock(&world);
    }
    atomic_store(&over, true);
    for (unsigned i = 0; i < WORKERS; i++)
        expect_number(0, pthread_join(threads[i], NULL));
    while (bound_is_busy())
        usleep(1000);
    expect_number(0, atomic_load(&astray));
    expect_number(0, atomic_load(&others));
    expect(atomic_load(&lost) > 0);
}

static const struct test tests[] = {
    TEST(no_call_reaches_another_token, "Once it is known that a token went no call with its sessions reaches what is there then, nor another's session."),
};

TEST_MAIN(tests)
