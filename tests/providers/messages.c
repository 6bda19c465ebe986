/*
 * A provider for tests: a toy cipher behind the message API, that generates IVs and nonces and writes tags, and ordinary
 * operations that write the IV they were begun with late, as AWS CloudHSM does (late.h).
 */
#include <stddef.h>
#include <string.h>

#include "cryptoki.h"
#include "frame.h"
#include "toy.h"

enum { SLOT = 5, SESSIONS = 64 };
#define NAME "messages"
#include "single.h"

static CK_ULONG sessions;

/* ---- sessions ---- */

/* Of each session: the mechanism of its messages, by operation, and what an ordinary operation was begun with. */
static struct session {
    int open;
    struct toy toy;
    struct {
        int active;
        CK_MECHANISM_TYPE mechanism;
    } messages[4];
    struct {
        int active;
        CK_BYTE *iv;
        CK_ULONG iv_len;
    } plain[2];
} all[SESSIONS];

enum { ENCRYPT, DECRYPT, SIGN, VERIFY };

static struct session *find(CK_SESSION_HANDLE session)
{
    return session >= 1 && session < SESSIONS && all[session].open ? &all[session] : NULL;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    (void)flags, (void)application, (void)notify;
    if (slot != SLOT || sessions + 2 > SESSIONS)
        return CKR_SLOT_ID_INVALID;
    *session = ++sessions;
    all[*session] = (struct session){.open = 1};
    return CKR_OK;
}

/* The next one opened has the handle of the one closed last. */
static CK_RV close_session(CK_SESSION_HANDLE session)
{
    struct session *s = find(session);
    if (!s)
        return CKR_SESSION_HANDLE_INVALID;
    s->open = 0;
    sessions = session - 1;
    return CKR_OK;
}

static CK_RV close_all_sessions(CK_SLOT_ID slot)
{
    (void)slot;
    memset(all, 0, sizeof all);
    sessions = 0;
    return CKR_OK;
}

static CK_RV session_cancel(CK_SESSION_HANDLE session, CK_FLAGS flags)
{
    static const CK_FLAGS of[] = {CKF_MESSAGE_ENCRYPT, CKF_MESSAGE_DECRYPT, CKF_MESSAGE_SIGN, CKF_MESSAGE_VERIFY};
    struct session *s = find(session);
    if (!s)
        return CKR_SESSION_HANDLE_INVALID;
    for (unsigned i = 0; i < 4; i++)
        if (flags & of[i])
            s->messages[i].active = 0;
    if (flags & CKF_ENCRYPT)
        s->plain[0].active = 0;
    if (flags & CKF_SIGN)
        s->plain[1].active = 0;
    return CKR_OK;
}

#include "late.h"

/* ---- operations of messages ---- */

static CK_RV begin(CK_SESSION_HANDLE session, const CK_MECHANISM *mechanism, unsigned of)
{
    struct session *s = find(session);
    if (!s)
        return CKR_SESSION_HANDLE_INVALID;
    if (mechanism && mechanism->pParameter)
        return CKR_MECHANISM_PARAM_INVALID;
    s->messages[of].active = mechanism != NULL;
    s->messages[of].mechanism = mechanism ? mechanism->mechanism : 0;
    return CKR_OK;
}

static CK_RV finish(CK_SESSION_HANDLE session, unsigned of)
{
    struct session *s = find(session);
    if (!s || !s->messages[of].active)
        return s ? CKR_OPERATION_NOT_INITIALIZED : CKR_SESSION_HANDLE_INVALID;
    s->messages[of].active = 0;
    return CKR_OK;
}

static CK_RV use(CK_SESSION_HANDLE session, unsigned of, void *parameter, CK_ULONG len, struct session **ret, struct parameter *p)
{
    struct session *s = *ret = find(session);
    if (!s)
        return CKR_SESSION_HANDLE_INVALID;
    if (!s->messages[of].active)
        return CKR_OPERATION_NOT_INITIALIZED;
    return read_parameter(s->messages[of].mechanism, parameter, len, p) ? CKR_OK : CKR_MECHANISM_PARAM_INVALID;
}

#define INIT_AND_FINAL(name, of) \
    static CK_RV name##_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key) \
    { \
        (void)key; \
        return begin(session, mechanism, of); \
    } \
    static CK_RV name##_final(CK_SESSION_HANDLE session) \
    { \
        return finish(session, of); \
    }

INIT_AND_FINAL(message_encrypt, ENCRYPT)
INIT_AND_FINAL(message_decrypt, DECRYPT)
INIT_AND_FINAL(message_sign, SIGN)
INIT_AND_FINAL(message_verify, VERIFY)

/* The IV is there before the buffer turns out to be too small. */
static CK_RV encrypt_message(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *aad, CK_ULONG aad_len,
                             CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    struct session *s;
    struct parameter p;
    struct toy toy;
    CK_RV rv = use(session, ENCRYPT, parameter, len, &s, &p);
    if (rv != CKR_OK)
        return rv;
    generate(&p);
    toy_begin(&toy, p.iv, p.iv_len, aad, aad_len);
    rv = toy_crypt(&toy, in, in_len, out, out_len, 1);
    if (rv == CKR_OK && out)
        write_tag(&toy, &p);
    return rv;
}

static CK_RV decrypt_message(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *aad, CK_ULONG aad_len,
                             CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    struct session *s;
    struct parameter p;
    struct toy toy;
    CK_RV rv = use(session, DECRYPT, parameter, len, &s, &p);
    if (rv != CKR_OK)
        return rv;
    toy_begin(&toy, p.iv, p.iv_len, aad, aad_len);
    rv = toy_crypt(&toy, in, in_len, out, out_len, 0);
    return rv == CKR_OK && out && !is_tag(&toy, &p) ? CKR_AEAD_DECRYPT_FAILED : rv;
}

static CK_RV begin_message(CK_SESSION_HANDLE session, unsigned of, void *parameter, CK_ULONG len, const CK_BYTE *aad, CK_ULONG aad_len)
{
    struct session *s;
    struct parameter p;
    CK_RV rv = use(session, of, parameter, len, &s, &p);
    if (rv != CKR_OK)
        return rv;
    if (of == ENCRYPT)
        generate(&p);
    toy_begin(&s->toy, p.iv, p.iv_len, aad, aad_len);
    return CKR_OK;
}

static CK_RV encrypt_message_begin(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *aad, CK_ULONG aad_len)
{
    return begin_message(session, ENCRYPT, parameter, len, aad, aad_len);
}

static CK_RV decrypt_message_begin(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *aad, CK_ULONG aad_len)
{
    return begin_message(session, DECRYPT, parameter, len, aad, aad_len);
}

static CK_RV next(CK_SESSION_HANDLE session, unsigned of, void *parameter, CK_ULONG len, const CK_BYTE *in, CK_ULONG in_len,
                  CK_BYTE *out, CK_ULONG *out_len, CK_FLAGS flags)
{
    struct session *s;
    struct parameter p;
    CK_RV rv = use(session, of, parameter, len, &s, &p);
    if (rv == CKR_OK)
        rv = toy_crypt(&s->toy, in, in_len, out, out_len, of == ENCRYPT);
    if (rv != CKR_OK || !out || !(flags & CKF_END_OF_MESSAGE))
        return rv;
    if (of == ENCRYPT)
        write_tag(&s->toy, &p);
    else if (!is_tag(&s->toy, &p))
        rv = CKR_AEAD_DECRYPT_FAILED;
    return rv;
}

static CK_RV encrypt_message_next(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *in, CK_ULONG in_len,
                                  CK_BYTE *out, CK_ULONG *out_len, CK_FLAGS flags)
{
    return next(session, ENCRYPT, parameter, len, in, in_len, out, out_len, flags);
}

static CK_RV decrypt_message_next(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *in, CK_ULONG in_len,
                                  CK_BYTE *out, CK_ULONG *out_len, CK_FLAGS flags)
{
    return next(session, DECRYPT, parameter, len, in, in_len, out, out_len, flags);
}

/* ---- signatures of messages: one byte, over data and IV, which is counted up ---- */

static CK_RV sign_message_begin(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len)
{
    return begin_message(session, SIGN, parameter, len, NULL, 0);
}

static CK_RV verify_message_begin(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len)
{
    return begin_message(session, VERIFY, parameter, len, NULL, 0);
}

static void digest(struct toy *toy, const CK_BYTE *data, CK_ULONG len)
{
    for (CK_ULONG i = 0; i < len; i++)
        toy->sum = (CK_BYTE)(toy->sum * 3 + data[i]);
}

static CK_BYTE conclude(const struct toy *toy, const struct parameter *p)
{
    CK_BYTE signature = (CK_BYTE)(toy->sum ^ (toy->iv_len ? toy->iv[0] : 0));
    if (p->iv_len)
        p->iv[0]++;
    return signature;
}

/* Without a place for the signature's length more parts follow. */
static CK_RV sign_message_next(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *data, CK_ULONG data_len,
                               CK_BYTE *signature, CK_ULONG *signature_len)
{
    struct session *s;
    struct parameter p;
    CK_RV rv = use(session, SIGN, parameter, len, &s, &p);
    if (rv != CKR_OK)
        return rv;
    digest(&s->toy, data, data_len);
    if (!signature_len)
        return CKR_OK;
    *signature_len = 1;
    if (signature)
        *signature = conclude(&s->toy, &p);
    return CKR_OK;
}

static CK_RV sign_message(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *data, CK_ULONG data_len,
                          CK_BYTE *signature, CK_ULONG *signature_len)
{
    CK_RV rv = sign_message_begin(session, parameter, len);
    return rv == CKR_OK ? sign_message_next(session, parameter, len, data, data_len, signature, signature_len) : rv;
}

static CK_RV verify_message_next(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *data, CK_ULONG data_len,
                                 CK_BYTE *signature, CK_ULONG signature_len)
{
    struct session *s;
    struct parameter p;
    CK_RV rv = use(session, VERIFY, parameter, len, &s, &p);
    if (rv != CKR_OK)
        return rv;
    digest(&s->toy, data, data_len);
    if (!signature)
        return CKR_OK;
    return signature_len == 1 && *signature == conclude(&s->toy, &p) ? CKR_OK : CKR_SIGNATURE_INVALID;
}

static CK_RV verify_message(CK_SESSION_HANDLE session, void *parameter, CK_ULONG len, CK_BYTE *data, CK_ULONG data_len,
                            CK_BYTE *signature, CK_ULONG signature_len)
{
    CK_RV rv = verify_message_begin(session, parameter, len);
    return rv == CKR_OK ? verify_message_next(session, parameter, len, data, data_len, signature, signature_len) : rv;
}

/* ---- authenticated wrapping ---- */

static CK_RV wrap_key_authenticated(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE by, CK_OBJECT_HANDLE key,
                                    CK_BYTE *aad, CK_ULONG aad_len, CK_BYTE *wrapped, CK_ULONG *len)
{
    static const CK_BYTE value[] = "a key's value";
    struct parameter p;
    struct toy toy;
    (void)by, (void)key;
    if (!find(session) || !read_parameter(mechanism->mechanism, mechanism->pParameter, mechanism->ulParameterLen, &p))
        return CKR_MECHANISM_PARAM_INVALID;
    generate(&p);
    toy_begin(&toy, p.iv, p.iv_len, aad, aad_len);
    CK_RV rv = toy_crypt(&toy, value, sizeof value, wrapped, len, 1);
    if (rv == CKR_OK && wrapped)
        write_tag(&toy, &p);
    return rv;
}

static CK_RV unwrap_key_authenticated(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE by, CK_BYTE *wrapped,
                                      CK_ULONG len, CK_ATTRIBUTE *template, CK_ULONG count, CK_BYTE *aad, CK_ULONG aad_len,
                                      CK_OBJECT_HANDLE *key)
{
    CK_BYTE value[64];
    CK_ULONG room = sizeof value;
    struct parameter p;
    struct toy toy;
    (void)by, (void)template, (void)count;
    if (!find(session) || !read_parameter(mechanism->mechanism, mechanism->pParameter, mechanism->ulParameterLen, &p))
        return CKR_MECHANISM_PARAM_INVALID;
    toy_begin(&toy, p.iv, p.iv_len, aad, aad_len);
    CK_RV rv = toy_crypt(&toy, wrapped, len, value, &room, 0);
    if (rv != CKR_OK || !is_tag(&toy, &p))
        return CKR_AEAD_DECRYPT_FAILED;
    *key = 77;
    return CKR_OK;
}

/* ---- the library ---- */

static void fill(CK_FUNCTION_LIST *list)
{
    fill_single(list);
    list->C_OpenSession = open_session;
    list->C_CloseSession = close_session;
    list->C_CloseAllSessions = close_all_sessions;
    fill_late(list);
}

/* A list of 3.2 begins as one of 2.40 does; every entry must be there. */
static union {
    CK_FUNCTION_LIST_3_2 list;
    struct {
        CK_VERSION version;
        entry entries[FUNCTION_COUNT];
    } all;
} whole = {.all.version = {3, 2}};

static void fill_messages(CK_FUNCTION_LIST_3_2 *list)
{
    list->C_MessageEncryptInit = message_encrypt_init;
    list->C_EncryptMessage = encrypt_message;
    list->C_EncryptMessageBegin = encrypt_message_begin;
    list->C_EncryptMessageNext = encrypt_message_next;
    list->C_MessageEncryptFinal = message_encrypt_final;
    list->C_MessageDecryptInit = message_decrypt_init;
    list->C_DecryptMessage = decrypt_message;
    list->C_DecryptMessageBegin = decrypt_message_begin;
    list->C_DecryptMessageNext = decrypt_message_next;
    list->C_MessageDecryptFinal = message_decrypt_final;
    list->C_MessageSignInit = message_sign_init;
    list->C_SignMessage = sign_message;
    list->C_SignMessageBegin = sign_message_begin;
    list->C_SignMessageNext = sign_message_next;
    list->C_MessageSignFinal = message_sign_final;
    list->C_MessageVerifyInit = message_verify_init;
    list->C_VerifyMessage = verify_message;
    list->C_VerifyMessageBegin = verify_message_begin;
    list->C_VerifyMessageNext = verify_message_next;
    list->C_MessageVerifyFinal = message_verify_final;
    list->C_SessionCancel = session_cancel;
    list->C_WrapKeyAuthenticated = wrap_key_authenticated;
    list->C_UnwrapKeyAuthenticated = unwrap_key_authenticated;
}

__attribute__((visibility("default"))) CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **interface,
                                                            CK_FLAGS flags)
{
    static CK_UTF8CHAR standard[] = "PKCS 11";
    static CK_INTERFACE the_interface = {standard, &whole, 0};
    CK_FUNCTION_LIST *first;
    (void)name, (void)version, (void)flags;
    C_GetFunctionList(&first);
    for (size_t i = 0; i < FUNCTION_COUNT; i++)
        whole.all.entries[i] = i < ENTRIES ? functions.all.entries[i] : not_supported;
    fill_messages(&whole.list);
    *interface = &the_interface;
    return CKR_OK;
}
