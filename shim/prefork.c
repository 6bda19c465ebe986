/*
 * p11host-bench of servers that fork: processes that sign with a key which the process that forks them has used.
 *
 * A child either goes on with what it inherits, or begins anew as the standard has it: C_Initialize, a session, a
 * login, the key. Where that is refused it tries again, for there are providers that several processes cannot log in
 * to at once; how often is told, and the pause between is part of the time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { MAX_WORKERS = 256, PATIENCE_S = 100, DIGEST = 32, SIGNATURE = 64 };

/* What a child says of its first signature. */
struct first {
    int64_t ns; /* since its first call */
    CK_ULONG tries;
    CK_RV rv;
};

/* What the children are forked with. */
struct parent {
    bool inherits;
    CK_SLOT_ID slot;
    char *pin;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    int said[2], held[2]; /* children say what they did; they stay until the other end of `held` is closed */
};

/* ---- the key, and a signature ---- */

static CK_BYTE key_id[] = {0xf0, 0x4c};

static CK_RV open_session(CK_SLOT_ID slot, CK_SESSION_HANDLE *ret_session)
{
    return p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, ret_session);
}

static CK_RV find_key(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *ret_key)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_ID, key_id, sizeof key_id}};
    CK_ULONG count = 0;
    CK_RV rv = p11->C_FindObjectsInit(session, wanted, 2);
    if (rv == CKR_OK)
        rv = p11->C_FindObjects(session, ret_key, 1, &count);
    if (rv == CKR_OK)
        rv = p11->C_FindObjectsFinal(session);
    return rv != CKR_OK ? rv : count == 1 ? CKR_OK : CKR_KEY_HANDLE_INVALID;
}

static CK_RV make_key(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *ret_key)
{
    CK_BYTE p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_OBJECT_HANDLE public_key;
    CK_MECHANISM generate = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
    CK_ATTRIBUTE public[] = {{CKA_TOKEN, &no, sizeof no}, {CKA_EC_PARAMS, p256, sizeof p256}};
    CK_ATTRIBUTE private[] = {
        {CKA_TOKEN, &yes, sizeof yes},
        {CKA_SIGN, &yes, sizeof yes},
        {CKA_ID, key_id, sizeof key_id},
    };
    return p11->C_GenerateKeyPair(session, &generate, public, 2, private, 3, &public_key, ret_key);
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    CK_BYTE digest[DIGEST] = {0}, signature[SIGNATURE];
    CK_ULONG len = sizeof signature;
    CK_RV rv = p11->C_SignInit(session, &ecdsa, key);
    return rv != CKR_OK ? rv : p11->C_Sign(session, digest, sizeof digest, signature, &len);
}

/* ---- a child ---- */

/* A library that its child has a copy of says that it is initialised: that life is ended first. */
static CK_RV begin_anew(void)
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    CK_RV rv = p11->C_Initialize(&args);
    if (rv != CKR_CRYPTOKI_ALREADY_INITIALIZED)
        return rv;
    rv = p11->C_Finalize(NULL);
    return rv != CKR_OK ? rv : p11->C_Initialize(&args);
}

static CK_RV sign_anew(const struct parent *parent)
{
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_RV rv = begin_anew();
    if (rv == CKR_OK)
        rv = open_session(parent->slot, &session);
    if (rv == CKR_OK)
        rv = p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)parent->pin, strlen(parent->pin));
    if (rv == CKR_OK)
        rv = find_key(session, &key);
    return rv != CKR_OK ? rv : sign(session, key);
}

/* Those who were refused at once must not come back at once. */
static void pause_after(CK_ULONG tries)
{
    long ms = 1 + getpid() % 7 + (long)(tries < 20 ? tries : 20);
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static struct first sign_first(const struct parent *parent)
{
    int64_t before = now_ns();
    struct first first = {.tries = 1};

    if (parent->inherits)
        first.rv = sign(parent->session, parent->key);
    else
        while ((first.rv = sign_anew(parent)) != CKR_OK && now_ns() - before < PATIENCE_S * (int64_t)500000000)
            pause_after(first.tries++);
    first.ns = now_ns() - before;
    return first;
}

_Noreturn static void be_child(const struct parent *parent)
{
    struct first first;
    char nothing;

    close(parent->held[1]);
    first = sign_first(parent);
    if (write(parent->said[1], &first, sizeof first) != sizeof first)
        _exit(1);
    while (read(parent->held[0], &nothing, 1) < 0 && errno == EINTR)
        ;
    _exit(0);
}

/* ---- the process that forks ---- */

static void parent_init(struct parent *parent, char **argv)
{
    alarm(PATIENCE_S); /* for a child that neither signs nor ends */
    *parent = (struct parent){
        .inherits = strcmp(argv[3], "inherit") == 0,
        .slot = start_token(argv[0], argv[1]),
        .pin = argv[2],
    };
    must("C_OpenSession", open_session(parent->slot, &parent->session));
    log_in(parent->slot, parent->pin);
    if (find_key(parent->session, &parent->key) != CKR_OK)
        must("C_GenerateKeyPair", make_key(parent->session, &parent->key));
    must("C_Sign", sign(parent->session, parent->key));
    if (pipe2(parent->said, O_CLOEXEC) != 0)
        fail("pipe2", CKR_HOST_MEMORY);
}

static void hold_children(struct parent *parent)
{
    if (pipe2(parent->held, O_CLOEXEC) != 0)
        fail("pipe2", CKR_HOST_MEMORY);
}

static void fork_child(const struct parent *parent)
{
    pid_t child = fork();
    if (child < 0)
        fail("fork", CKR_HOST_MEMORY);
    if (child == 0)
        be_child(parent);
}

static struct first hear(const struct parent *parent)
{
    struct first first;
    ssize_t n = read(parent->said[0], &first, sizeof first); /* of a pipe's atomic writes */
    if (n != sizeof first)
        fail("a child", CKR_GENERAL_ERROR);
    must("a child", first.rv);
    return first;
}

static void release_children(struct parent *parent)
{
    close(parent->held[0]);
    close(parent->held[1]);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
}

static size_t count_of(const char *text)
{
    size_t count = strtoul(text, NULL, 10);
    if (count < 1 || count > MAX_WORKERS)
        fail("processes: 1 to 256", CKR_ARGUMENTS_BAD);
    return count;
}

/*
 * prefork MODULE LABEL PIN anew|inherit WORKERS: from before the first fork until each of WORKERS has signed, in ns,
 * and how often they were refused; then all stay until the input ends
 */
void measure_prefork(char **argv)
{
    size_t count = count_of(argv[4]);
    CK_ULONG refused = 0;
    struct parent parent;
    int64_t before;

    parent_init(&parent, argv);
    hold_children(&parent);
    before = now_ns();
    for (size_t i = 0; i < count; i++)
        fork_child(&parent);
    for (size_t i = 0; i < count; i++)
        refused += hear(&parent).tries - 1;
    printf("{\"median\": %lld, \"refused\": %lu}\n", (long long)(now_ns() - before), (unsigned long)refused);
    fflush(stdout);
    alarm(0);
    while (getchar() != EOF)
        ;
    release_children(&parent);
}

/* children MODULE LABEL PIN anew|inherit COUNT: from a child's first call to its first signature, one after another */
void measure_children(char **argv)
{
    size_t count = count_of(argv[4]);
    int64_t *ns = allocate(count, sizeof *ns);
    struct parent parent;

    parent_init(&parent, argv);
    for (size_t i = 0; i < count; i++) {
        hold_children(&parent);
        fork_child(&parent);
        ns[i] = hear(&parent).ns;
        release_children(&parent);
    }
    print_times(ns, count);
}
