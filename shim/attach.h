/* The application's side of the control protocol (specs/PROTOCOL.md, section 6): which modules, and their doors. */
#ifndef P11HOST_ATTACH_H
#define P11HOST_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "cryptoki.h"
#include "limits.h"
#include "rows.h"

struct offer {
    char name[LIMIT_NAME + 1];
    char error[256];
    int door; /* -1 when there is none; else the receiver's to close */
    uint64_t helper; /* the broker's number of its process, 0 if it did not say */
    uint64_t short_ms, long_ms, start_ms, list_ms;
    struct rows *rows; /* the receiver's to free; NULL: the standard's tables are all */
    bool strict;    /* a forked child must call C_Initialize */
    bool inherited; /* a forked child shares this helper */
    uint32_t broken[LIMIT_BROKEN]; /* CK_RVs after which this helper is to be ended; 0 ends the list */
    uint32_t broken_pause_ms;      /* at most once in this time */
    bool resumes;   /* after its helper's death the application goes on with the next one */
};

/*
 * Asks the broker for all modules, or the chosen one (`module` NULL), or for a new helper of one. Writes at most LIMIT_MODULES offers.
 * CKR_OK, or CKR_GENERAL_ERROR when there is no broker or it refused; the log says which.
 */
CK_RV attach(const char *module, bool resume, struct offer *ret_offers, unsigned *ret_count);

/*
 * Tells the broker, if that can be done at once, that this helper is of no more use: it returned `rv`, or a call to it has passed its
 * deadline if that is CKR_OK.
 */
void attach_report(const char *module, uint64_t helper, CK_RV rv);

/* Closes the door to the broker. */
void attach_close(void);

#endif
