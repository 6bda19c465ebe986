/*
 * What a provider may do, by its module's profile (section 9 of the protocol): another user, limits, Landlock for files
 * and TCP, a filter for system calls. From then on this process and all in it are confined, for good.
 *
 * Knows the kernel. What a module needs, and why, is the broker's to know.
 */
#ifndef P11HOST_SANDBOX_H
#define P11HOST_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Takes the profile from a file, -1 for none. `learn` is a socket to whoever hears of what would be denied, -1 if what is
 * denied fails. False with a sentence for people in ret_error: nothing may be loaded then.
 */
bool sandbox_enter(int profile, int learn, char *ret_error, size_t size);

#endif
