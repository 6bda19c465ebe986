/*
 * The decoder of a view, which a helper takes from the broker. What is accepted is no longer so when it is cut short, and can be
 * asked about any slot; what the provider fills in is the same bytes.
 */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "view.h"

static const uint8_t *said;
static size_t said_len;

static void fill(void *info, size_t size)
{
    memset(info, ' ', size);
    memcpy(info, said, said_len < size ? said_len : size);
}

static CK_RV slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    fill(info, sizeof *info);
    return slot % 3 ? CKR_OK : CKR_SLOT_ID_INVALID;
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    fill(info, sizeof *info);
    return slot % 2 ? CKR_OK : CKR_TOKEN_NOT_PRESENT;
}

static struct provider provider = {.list = {.C_GetSlotInfo = slot_info, .C_GetTokenInfo = token_info}};

static void expect_refused(const uint8_t *packed, size_t len)
{
    int error = 0;
    if (view_decode(packed, len, &error))
        found("a view that is cut short, and accepted");
    if (error != -EBADMSG && error != -EMSGSIZE)
        found("another error than for a view that is none");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { SLOTS = 6 };
    int error = 0;
    struct view *view = view_decode(data, size, &error);
    if ((view == NULL) != (error < 0))
        found("a view and an error, or neither");
    if (!view)
        return 0;
    said = data;
    said_len = size;
    provider.view = view;
    for (CK_SLOT_ID slot = 0; slot < SLOTS; slot++)
        view_shows(&provider, slot);
    provider.view = NULL;
    view_free(view);
    expect_refused(data, size - 1);
    return 0;
}
