#include "pin.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "limits.h"
#include "slate.h"

enum { PAGE = 4096 };
_Static_assert(LIMIT_PIN <= PAGE, "a PIN has room on its page");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *pin; /* a page of its own, never written to a disk or a core file, and not in what a provider forks */
static size_t len;

void pin_read(int fd)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return;
    mlock(page, PAGE);
    madvise(page, PAGE, MADV_DONTDUMP);
    madvise(page, PAGE, MADV_WIPEONFORK);
    ssize_t n = read(fd, page, LIMIT_PIN);
    pin = page;
    len = n > 0 ? (size_t)n : 0;
}

static void wipe(void)
{
    explicit_bzero(pin, LIMIT_PIN);
    len = 0;
}

/* The broker must know that it was tried even if this is the last thing we do: a PIN that may have been wrong is not tried again. */
CK_RV pin_log_in(struct provider *provider, CK_ULONG session, uint32_t owner)
{
    CK_RV rv = CKR_USER_NOT_LOGGED_IN;
    pthread_mutex_lock(&lock);
    if (len) {
        uintptr_t words[] = {session, CKU_USER, (uintptr_t)pin, len};
        slate_note_pin(SLATE_PIN_TRIED);
        rv = share_call(provider, FN_C_Login, words, owner);
        wipe();
        bool good = rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN;
        slate_note_pin(good ? SLATE_PIN_GOOD : SLATE_PIN_REFUSED);
        if (good)
            slate_note_user(); /* as it was in the life before */
    }
    pthread_mutex_unlock(&lock);
    return rv;
}
