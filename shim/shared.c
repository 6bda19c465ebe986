#include "shared.h"

#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

#include "bell.h"
#include "limits.h"

static _Atomic(void *) pages[LIMIT_CHANNELS];

enum { PAGES = sizeof pages / sizeof *pages };

static void exchange_first(void *old, void *new)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *expected = old;
        if (atomic_compare_exchange_strong(&pages[i], &expected, new))
            return;
    }
}

void shared_remember(void *page)
{
    if (page)
        exchange_first(NULL, page);
}

void shared_forget(void *page)
{
    if (page)
        exchange_first(page, NULL);
}

void shared_leave_inherited(void)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *page = atomic_exchange(&pages[i], NULL);
        if (page)
            mmap(page, BELL_PAGE + LIMIT_SHELF, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    }
}
