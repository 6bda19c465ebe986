/*
 * race MODULE BOARD COUNT: changes a slot COUNT times, somewhere between a look for events and the wait that follows, and waits for it each time.
 * Prints how many events were of another slot, or none, and the median and the longest time from change to wake-up, in microseconds. One
 * that is lost is waited for in vain: then the alarm ends it.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "../providers/board.h"
#include "load.h"

enum { MOST_DELAY_NS = 300000, PATIENCE_S = 30 };

static struct board *board;
static CK_FUNCTION_LIST *list;
static atomic_ulong asked, changed; /* changes wanted, and made */
static _Atomic uint64_t changed_at;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void change(unsigned long turn)
{
    struct board_slot *slot = &board->slots[turn % atomic_load(&board->n_slots)];
    atomic_store(&changed_at, now_ns());
    atomic_fetch_xor(&slot->token, 1);
    atomic_fetch_add(&slot->changes, 1);
    board_ring(board);
    atomic_store(&changed, turn + 1);
}

/* As soon as it is wanted, or a moment later. */
static void *change_on(void *count)
{
    unsigned seed = 1;
    for (unsigned long turn = 0; turn < *(unsigned long *)count; turn++) {
        while (atomic_load(&asked) == turn)
            sched_yield();
        uint64_t until = now_ns() + (uint64_t)rand_r(&seed) % MOST_DELAY_NS;
        while (now_ns() < until)
            sched_yield();
        change(turn);
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    pthread_t changer;
    CK_SLOT_ID slot;
    unsigned long wrong = 0;
    check(argc == 4, "usage");
    list = load(argv[1]);
    board = board_open(argv[2]);
    check(board != NULL, "the board");
    unsigned long count = strtoul(argv[3], NULL, 10), slots = atomic_load(&board->n_slots);
    uint64_t *took = calloc(count, sizeof *took);
    check(took && list->C_Initialize(NULL) == CKR_OK, "C_Initialize");
    CK_ULONG all = 0;
    check(list->C_GetSlotList(0, NULL, &all) == CKR_OK && all == slots, "C_GetSlotList");
    pthread_create(&changer, NULL, change_on, &count);
    for (unsigned long turn = 0; turn < count; turn++) {
        alarm(PATIENCE_S);
        wrong += list->C_WaitForSlotEvent(CKF_DONT_BLOCK, &slot, NULL) != CKR_NO_EVENT;
        atomic_store(&asked, turn + 1);
        check(list->C_WaitForSlotEvent(0, &slot, NULL) == CKR_OK, "C_WaitForSlotEvent");
        took[turn] = now_ns() - atomic_load(&changed_at);
        wrong += atomic_load(&changed) + 1 < turn + 1 || slot != turn % slots + 1;
    }
    pthread_join(changer, NULL);
    check(list->C_Finalize(NULL) == CKR_OK, "C_Finalize");
    qsort(took, count, sizeof *took, compare);
    printf("%lu %lu %lu\n", wrong, (unsigned long)(took[count / 2] / 1000), (unsigned long)(took[count - 1] / 1000));
    return 0;
}
