/* A libpcsclite without a pcscd, as LIBPCSCLITE_DELEGATE wants one too: its readers are as the file says that
 * PCSC_CROWD names. For more readers than pcscd has places for, and for those that come and go while it runs. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <PCSC/winscard.h>

enum { MOST = 128, LOOK_MS = 5 };

static const char notification[] = "\\\\?PnP?\\Notification";
static const unsigned char atr[] = {0x3b, 0x00};

/* `count` are there; each has its name and its dwEventState. */
static const volatile struct crowd {
    unsigned count;
    struct reader {
        unsigned state;
        char name[60];
    } readers[MOST];
} *crowd;

static volatile int cancelled;

/* What pyscard looks for besides. */
const SCARD_IO_REQUEST g_rgSCardT0Pci = {0}, g_rgSCardT1Pci = {0}, g_rgSCardRawPci = {0};

__attribute__((used)) static LONG unsupported(void)
{
    return SCARD_E_UNSUPPORTED_FEATURE;
}

#define UNSUPPORTED(function) __asm__(".globl " #function "\n.set " #function ", unsupported")
UNSUPPORTED(SCardBeginTransaction);
UNSUPPORTED(SCardConnect);
UNSUPPORTED(SCardControl);
UNSUPPORTED(SCardDisconnect);
UNSUPPORTED(SCardEndTransaction);
UNSUPPORTED(SCardGetAttrib);
UNSUPPORTED(SCardListReaderGroups);
UNSUPPORTED(SCardReconnect);
UNSUPPORTED(SCardSetAttrib);
UNSUPPORTED(SCardStatus);
UNSUPPORTED(SCardTransmit);

LONG SCardEstablishContext(DWORD scope, LPCVOID reserved1, LPCVOID reserved2, LPSCARDCONTEXT context)
{
    (void) scope, (void) reserved1, (void) reserved2;
    int file = open(getenv("PCSC_CROWD"), O_RDONLY | O_CLOEXEC);
    void *at = mmap(NULL, sizeof *crowd, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at == MAP_FAILED)
        return SCARD_E_NO_SERVICE;
    crowd = at;
    *context = 1;
    return SCARD_S_SUCCESS;
}

LONG SCardReleaseContext(SCARDCONTEXT context)
{
    (void) context;
    return SCARD_S_SUCCESS;
}

LONG SCardCancel(SCARDCONTEXT context)
{
    (void) context;
    cancelled = 1;
    return SCARD_S_SUCCESS;
}

LONG SCardFreeMemory(SCARDCONTEXT context, LPCVOID memory)
{
    (void) context;
    free((void *) memory);
    return SCARD_S_SUCCESS;
}

/* The names one after the other, each with its NUL, and one NUL more. */
static char *names(DWORD *ret_size)
{
    char *all = calloc(MOST, sizeof crowd->readers[0].name);
    DWORD used = 0;
    for (unsigned i = 0, count = crowd->count; all && i < count && i < MOST; i++) {
        strcpy(all + used, (const char *) crowd->readers[i].name);
        used += strlen(all + used) + 1;
    }
    *ret_size = used + 1;
    return all;
}

LONG SCardListReaders(SCARDCONTEXT context, LPCSTR groups, LPSTR readers, LPDWORD size)
{
    (void) context, (void) groups;
    DWORD used, room = *size;
    char *all = names(&used);
    *size = used;
    if (readers && room == SCARD_AUTOALLOCATE) {
        memcpy(readers, &all, sizeof all);
    } else {
        if (readers && room >= used)
            memcpy(readers, all, used);
        free(all);
    }
    if (used <= 1)
        return SCARD_E_NO_READERS_AVAILABLE;
    return readers && room < used ? SCARD_E_INSUFFICIENT_BUFFER : SCARD_S_SUCCESS;
}

static DWORD state_of(const char *name)
{
    for (unsigned i = 0; i < crowd->count; i++)
        if (strcmp(name, (const char *) crowd->readers[i].name) == 0)
            return crowd->readers[i].state;
    return SCARD_STATE_UNKNOWN;
}

/* Whether it is another than is known. */
static int look(SCARD_READERSTATE *reader, unsigned count_at_first)
{
    DWORD known = reader->dwCurrentState & ~(DWORD) SCARD_STATE_CHANGED;
    DWORD now = state_of(reader->szReader);
    int changed = now != known;
    if (strcmp(reader->szReader, notification) == 0)
        now = 0, changed = crowd->count != count_at_first;
    reader->dwEventState = now | (changed ? SCARD_STATE_CHANGED : 0);
    reader->cbAtr = now & SCARD_STATE_PRESENT ? sizeof atr : 0;
    memcpy(reader->rgbAtr, atr, reader->cbAtr);
    return changed;
}

LONG SCardGetStatusChange(SCARDCONTEXT context, DWORD timeout, SCARD_READERSTATE *readers, DWORD count)
{
    (void) context;
    unsigned at_first = crowd->count;
    cancelled = 0;
    for (DWORD ms = 0;; ms += LOOK_MS) {
        int changed = 0;
        for (DWORD i = 0; i < count; i++)
            changed |= look(&readers[i], at_first);
        if (changed)
            return SCARD_S_SUCCESS;
        if (cancelled)
            return SCARD_E_CANCELLED;
        if (ms >= timeout)
            return SCARD_E_TIMEOUT;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
}
