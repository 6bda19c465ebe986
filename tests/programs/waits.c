/*
 * waits MODULE BOARD ROUNDS [sanitized]: several threads wait for slot events while slots change and others call; a child is forked in the middle of their
 * waits, and one is cancelled; C_Finalize ends the others. That so many times. Prints how many waits there were. With `sanitized`
 * none is cancelled: the thread sanitizer would miss what that thread does on its way out.
 *
 * Each change must be heard, by somebody. After each round there are as many descriptors and threads as after the first; in a child no more.
 */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../providers/board.h"
#include "load.h"

enum { SLOTS = 4, WAITERS = 3, THREADS = WAITERS + 2, CHANGES = 10, PATIENCE_S = 60, PAUSE_US = 500 };

static struct board *board;
static CK_FUNCTION_LIST *list;
static atomic_ulong heard[SLOTS], waits;
static unsigned long changed[SLOTS];

/* ---- threads; each ends when C_Finalize has been called ---- */

static void hear(CK_SLOT_ID slot)
{
    check(slot >= 1 && slot <= SLOTS, "a slot that there is");
    atomic_fetch_add(&heard[slot - 1], 1);
}

static void *wait_on(void *unused)
{
    CK_SLOT_ID slot = 0;
    CK_RV rv;
    while ((rv = list->C_WaitForSlotEvent(0, &slot, NULL)) == CKR_OK) {
        hear(slot);
        atomic_fetch_add(&waits, 1);
    }
    check(rv == CKR_CRYPTOKI_NOT_INITIALIZED, "C_WaitForSlotEvent");
    return unused;
}

static void *look_on(void *unused)
{
    CK_SLOT_ID slot = 0;
    CK_RV rv;
    while ((rv = list->C_WaitForSlotEvent(CKF_DONT_BLOCK, &slot, NULL)) == CKR_OK || rv == CKR_NO_EVENT) {
        if (rv == CKR_OK)
            hear(slot);
        usleep(PAUSE_US);
    }
    check(rv == CKR_CRYPTOKI_NOT_INITIALIZED, "C_WaitForSlotEvent, without waiting");
    return unused;
}

static void *call_on(void *unused)
{
    CK_SLOT_ID slots[SLOTS];
    CK_TOKEN_INFO token;
    CK_RV rv = CKR_OK;
    while (rv == CKR_OK || rv == CKR_TOKEN_NOT_PRESENT) {
        CK_ULONG count = SLOTS;
        rv = list->C_GetSlotList(0, slots, &count);
        if (rv == CKR_OK)
            rv = list->C_GetTokenInfo(slots[count - 1], &token);
        usleep(PAUSE_US);
    }
    check(rv == CKR_CRYPTOKI_NOT_INITIALIZED, "C_GetTokenInfo");
    return unused;
}

static void start_all(pthread_t threads[THREADS])
{
    void *(*works[THREADS])(void *) = {wait_on, wait_on, wait_on, look_on, call_on};
    for (int i = 0; i < THREADS; i++)
        check(pthread_create(&threads[i], NULL, works[i], NULL) == 0, "pthread_create");
}

/* ---- what is left ---- */

static int count_in(const char *path)
{
    int n = 0;
    DIR *directory = opendir(path);
    check(directory != NULL, path);
    while (readdir(directory))
        n++;
    closedir(directory);
    return n;
}

/* Who has been joined may be seen for another moment. */
static void expect_left(int descriptors, int threads)
{
    check(count_in("/proc/self/fd") <= descriptors, "no descriptor is left");
    while (count_in("/proc/self/task") > threads)
        usleep(PAUSE_US);
}

/* ---- one round ---- */

static void change(unsigned slot)
{
    atomic_fetch_xor(&board->slots[slot].token, 1);
    atomic_fetch_add(&board->slots[slot].changes, 1);
    board_ring(board);
}

static void await_hearing(unsigned slot)
{
    changed[slot]++;
    while (atomic_load(&heard[slot]) < changed[slot])
        usleep(PAUSE_US);
}

static void initialize(void)
{
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    CK_ULONG count = 0;
    CK_SLOT_ID slot;
    check(list->C_Initialize(&args) == CKR_OK, "C_Initialize");
    check(list->C_GetSlotList(0, NULL, &count) == CKR_OK && count == SLOTS, "C_GetSlotList");
    check(list->C_WaitForSlotEvent(CKF_DONT_BLOCK, &slot, NULL) == CKR_NO_EVENT, "what was there is no event");
}

/* Whatever it was doing, it leaves nothing to others that wait. */
static void cancel(pthread_t thread)
{
    void *result;
    check(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0, "pthread_cancel");
    check(result == PTHREAD_CANCELED, "a thread that waits can be cancelled");
}

/* It hears what changes from now on, and nothing of what its parent waits for. */
static _Noreturn void live_as_child(unsigned slot, int descriptors)
{
    CK_SLOT_ID found = 0;
    CK_RV rv = CKR_OK;
    alarm(PATIENCE_S);
    do
        rv = list->C_WaitForSlotEvent(CKF_DONT_BLOCK, &found, NULL);
    while (rv == CKR_OK);
    check(rv == CKR_NO_EVENT, "there is nothing to hear yet");
    change(slot);
    check(list->C_WaitForSlotEvent(0, &found, NULL) == CKR_OK && found == slot + 1, "a child's own event");
    check(list->C_Finalize(NULL) == CKR_OK, "C_Finalize of a child");
    check(descriptors == 0 || count_in("/proc/self/fd") <= descriptors, "no descriptor is left in a child");
    _exit(0);
}

static void fork_a_child(unsigned slot, int descriptors)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        live_as_child(slot, descriptors);
    check(waitpid(pid, &status, 0) == pid && status == 0, "a child");
    await_hearing(slot);
}

static void live_once(int descriptors, bool cancels)
{
    pthread_t threads[THREADS];
    alarm(PATIENCE_S);
    initialize();
    start_all(threads);
    for (unsigned i = 0; i < CHANGES; i++) {
        if (i == CHANGES / 2)
            fork_a_child(0, descriptors);
        if (cancels && i == CHANGES / 2 + 1)
            cancel(threads[0]);
        change(i % SLOTS);
        await_hearing(i % SLOTS);
    }
    check(list->C_Finalize(NULL) == CKR_OK, "C_Finalize");
    for (int i = cancels; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < SLOTS; i++)
        changed[i] = atomic_load(&heard[i]);
}

int main(int argc, char **argv)
{
    check(argc == 4 || argc == 5, "usage");
    bool cancels = argc == 4;
    list = load(argv[1]);
    board = board_open(argv[2]);
    check(board != NULL, "the board");
    live_once(0, cancels);
    int descriptors = count_in("/proc/self/fd"), threads = count_in("/proc/self/task");
    for (int i = 1; i < atoi(argv[3]); i++) {
        live_once(descriptors, cancels);
        expect_left(descriptors, threads);
    }
    printf("%lu\n", atomic_load(&waits));
    return 0;
}
