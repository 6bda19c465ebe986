/*
 * A toy cipher for tests, and the parameters of messages by which it is told its IV and gives its tag. Nothing here is secure.
 */
#ifndef TOY_H
#define TOY_H

#include <string.h>

#include "cryptoki.h"

enum { GENERATED_IV = 0xa0, POLY1305_TAG = 16, MOST_IV = 64 };

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

static CK_RV toy_crypt(struct toy *toy, const CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len, int encrypt)
{
    CK_ULONG room = *out_len;
    *out_len = in_len;
    if (out && room < in_len)
        return CKR_BUFFER_TOO_SMALL;
    if (out)
        toy_step(toy, in, in_len, out, encrypt);
    return CKR_OK;
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

#endif
