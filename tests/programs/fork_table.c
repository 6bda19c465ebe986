/*
 * fork_table MODULE THREADS PATIENCE COUNT DEED [RESERVED]: forks COUNT children of a process whose threads sign all the time, and prints what became
 * of them: how many did well, hung, crashed, got something wrong, or were refused, the CK_RV of the last refusal, and whether the
 * parent still signs. FORK_TABLE_PIN is the user's PIN. A token without an RSA key gets one.
 *
 * The children
 *     begin     call C_Initialize, open a session, log in, find the key and sign,
 *     sign      sign in the parent's session with its key,
 *     finalize  call C_Finalize,
 *     exit      end through the exit handlers.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

enum { MOST_THREADS = 16, MOST_BYTES = 512, WELL = 0, WRONG = 1, REFUSED = 2, PAUSE_NS = 20000000, MOST_AT_ONCE = 10 };
enum { DID_WELL, HUNG, CRASHED, DID_WRONG, WAS_REFUSED, FATES };

static CK_FUNCTION_LIST *list;
static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE key;
static CK_BYTE expected[MOST_BYTES];
static CK_ULONG expected_len;
static CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
static const CK_BYTE data[32] = "what is to be signed, always it";
static const char *pin;
static unsigned patience_s;
static atomic_bool done;
static atomic_ulong good, failed;

/* ---- calls ---- */

static CK_RV find_key(CK_SESSION_HANDLE in, CK_OBJECT_HANDLE *ret_key)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_KEY_TYPE type = CKK_RSA;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}};
    CK_ULONG count = 0;
    CK_RV rv = list->C_FindObjectsInit(in, template, 2);
    if (rv == CKR_OK)
        rv = list->C_FindObjects(in, ret_key, 1, &count);
    if (rv == CKR_OK)
        rv = list->C_FindObjectsFinal(in);
    return rv == CKR_OK && count == 0 ? CKR_KEY_HANDLE_INVALID : rv;
}

static CK_RV make_key(CK_SESSION_HANDLE in, CK_OBJECT_HANDLE *ret_key)
{
    CK_BBOOL yes = CK_TRUE;
    CK_ULONG bits = 2048;
    CK_BYTE exponent[] = {1, 0, 1};
    CK_ATTRIBUTE public[] = {
        {CKA_MODULUS_BITS, &bits, sizeof bits}, {CKA_PUBLIC_EXPONENT, exponent, sizeof exponent}, {CKA_VERIFY, &yes, sizeof yes},
    };
    CK_ATTRIBUTE private[] = {{CKA_TOKEN, &yes, sizeof yes}, {CKA_PRIVATE, &yes, sizeof yes}, {CKA_SIGN, &yes, sizeof yes}};
    CK_MECHANISM mechanism = {CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0};
    CK_OBJECT_HANDLE unused;
    return list->C_GenerateKeyPair(in, &mechanism, public, 3, private, 3, &unused, ret_key);
}

static CK_RV sign(CK_SESSION_HANDLE in, CK_OBJECT_HANDLE with, CK_BYTE *signature, CK_ULONG *len)
{
    CK_MECHANISM mechanism = {CKM_RSA_PKCS, NULL, 0};
    CK_RV rv = list->C_SignInit(in, &mechanism, with);
    return rv == CKR_OK ? list->C_Sign(in, (CK_BYTE *)(uintptr_t)data, sizeof data, signature, len) : rv;
}

static CK_RV log_in(CK_SESSION_HANDLE in)
{
    CK_RV rv = list->C_Login(in, CKU_USER, (CK_BYTE *)(uintptr_t)pin, strlen(pin));
    return rv == CKR_USER_ALREADY_LOGGED_IN ? CKR_OK : rv;
}

static CK_RV open_one(CK_SESSION_HANDLE *ret_session)
{
    return list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, ret_session);
}

/* ---- children ---- */

static int refusal[2]; /* a pipe: what refused them says why */

static _Noreturn void end_by(CK_RV rv)
{
    if (rv == CKR_OK)
        _exit(WELL);
    _exit(write(refusal[1], &rv, sizeof rv) == sizeof rv ? REFUSED : WRONG);
}

static _Noreturn void sign_and_end(CK_SESSION_HANDLE in, CK_OBJECT_HANDLE with)
{
    CK_BYTE signature[MOST_BYTES];
    CK_ULONG len = sizeof signature;
    CK_RV rv = sign(in, with, signature, &len);
    if (rv == CKR_OK && (len != expected_len || memcmp(signature, expected, len) != 0))
        _exit(WRONG);
    end_by(rv);
}

static _Noreturn void begin_anew(void)
{
    CK_SESSION_HANDLE own = 0;
    CK_OBJECT_HANDLE found = 0;
    CK_RV rv = list->C_Initialize(&args);
    if (rv == CKR_CRYPTOKI_ALREADY_INITIALIZED)
        rv = CKR_OK;
    if (rv == CKR_OK)
        rv = open_one(&own);
    if (rv == CKR_OK)
        rv = log_in(own);
    if (rv == CKR_OK)
        rv = find_key(own, &found);
    if (rv != CKR_OK)
        end_by(rv);
    sign_and_end(own, found);
}

static _Noreturn void live(const char *deed)
{
    alarm(patience_s);
    if (!strcmp(deed, "begin"))
        begin_anew();
    if (!strcmp(deed, "sign"))
        sign_and_end(session, key);
    if (!strcmp(deed, "exit"))
        exit(WELL);
    end_by(list->C_Finalize(NULL));
}

static int fate_of(int status)
{
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGALRM ? HUNG : CRASHED;
    return WEXITSTATUS(status) == WELL ? DID_WELL : WEXITSTATUS(status) == REFUSED ? WAS_REFUSED : DID_WRONG;
}

/* ---- the parent ---- */

/* FORK_TABLE_REST milliseconds: a card gives a turn to nobody else while one program asks without a pause. */
static void rest(void)
{
    const char *ms = getenv("FORK_TABLE_REST");
    if (ms)
        nanosleep(&(struct timespec){.tv_nsec = atol(ms) * 1000000}, NULL);
}

static void *sign_on(void *unused)
{
    CK_SESSION_HANDLE own;
    if (open_one(&own) != CKR_OK)
        return unused;
    while (!atomic_load(&done)) {
        CK_BYTE signature[MOST_BYTES];
        CK_ULONG len = sizeof signature;
        if (sign(own, key, signature, &len) == CKR_OK)
            atomic_fetch_add(&good, 1);
        else
            atomic_fetch_add(&failed, 1);
        rest();
    }
    return unused;
}

/* Softokn's first one has none. */
static CK_SLOT_ID slot_with_a_user(void)
{
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    CK_TOKEN_INFO info;
    check(list->C_GetSlotList(CK_TRUE, slots, &count) == CKR_OK, "C_GetSlotList");
    for (CK_ULONG i = 0; i < count; i++)
        if (list->C_GetTokenInfo(slots[i], &info) == CKR_OK && (info.flags & CKF_USER_PIN_INITIALIZED))
            return slots[i];
    check(false, "a slot with a user");
    return 0;
}

static void begin_parent(void)
{
    CK_RV rv = list->C_Initialize(&args);
    check(rv == CKR_OK, "C_Initialize");
    slot = slot_with_a_user();
    check(open_one(&session) == CKR_OK && log_in(session) == CKR_OK, "C_Login");
    check(find_key(session, &key) == CKR_OK || make_key(session, &key) == CKR_OK, "a key");
    expected_len = sizeof expected;
    check(sign(session, key, expected, &expected_len) == CKR_OK, "C_Sign");
}

/* Some at once, so that those that hang do so together. */
static void fork_all(int count, const char *deed, unsigned fates[FATES])
{
    int alive = 0, status;
    for (int i = 0; i < count || alive > 0;) {
        if (i < count && alive < MOST_AT_ONCE) {
            nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS + i % 7 * 300000}, NULL);
            pid_t pid = fork();
            if (pid == 0)
                live(deed);
            check(pid > 0, "fork");
            i++, alive++;
        } else if (waitpid(-1, &status, 0) > 0) {
            fates[fate_of(status)]++;
            alive--;
        }
    }
}

static void take_turns(int count)
{
    unsigned long before = atomic_load(&good) + atomic_load(&failed);
    for (int i = 0; i < count && atomic_load(&good) + atomic_load(&failed) == before; i++)
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
}

int main(int argc, char **argv)
{
    pthread_t threads[MOST_THREADS];
    unsigned fates[FATES] = {0};
    CK_RV why = CKR_OK;
    check(argc == 6 || argc == 7, "usage");
    pin = getenv("FORK_TABLE_PIN");
    args.pReserved = argc == 7 ? argv[6] : NULL;
    list = load(argv[1]);
    int n_threads = atoi(argv[2]);
    patience_s = (unsigned)atoi(argv[3]);
    begin_parent();
    check(pipe(refusal) == 0 && n_threads <= MOST_THREADS, "pipe");
    for (int i = 0; i < n_threads; i++)
        check(pthread_create(&threads[i], NULL, sign_on, NULL) == 0, "pthread_create");
    take_turns(500);
    fork_all(atoi(argv[4]), argv[5], fates);
    unsigned long late = atomic_load(&failed), well = atomic_load(&good);
    take_turns(500);
    bool signs = late == 0 && atomic_load(&good) > well && atomic_load(&failed) == 0;
    if (fates[WAS_REFUSED])
        check(read(refusal[0], &why, sizeof why) == sizeof why, "why");
    for (int i = 0; i < FATES; i++)
        printf("%u ", fates[i]);
    printf("%lu %d\n", (unsigned long)why, signs);
    fflush(stdout);
    _exit(0); /* not every provider can be left otherwise */
}
