/*
 * What a process does with a provider, whichever it is, and how it tells that what comes back is right: the same question has the same
 * answer every time, in every process.
 */
#ifndef DESK_H
#define DESK_H

#include <stdbool.h>
#include <stdint.h>

#include "load.h"

enum { MOST_BYTES = 64, MOST_MECHANISMS = 512, MUCH = 100000 };

static CK_FUNCTION_LIST *list;
static CK_SLOT_ID slot;

/* What a thread works with, and what it once got. */
struct desk {
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_BYTE mac[MOST_BYTES], hash[MOST_BYTES];
};

/* What every process is told of the slot. */
static CK_SLOT_INFO the_slot;
static CK_MECHANISM_TYPE the_mechanisms[MOST_MECHANISMS];

/* The desk of the first thread; whether the others' got the same, as from real providers. */
static struct desk the_desk;
static bool all_alike;

static const CK_BYTE secret[32] = "thirty-two bytes make a good key";
static CK_BYTE data[MUCH];

static void must(CK_RV rv, const char *what)
{
    if (rv != CKR_OK)
        fprintf(stderr, "0x%lx: ", rv);
    check(rv == CKR_OK, what);
}

/* ---- operations ---- */

static CK_RV make_key(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *ret_key)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},    {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_TOKEN, &no, sizeof no},          {CKA_PRIVATE, &no, sizeof no},
        {CKA_SIGN, &yes, sizeof yes},         {CKA_VALUE, (void *)(uintptr_t)secret, sizeof secret},
    };
    return list->C_CreateObject(session, template, sizeof template / sizeof *template, ret_key);
}

static CK_RV make_mac(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, CK_BYTE *mac)
{
    CK_MECHANISM mechanism = {CKM_SHA256_HMAC, NULL, 0};
    CK_ULONG len = MOST_BYTES;
    CK_RV rv = list->C_SignInit(session, &mechanism, key);
    return rv == CKR_OK ? list->C_Sign(session, data, 100, mac, &len) : rv;
}

/* In two parts, the second long enough to go another way than the first. */
static CK_RV make_hash(CK_SESSION_HANDLE session, CK_BYTE *hash)
{
    CK_MECHANISM mechanism = {CKM_SHA256, NULL, 0};
    CK_ULONG len = MOST_BYTES;
    CK_RV rv = list->C_DigestInit(session, &mechanism);
    if (rv == CKR_OK)
        rv = list->C_DigestUpdate(session, data, 10);
    if (rv == CKR_OK)
        rv = list->C_DigestUpdate(session, data, MUCH);
    return rv == CKR_OK ? list->C_DigestFinal(session, hash, &len) : rv;
}

/* ---- desks ---- */

static struct desk new_desk(void)
{
    struct desk desk = {.session = open_session(list)};
    must(make_key(desk.session, &desk.key), "C_CreateObject");
    must(make_mac(desk.session, desk.key, desk.mac), "C_Sign");
    must(make_hash(desk.session, desk.hash), "C_Digest");
    return desk;
}

static bool are_alike(const struct desk *a, const struct desk *b)
{
    return !memcmp(a->mac, b->mac, sizeof a->mac) && !memcmp(a->hash, b->hash, sizeof a->hash);
}

static void fill_data(void)
{
    for (int i = 0; i < MUCH; i++)
        data[i] = (CK_BYTE)(i * 31);
}

/* Before the first fork. */
static void set_up(void)
{
    CK_ULONG count = MOST_MECHANISMS;
    fill_data();
    slot = first_slot(list);
    must(list->C_GetSlotInfo(slot, &the_slot), "C_GetSlotInfo");
    must(list->C_GetMechanismList(slot, the_mechanisms, &count), "C_GetMechanismList");
    the_desk = new_desk();
    struct desk other = new_desk();
    all_alike = are_alike(&the_desk, &other);
    must(list->C_CloseSession(other.session), "C_CloseSession");
}

#endif
