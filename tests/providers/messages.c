/*
 * A provider for tests: a toy cipher behind the message API, that generates IVs and nonces and writes tags, and ordinary
 * operations that write the IV they were begun with late, as AWS CloudHSM does.
 *
 * C_Encrypt and C_SignFinal write an IV of their own where CK_GCM_PARAMS.pIv points, C_EncryptUpdate into one of bytes,
 * which C_EncryptInit has begun to fill. Nothing here is secure; one session at a time may be in each operation.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cryptoki.h"

enum { SLOT = 5, SESSIONS = 64, OWN_IV = 0xc0, GENERATED_IV = 0xa0, POLY1305_TAG = 16, MOST_IV = 64 };

static CK_ULONG sessions;

/* ---- the toy ---- */

struct toy {
    CK_BYTE iv[MOST_IV];
    CK_ULONG iv_len, at;
    CK_BYTE sum;
};

static void toy_begin(struct toy *toy, const CK_BYTE *iv, CK_ULONG iv_len, const CK_BYTE *aad, CK_ULONG aad_len)
{
    *toy = (struct toy){.iv_len = iv_len < MOST_IV ? iv_len : MOST_IV, .sum = 1};
    memcpy(toy->iv, iv, toy->iv_len);
    for (CK_ULONG i = 0; i < aad_len; i++)
        toy->sum = (CK_BYTE)(toy->sum * 3 + aad[i]);
}

static void toy_step(struct toy *toy, const CK_BYTE *in, CK_ULONG len, CK_BYTE *out, int encrypt)
{
    for (CK_ULONG i = 0; i < len; i++, toy->at++) {
        CK_BYTE before = in[i];
        out[i] = (CK_BYTE)(before ^ (toy->iv_len ? toy->iv[toy->at % toy->iv_len] : 0) ^ 0x33);
        toy->sum = (CK_BYTE)(toy->sum * 3 + (encrypt ? before : out[i]));
    }
}

static CK_BYTE toy_tag(const struct toy *toy, CK_ULONG i)
{
    return (CK_BYTE)(toy->sum + i);
}

/* ---- parameters of messages ---- */

struct parameter {
    CK_BYTE *iv, *tag;
    CK_ULONG iv_len, tag_len;
    int generate;
};

static int of_gcm(const CK_GCM_MESSAGE_PARAMS *p, CK_ULONG len, struct parameter *ret)
{
    if (!p || len != sizeof *p)
        return 0;
    *ret = (struct parameter){p->pIv, p->pTag, p->ulIvLen, p->ulTagBits / 8, p->ivGenerator != CKG_NO_GENERATE};
    return 1;
}

static int of_ccm(const CK_CCM_MESSAGE_PARAMS *p, CK_ULONG len, struct parameter *ret)
{
    if (!p || len != sizeof *p)
        return 0;
    *ret = (struct parameter){p->pNonce, p->pMAC, p->ulNonceLen, p->ulMACLen, p->nonceGenerator != CKG_NO_GENERATE};
    return 1;
}

static int of_poly1305(const CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS *p, CK_ULONG len, struct parameter *ret)
{
    if (!p || len != sizeof *p)
        return 0;
    *ret = (struct parameter){p->pNonce, p->pTag, p->ulNonceLen, POLY1305_TAG, 0};
    return 1;
}

/* All others: an IV, which the provider counts up. */
static int read_parameter(CK_MECHANISM_TYPE mechanism, void *p, CK_ULONG len, struct parameter *ret)
{
    switch (mechanism) {
    case CKM_AES_GCM: return of_gcm(p, len, ret);
    case CKM_AES_CCM: return of_ccm(p, len, ret);
    case CKM_CHACHA20_POLY1305: return of_poly1305(p, len, ret);
    default: *ret = (struct parameter){p, NULL, p ? len : 0, 0, 0}; return 1;
    }
}

static void generate(const struct parameter *p)
{
    static CK_BYTE count;
    for (CK_ULONG i = 0; p->generate && i < p->iv_len; i++)
        p->iv[i] = (CK_BYTE)(GENERATED_IV + count + i);
    count = (CK_BYTE)(count + (p->generate ? 1 : 0));
}

static void write_tag(const struct toy *toy, const struct parameter *p)
{
    for (CK_ULONG i = 0; p->tag && i < p->tag_len; i++)
        p->tag[i] = toy_tag(toy, i);
}

static int is_tag(const struct toy *toy, const struct parameter *p)
{
    for (CK_ULONG i = 0; p->tag && i < p->tag_len; i++)
        if (p->tag[i] != toy_tag(toy, i))
            return 0;
    return 1;
}

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

static CK_RV fill(struct toy *toy, const CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len, int encrypt)
{
    CK_ULONG room = *out_len;
    *out_len = in_len;
    if (out && room < in_len)
        return CKR_BUFFER_TOO_SMALL;
    if (out)
        toy_step(toy, in, in_len, out, encrypt);
    return CKR_OK;
}

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
    rv = fill(&toy, in, in_len, out, out_len, 1);
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
    rv = fill(&toy, in, in_len, out, out_len, 0);
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
        rv = fill(&s->toy, in, in_len, out, out_len, of == ENCRYPT);
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
    CK_RV rv = fill(&toy, value, sizeof value, wrapped, len, 1);
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
    CK_RV rv = fill(&toy, wrapped, len, value, &room, 0);
    if (rv != CKR_OK || !is_tag(&toy, &p))
        return CKR_AEAD_DECRYPT_FAILED;
    *key = 77;
    return CKR_OK;
}

/* ---- ordinary operations, which write late ---- */

static CK_RV plain_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, unsigned of)
{
    struct session *s = find(session);
    if (!s)
        return CKR_SESSION_HANDLE_INVALID;
    if (mechanism && s->plain[of].active)
        return CKR_OPERATION_ACTIVE;
    s->plain[of].active = mechanism != NULL;
    s->plain[of].iv = NULL;
    if (!mechanism || !mechanism->pParameter)
        return CKR_OK;
    CK_GCM_PARAMS *gcm = mechanism->pParameter;
    int is_gcm = mechanism->mechanism == CKM_AES_GCM || mechanism->mechanism == CKM_AES_GMAC;
    s->plain[of].iv = is_gcm ? gcm->pIv : mechanism->pParameter;
    s->plain[of].iv_len = is_gcm ? gcm->ulIvLen : mechanism->ulParameterLen;
    if (!is_gcm)
        memset(s->plain[of].iv, OWN_IV - 1, s->plain[of].iv_len / 2);
    return CKR_OK;
}

static CK_RV encrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    (void)key;
    return plain_init(session, mechanism, 0);
}

static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    (void)key;
    return plain_init(session, mechanism, 1);
}

static void write_late(const struct session *s, unsigned of)
{
    for (CK_ULONG i = 0; s->plain[of].iv && i < s->plain[of].iv_len; i++)
        s->plain[of].iv[i] = (CK_BYTE)(OWN_IV + i);
}

static CK_RV encrypt_some(struct session *s, const CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    struct toy toy;
    if (!s || !s->plain[0].active)
        return s ? CKR_OPERATION_NOT_INITIALIZED : CKR_SESSION_HANDLE_INVALID;
    if (out && *out_len >= in_len)
        write_late(s, 0);
    toy_begin(&toy, s->plain[0].iv, s->plain[0].iv ? s->plain[0].iv_len : 0, NULL, 0);
    return fill(&toy, in, in_len, out, out_len, 1);
}

static CK_RV encrypt_update(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    return encrypt_some(find(session), in, in_len, out, out_len);
}

static CK_RV encrypt(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len)
{
    struct session *s = find(session);
    CK_RV rv = encrypt_some(s, in, in_len, out, out_len);
    if (s && rv == CKR_OK && out)
        s->plain[0].active = 0;
    return rv;
}

static CK_RV sign_update(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG len)
{
    struct session *s = find(session);
    (void)data, (void)len;
    return s && s->plain[1].active ? CKR_OK : CKR_OPERATION_NOT_INITIALIZED;
}

static CK_RV sign_final(CK_SESSION_HANDLE session, CK_BYTE *signature, CK_ULONG *len)
{
    struct session *s = find(session);
    if (!s || !s->plain[1].active)
        return CKR_OPERATION_NOT_INITIALIZED;
    CK_ULONG room = *len;
    *len = 1;
    if (!signature || room < 1)
        return signature ? CKR_BUFFER_TOO_SMALL : CKR_OK;
    *signature = 0x51;
    write_late(s, 1);
    s->plain[1].active = 0;
    return CKR_OK;
}

/* ---- the library ---- */

static CK_RV initialize(void *args)
{
    (void)args;
    return CKR_OK;
}

static CK_RV finalize(void *reserved)
{
    (void)reserved;
    return CKR_OK;
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    (void)present;
    if (slots && *count < 1)
        return CKR_BUFFER_TOO_SMALL;
    if (slots)
        slots[0] = SLOT;
    *count = 1;
    return CKR_OK;
}

static CK_RV not_supported(void)
{
    return CKR_FUNCTION_NOT_SUPPORTED;
}

typedef CK_RV (*entry)(void);

/* The three lists begin alike; every entry must be there. */
static union {
    CK_FUNCTION_LIST v2;
    CK_FUNCTION_LIST_3_2 v3;
    struct {
        CK_VERSION version;
        entry entries[FUNCTION_COUNT];
    } all;
} old = {.all.version = {2, 40}}, lists = {.all.version = {3, 2}};

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
}

static void fill_list(void)
{
    CK_FUNCTION_LIST_3_2 *list = &lists.v3;
    for (size_t i = 0; i < FUNCTION_COUNT; i++)
        lists.all.entries[i] = not_supported;
    list->C_Initialize = initialize;
    list->C_Finalize = finalize;
    list->C_GetSlotList = get_slot_list;
    list->C_OpenSession = open_session;
    list->C_CloseSession = close_session;
    list->C_CloseAllSessions = close_all_sessions;
    list->C_SessionCancel = session_cancel;
    list->C_EncryptInit = encrypt_init;
    list->C_Encrypt = encrypt;
    list->C_EncryptUpdate = encrypt_update;
    list->C_SignInit = sign_init;
    list->C_SignUpdate = sign_update;
    list->C_SignFinal = sign_final;
    list->C_WrapKeyAuthenticated = wrap_key_authenticated;
    list->C_UnwrapKeyAuthenticated = unwrap_key_authenticated;
    fill_messages(list);
    memcpy(old.all.entries, lists.all.entries, sizeof old.all.entries);
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    fill_list();
    *list = &old.v2;
    return CKR_OK;
}

__attribute__((visibility("default"))) CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **interface,
                                                            CK_FLAGS flags)
{
    static CK_UTF8CHAR standard[] = "PKCS 11";
    static CK_INTERFACE the_interface = {standard, &lists, 0};
    (void)name, (void)version, (void)flags;
    fill_list();
    *interface = &the_interface;
    return CKR_OK;
}
