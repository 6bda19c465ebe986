/* What tells a token from another, at both ends. */
#ifndef P11HOST_TOKEN_FACE_H
#define P11HOST_TOKEN_FACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cryptoki.h"

/* All zero: a card is there, and no token. */
struct token_face {
    uint8_t label[32], manufacturer[32], model[16], serial[16];
    uint64_t flags; /* of TOKEN_FACE_FLAGS */
};

/* What becomes of a PIN makes it no other one. */
#define TOKEN_FACE_FLAGS (CKF_WRITE_PROTECTED | CKF_LOGIN_REQUIRED | CKF_PROTECTED_AUTHENTICATION_PATH | CKF_TOKEN_INITIALIZED)

static inline void token_face_of(struct token_face *ret_face, const CK_TOKEN_INFO *info)
{
    memcpy(ret_face->label, info->label, sizeof ret_face->label);
    memcpy(ret_face->manufacturer, info->manufacturerID, sizeof ret_face->manufacturer);
    memcpy(ret_face->model, info->model, sizeof ret_face->model);
    memcpy(ret_face->serial, info->serialNumber, sizeof ret_face->serial);
    ret_face->flags = info->flags & TOKEN_FACE_FLAGS;
}

/* By what it is called: flags may change while sessions are open. */
static inline bool token_face_is_same(const struct token_face *a, const struct token_face *b)
{
    return !memcmp(a, b, offsetof(struct token_face, flags));
}

#endif
