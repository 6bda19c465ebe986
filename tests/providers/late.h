/*
 * Ordinary operations that write the IV they were begun with late: C_Encrypt and C_SignFinal an IV of their own where
 * CK_GCM_PARAMS.pIv points, C_EncryptUpdate into one of bytes, which C_EncryptInit has begun to fill. Before this stand
 * `struct session` and its `find`.
 */
#ifndef LATE_H
#define LATE_H

#include "cryptoki.h"
#include "toy.h"

enum { OWN_IV = 0xc0 };

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
    return toy_crypt(&toy, in, in_len, out, out_len, 1);
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

static void fill_late(CK_FUNCTION_LIST *list)
{
    list->C_EncryptInit = encrypt_init;
    list->C_Encrypt = encrypt;
    list->C_EncryptUpdate = encrypt_update;
    list->C_SignInit = sign_init;
    list->C_SignUpdate = sign_update;
    list->C_SignFinal = sign_final;
}

#endif
