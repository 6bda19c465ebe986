/* Which module this application sees, if it wants one alone: by pReserved, by P11HOST_MODULE, or by this library's own file name; and how. */
#ifndef P11HOST_SELECTION_H
#define P11HOST_SELECTION_H

#include <stdbool.h>

#include "limits.h"

/* A module's name; empty for all modules. `slot_errors`: these are told in the place of descriptions, also of one module alone. */
struct selection {
    char module[LIMIT_NAME + 1];
    bool slot_errors;
};

/*
 * What C_Initialize's pReserved wants, NULL being nothing: then the environment says, but under AT_SECURE, and else the name of
 * this file if that is p11host-NAME.so. Returns 0, -EINVAL if `reserved` is not "module=NAME", -ENAMETOOLONG if a name is too long for one.
 */
int selection_read(struct selection *selection, const char *reserved);

/* In force from now on, in children too. By one thread at a time, while nobody asks. */
void selection_make(const struct selection *selection);

/* NULL for all modules. */
const char *selection_module(void);

bool selection_slot_errors(void);

#endif
