/* Starts a broker on demand, without a trace in the program that loaded us: no child to wait for, no signal. */
#ifndef P11HOST_START_H
#define P11HOST_START_H

#include <stdbool.h>

/* Runs p11host-start, found beside this library. False if it is not there or the environment is not to be trusted. */
bool start_broker(void);

#endif
