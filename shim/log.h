/* Says on stderr what went wrong, if the environment variable P11HOST_LOG asks for it; else does nothing. */
#ifndef P11HOST_LOG_H
#define P11HOST_LOG_H

/* An event by name, then key=value as printf says. Never a PIN, a key or a buffer. Needs no newline. */
void log_event(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
