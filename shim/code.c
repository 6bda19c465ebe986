#include "code.h"

#include <stdio.h>

#include "tables.h"

const char *code_name(CK_RV rv, char room[CODE_ROOM])
{
    for (unsigned i = 0; i < code_count; i++)
        if (codes[i].value == rv)
            return codes[i].name;
    snprintf(room, CODE_ROOM, "CK_RV 0x%lx", (unsigned long)rv);
    return room;
}
