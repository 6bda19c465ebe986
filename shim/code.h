/* Return values as a person reads them: by their names in the standard. */
#ifndef P11HOST_CODE_H
#define P11HOST_CODE_H

#include "cryptoki.h"

/* For the number of one that has no name. */
#define CODE_ROOM 32

/* The name of a return value; of one that has none the number, which is written to `room`. */
const char *code_name(CK_RV rv, char room[CODE_ROOM]);

#endif
