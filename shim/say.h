/* What a helper says of itself: a line on standard error, which the broker logs. */
#ifndef P11HOST_SAY_H
#define P11HOST_SAY_H

/* If there is room for it at once. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
