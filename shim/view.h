/*
 * Which of its provider's slots a helper shows: what token selectors of the configuration leave (section 10 of the protocol).
 *
 * A selector is conditions on a slot's id and on fields of the structs that the provider fills for a slot. Which structs and
 * fields these are the broker says, and the tables know. What is in a slot can change at any time, so it is looked at anew
 * whenever a call names the slot; a call with a session costs nothing: what that was opened with is gone once it is taken out.
 */
#ifndef P11HOST_VIEW_H
#define P11HOST_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "provider.h"
#include "share.h"

struct view;

/* NULL with a negative errno in *ret_error: -EBADMSG or -EMSGSIZE for what is no view, -ENOMEM. It is never freed but by view_free. */
struct view *view_decode(const uint8_t *packed, size_t len, int *ret_error);
void view_free(struct view *view);

/*
 * Does the provider's view show this slot, as it is now? A slot without a token is shown if one might come that is, and
 * hidden if what is in it cannot be told. Calls the provider; without a view all are shown.
 */
bool view_shows(struct provider *provider, CK_SLOT_ID slot);

/* A call of a provider that has a view. */
CK_RV view_call_narrowed(struct provider *provider, unsigned fn, uintptr_t *words, uint32_t owner);

/* A call of functions[fn] by the process `owner`, as share_call makes it; slots that are not shown are none. */
static inline CK_RV view_call(struct provider *provider, unsigned fn, uintptr_t *words, uint32_t owner)
{
    return provider->view ? view_call_narrowed(provider, fn, words, owner) : share_call(provider, fn, words, owner);
}

#endif
