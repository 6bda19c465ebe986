/* Descriptors of this process, counted: whatever a test opens and what comes through sockets must be closed again. */
#ifndef P11HOST_FD_COUNT_H
#define P11HOST_FD_COUNT_H

#include <stdbool.h>

unsigned open_descriptors(void);
bool is_open(int fd);
bool is_closed_on_exec(int fd);

/* A pair of connected sockets, close-on-exec; the program ends if there is none. */
void make_pair(int type, int ret_ends[2]);

#endif
