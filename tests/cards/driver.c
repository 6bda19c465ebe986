/* A driver for pcscd: readers whose slots are as the file says that is their device. Byte 0 is how many there
 * are; each byte after it is a slot: empty, with a card, or one from which the driver gets no answer. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <PCSC/ifdhandler.h>

enum { MOST = 16, CARD = 1, FAILING = 2 };

static const volatile unsigned char *board;
static const unsigned char atr[] = {0x3b, 0x00};

static unsigned char state(DWORD lun)
{
    return board[1 + lun % MOST];
}

static RESPONSECODE give(PDWORD length, PUCHAR value, unsigned char byte)
{
    *length = 1;
    *value = byte;
    return IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannelByName(DWORD lun, LPSTR device)
{
    (void) lun;
    if (board)
        return IFD_SUCCESS;
    int file = open(device, O_RDONLY | O_CLOEXEC);
    void *at = mmap(NULL, 1 + MOST, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at == MAP_FAILED)
        return IFD_COMMUNICATION_ERROR;
    board = at;
    return IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannel(DWORD lun, DWORD channel)
{
    (void) lun, (void) channel;
    return IFD_NOT_SUPPORTED;
}

RESPONSECODE IFDHCloseChannel(DWORD lun)
{
    (void) lun;
    return IFD_SUCCESS;
}

RESPONSECODE IFDHGetCapabilities(DWORD lun, DWORD tag, PDWORD length, PUCHAR value)
{
    (void) lun;
    if (tag == TAG_IFD_SLOTS_NUMBER)
        return give(length, value, board[0]);
    if (tag == TAG_IFD_SLOT_THREAD_SAFE)
        return give(length, value, 1);
    return IFD_ERROR_TAG;
}

RESPONSECODE IFDHSetCapabilities(DWORD lun, DWORD tag, DWORD length, PUCHAR value)
{
    (void) lun, (void) tag, (void) length, (void) value;
    return IFD_NOT_SUPPORTED;
}

RESPONSECODE IFDHSetProtocolParameters(DWORD lun, DWORD protocol, UCHAR flags, UCHAR pts1, UCHAR pts2, UCHAR pts3)
{
    (void) lun, (void) protocol, (void) flags, (void) pts1, (void) pts2, (void) pts3;
    return IFD_SUCCESS;
}

RESPONSECODE IFDHPowerICC(DWORD lun, DWORD action, PUCHAR value, PDWORD length)
{
    (void) action;
    *length = 0;
    if (state(lun) != CARD)
        return IFD_COMMUNICATION_ERROR;
    memcpy(value, atr, sizeof atr);
    *length = sizeof atr;
    return IFD_SUCCESS;
}

RESPONSECODE IFDHTransmitToICC(DWORD lun, SCARD_IO_HEADER send, PUCHAR command, DWORD sent, PUCHAR answer, PDWORD length,
                               PSCARD_IO_HEADER receive)
{
    (void) lun, (void) send, (void) command, (void) sent, (void) receive;
    memcpy(answer, "\x6d\x00", *length = 2); /* there is no such command */
    return IFD_SUCCESS;
}

RESPONSECODE IFDHControl(DWORD lun, DWORD code, PUCHAR given, DWORD size, PUCHAR answer, DWORD room, LPDWORD length)
{
    (void) lun, (void) code, (void) given, (void) size, (void) answer, (void) room;
    *length = 0;
    return IFD_NOT_SUPPORTED;
}

RESPONSECODE IFDHICCPresence(DWORD lun)
{
    if (state(lun) == FAILING)
        return IFD_COMMUNICATION_ERROR;
    return state(lun) == CARD ? IFD_ICC_PRESENT : IFD_ICC_NOT_PRESENT;
}
