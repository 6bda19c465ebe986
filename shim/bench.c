/*
 * p11host-bench: times the calls of one PKCS#11 library, however that reaches its provider.
 *
 * Knows nothing of the shim, of p11-kit or of the provider: `p11host bench` runs it once for each way and each
 * measurement, and compares. Prints one JSON object; ends with status 1 if a call failed, and then says which.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { MEGABYTE = 1 << 20, MAX_THREADS = 64, AES_BLOCK = 16 };

/* One thread's session, and what it computes with. */
struct bench {
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_BYTE *data, *out; /* a megabyte, and one block more */
};

/* A call that can be timed: what it needs first, and the call. */
struct load {
    const char *name;
    CK_RV (*prepare)(struct bench *bench);
    CK_RV (*once)(struct bench *bench);
};

static void bench_init(struct bench *bench, CK_SLOT_ID slot)
{
    must("C_OpenSession",
         p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &bench->session));
    bench->data = allocate(MEGABYTE, 1);
    bench->out = allocate(MEGABYTE + AES_BLOCK, 1);
}

/* ---- the loads ---- */

static CK_RV prepare_nothing(struct bench *bench)
{
    (void)bench;
    return CKR_OK;
}

static CK_RV session_info(struct bench *bench)
{
    CK_SESSION_INFO info;
    return p11->C_GetSessionInfo(bench->session, &info);
}

static CK_RV random_bytes(struct bench *bench)
{
    return p11->C_GenerateRandom(bench->session, bench->out, 16);
}

static CK_RV digest(struct bench *bench)
{
    CK_MECHANISM sha256 = {CKM_SHA256, NULL, 0};
    CK_ULONG len = MEGABYTE;
    CK_RV rv = p11->C_DigestInit(bench->session, &sha256);
    return rv != CKR_OK ? rv : p11->C_Digest(bench->session, bench->data, MEGABYTE, bench->out, &len);
}

static CK_RV prepare_aes(struct bench *bench)
{
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ULONG bytes = 32;
    CK_MECHANISM generate = {CKM_AES_KEY_GEN, NULL, 0};
    CK_ATTRIBUTE key[] = {
        {CKA_TOKEN, &no, sizeof no},
        {CKA_ENCRYPT, &yes, sizeof yes},
        {CKA_VALUE_LEN, &bytes, sizeof bytes},
    };
    return p11->C_GenerateKey(bench->session, &generate, key, 3, &bench->key);
}

static CK_RV encrypt(struct bench *bench)
{
    CK_BYTE iv[AES_BLOCK] = {0};
    CK_MECHANISM aes = {CKM_AES_CBC_PAD, iv, sizeof iv};
    CK_ULONG len = MEGABYTE + AES_BLOCK;
    CK_RV rv = p11->C_EncryptInit(bench->session, &aes, bench->key);
    return rv != CKR_OK ? rv : p11->C_Encrypt(bench->session, bench->data, MEGABYTE, bench->out, &len);
}

static CK_RV prepare_ecdsa(struct bench *bench)
{
    CK_BYTE p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_OBJECT_HANDLE public_key;
    CK_MECHANISM generate = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
    CK_ATTRIBUTE public[] = {{CKA_TOKEN, &no, sizeof no}, {CKA_EC_PARAMS, p256, sizeof p256}};
    CK_ATTRIBUTE private[] = {{CKA_TOKEN, &no, sizeof no}, {CKA_SIGN, &yes, sizeof yes}};
    return p11->C_GenerateKeyPair(bench->session, &generate, public, 2, private, 2, &public_key, &bench->key);
}

static CK_RV sign(struct bench *bench)
{
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    CK_ULONG len = 64;
    CK_RV rv = p11->C_SignInit(bench->session, &ecdsa, bench->key);
    return rv != CKR_OK ? rv : p11->C_Sign(bench->session, bench->data, 32, bench->out, &len);
}

static CK_RV list_slots(struct bench *bench)
{
    static CK_SLOT_ID slots[MAX_SLOTS];
    CK_ULONG count = MAX_SLOTS;
    (void)bench;
    return p11->C_GetSlotList(CK_TRUE, slots, &count);
}

static const struct load loads[] = {
    {"session-info", prepare_nothing, session_info},
    {"slots", prepare_nothing, list_slots},
    {"random", prepare_nothing, random_bytes},
    {"digest", prepare_nothing, digest},
    {"encrypt", prepare_aes, encrypt},
    {"sign", prepare_ecdsa, sign},
};

static const struct load *find_load(const char *name)
{
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++)
        if (strcmp(loads[i].name, name) == 0)
            return &loads[i];
    fail("no such load", CKR_ARGUMENTS_BAD);
    return NULL;
}

/* ---- what is measured ---- */

/* call MODULE LABEL PIN LOAD COUNT: how long each of COUNT calls takes, in ns */
static void measure_calls(char **argv)
{
    const struct load *load = find_load(argv[3]);
    size_t count = strtoul(argv[4], NULL, 10);
    int64_t *ns = allocate(count, sizeof *ns);
    CK_SLOT_ID slot = start_token(argv[0], argv[1]);
    struct bench bench;

    log_in(slot, argv[2]);
    bench_init(&bench, slot);
    must(load->name, load->prepare(&bench));
    must(load->name, load->once(&bench));
    for (size_t i = 0; i < count; i++) {
        int64_t before = now_ns();
        must(load->name, load->once(&bench));
        ns[i] = now_ns() - before;
    }
    print_times(ns, count);
}

struct worker {
    struct bench bench;
    const struct load *load;
    pthread_barrier_t *ready;
    int64_t ns, done;
};

static void *work(void *context)
{
    struct worker *worker = context;
    int64_t begin;

    must(worker->load->name, worker->load->once(&worker->bench));
    pthread_barrier_wait(worker->ready);
    begin = now_ns();
    while (now_ns() - begin < worker->ns) {
        must(worker->load->name, worker->load->once(&worker->bench));
        worker->done++;
    }
    worker->ns = now_ns() - begin;
    return NULL;
}

/* All threads use the first one's key. */
static void prepare_workers(struct worker *workers, size_t count, const struct load *load, CK_SLOT_ID slot, int64_t ns)
{
    static pthread_barrier_t ready;
    pthread_barrier_init(&ready, NULL, (unsigned)count);
    for (size_t i = 0; i < count; i++) {
        workers[i] = (struct worker){.load = load, .ready = &ready, .ns = ns};
        bench_init(&workers[i].bench, slot);
        if (i == 0)
            must(load->name, load->prepare(&workers[0].bench));
        workers[i].bench.key = workers[0].bench.key;
    }
}

/* rate MODULE LABEL PIN LOAD THREADS MILLISECONDS: calls a second of all threads together */
static void measure_rate(char **argv)
{
    size_t count = strtoul(argv[4], NULL, 10);
    int64_t ns = strtoll(argv[5], NULL, 10) * 1000000;
    CK_SLOT_ID slot = start_token(argv[0], argv[1]);
    static struct worker workers[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    double rate = 0;

    if (count < 1 || count > MAX_THREADS)
        fail("threads: 1 to 64", CKR_ARGUMENTS_BAD);
    log_in(slot, argv[2]);
    prepare_workers(workers, count, find_load(argv[3]), slot, ns);
    for (size_t i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0)
            fail("pthread_create", CKR_HOST_MEMORY);
    for (size_t i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        rate += (double)workers[i].done * 1e9 / (double)workers[i].ns;
    }
    printf("{\"rate\": %.1f}\n", rate);
}

/* start MODULE: from before dlopen until the slots are known, in ns */
static void measure_start(char **argv)
{
    CK_SLOT_ID slots[MAX_SLOTS];
    int64_t before = now_ns();
    CK_ULONG count = start(argv[0], slots);
    printf("{\"median\": %lld, \"slots\": %lu}\n", (long long)(now_ns() - before), (unsigned long)count);
}

/* hold MODULE: starts, says so, and stays until its input ends */
static void hold(char **argv)
{
    measure_start(argv);
    fflush(stdout);
    while (getchar() != EOF)
        ;
}

static void transfer(ssize_t (*how)(int, void *, size_t, int), int fd, uint8_t *buffer, size_t size)
{
    for (ssize_t n; size > 0; buffer += n, size -= (size_t)n) {
        n = how(fd, buffer, size, MSG_NOSIGNAL);
        if (n == 0)
            _exit(0);
        if (n < 0 && errno == EINTR)
            n = 0;
        if (n < 0)
            _exit(1);
    }
}

static ssize_t send_some(int fd, void *buffer, size_t size, int flags)
{
    return send(fd, buffer, size, flags);
}

static void answer(int fd, size_t request, size_t response)
{
    uint8_t *buffer = allocate(request > response ? request : response, 1);
    for (;;) {
        transfer(recv, fd, buffer, request);
        transfer(send_some, fd, buffer, response);
    }
}

/* bare REQUEST RESPONSE COUNT: round trips of so many bytes between two processes, in ns */
static void measure_bare(char **argv)
{
    size_t request = strtoul(argv[0], NULL, 10), response = strtoul(argv[1], NULL, 10);
    size_t count = strtoul(argv[2], NULL, 10);
    int64_t *ns = allocate(count, sizeof *ns);
    uint8_t *buffer = allocate(request > response ? request : response, 1);
    int pair[2];
    pid_t child = -1;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0 || (child = fork()) < 0)
        fail("socketpair", CKR_HOST_MEMORY);
    close(pair[child == 0 ? 0 : 1]);
    if (child == 0)
        answer(pair[1], request, response);
    for (size_t i = 0; i < count; i++) {
        int64_t before = now_ns();
        transfer(send_some, pair[0], buffer, request);
        transfer(recv, pair[0], buffer, response);
        ns[i] = now_ns() - before;
    }
    print_times(ns, count);
}

static const struct {
    const char *name, *usage;
    int arguments;
    void (*measure)(char **argv);
} commands[] = {
    {"call", "MODULE LABEL PIN LOAD COUNT", 5, measure_calls},
    {"rate", "MODULE LABEL PIN LOAD THREADS MILLISECONDS", 6, measure_rate},
    {"start", "MODULE", 1, measure_start},
    {"hold", "MODULE", 1, hold},
    {"bare", "REQUEST RESPONSE COUNT", 3, measure_bare},
    {"pairs", "THREADS NANOSECONDS MILLISECONDS", 3, measure_pairs},
    {"prefork", "MODULE LABEL PIN anew|inherit WORKERS", 5, measure_prefork},
    {"children", "MODULE LABEL PIN anew|inherit COUNT", 5, measure_children},
};

int main(int argc, char **argv)
{
    size_t count = sizeof commands / sizeof *commands;

    for (size_t i = 0; i < count; i++)
        if (argc == commands[i].arguments + 2 && strcmp(argv[1], commands[i].name) == 0) {
            commands[i].measure(argv + 2);
            return 0;
        }
    for (size_t i = 0; i < count; i++)
        fprintf(stderr, "usage: p11host-bench %s %s\n", commands[i].name, commands[i].usage);
    return 2;
}
