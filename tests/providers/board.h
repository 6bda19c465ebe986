/*
 * A board: memory in a file, in which somebody says what is in the slots of readers.c. Python's side is tests/board.py.
 */
#ifndef BOARD_H
#define BOARD_H

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BOARD_SLOTS = 1024 };
enum board_call { BOARD_NO_CALL, BOARD_LIST, BOARD_SLOT, BOARD_TOKEN, BOARD_WAIT };

struct board_slot {
    _Atomic uint32_t token;   /* its serial number, 0 for none */
    _Atomic uint32_t changes; /* so far */
};

struct board {
    _Atomic uint32_t bell; /* a futex: one more with each change */
    _Atomic uint32_t n_slots;
    _Atomic uint32_t stuck; /* calls stand still as long as this is not 0 */
    _Atomic uint32_t looks; /* at the list of slots, so far */
    _Atomic uint32_t waits; /* calls of C_WaitForSlotEvent, so far */
    _Atomic uint32_t deadly; /* the call that ends the process, an enum board_call */
    uint32_t apart[10];
    struct board_slot slots[BOARD_SLOTS];
};

static inline struct board *board_open(const char *path)
{
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    return at == MAP_FAILED ? NULL : at;
}

static inline void board_ring(struct board *board)
{
    atomic_fetch_add(&board->bell, 1);
    syscall(SYS_futex, &board->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static inline void board_await(struct board *board, uint32_t rung, long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    syscall(SYS_futex, &board->bell, FUTEX_WAIT, rung, &t, NULL, 0);
}

#endif
