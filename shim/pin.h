/*
 * The PIN that the broker gave this helper, for an application that had logged in before (`resume`). Used once, then wiped.
 *
 * It is read before the provider is loaded, who gets to see it in C_Login as it would anyway.
 */
#ifndef P11HOST_PIN_H
#define P11HOST_PIN_H

#include <stdint.h>

#include "provider.h"
#include "share.h"

/* Reads it from a pipe, which stays the caller's. Without one there is none. */
void pin_read(int fd);

/* Logs the user in, in a session that a process has. CKR_USER_NOT_LOGGED_IN if there is no PIN, or none any more. */
CK_RV pin_log_in(struct provider *provider, CK_ULONG session, uint32_t owner);

#endif
