/* The bytes themselves, by hand from specs/PROTOCOL.md: both ends of the walker could be wrong in the same way. */
#include <string.h>

#include "ends.h"
#include "fence.h"
#include "test.h"
#include "visit.h"

static uint8_t memory[256]; /* something to point to */

static struct ends *begin(unsigned fn)
{
    struct ends *e = ends_begin(&functions[fn]);
    e->caller[0] = 5 ^ SESSION_PATTERN; /* 5 on the wire */
    return e;
}

static void expect_request(struct ends *e, const char *bytes, size_t len)
{
    ends_write_request(e);
    expect_number(CKR_OK, e->shim.refusal);
    expect_bytes(bytes, e->message.bytes, len < e->message.len ? len : e->message.len);
    expect_number(len, e->message.len);
}

#define EXPECT_REQUEST(e, bytes) expect_request(e, bytes, sizeof(bytes) - 1)

/* ---- 4.1 ---- */

static void scalars(void)
{
    struct ends *e = ends_begin(&functions[FN_C_GetSlotList]);
    e->caller[0] = CK_TRUE;
    EXPECT_REQUEST(e, "\x92\xc3\x92\xc2\xc0");
    e = ends_begin(&functions[FN_C_GetSlotList]);
    e->caller[0] = 7;
    EXPECT_REQUEST(e, "\x92\x07\x92\xc2\xc0");
    e = begin(FN_C_SessionCancel);
    e->caller[1] = CK_UNAVAILABLE_INFORMATION;
    EXPECT_REQUEST(e, "\x92\x05\xff");
    e = begin(FN_C_DestroyObject);
    e->caller[1] = 300 ^ OBJECT_PATTERN;
    EXPECT_REQUEST(e, "\x92\x05\xcd\x01\x2c");
}

/* ---- 4.2 ---- */

static void byte_strings(void)
{
    struct ends *e = begin(FN_C_SeedRandom);
    e->caller[1] = (uintptr_t)"seed", e->caller[2] = 4;
    EXPECT_REQUEST(e, "\x92\x05\xc4\x04seed");
    e = begin(FN_C_SeedRandom);
    e->caller[1] = (uintptr_t)"", e->caller[2] = 0;
    EXPECT_REQUEST(e, "\x92\x05\xc4\x00");
    e = begin(FN_C_SeedRandom);
    e->caller[2] = 4;
    EXPECT_REQUEST(e, "\x92\x05\x04");
}

static void fixed_strings(void)
{
    struct ends *e = ends_begin(&functions[FN_C_InitToken]);
    e->caller[0] = 1 ^ SLOT_PATTERN;
    e->caller[3] = (uintptr_t)"0123456789abcdef0123456789abcdef";
    EXPECT_REQUEST(e, "\x93\x01\x00\xc4\x20" "0123456789abcdef0123456789abcdef");
    e = ends_begin(&functions[FN_C_InitToken]);
    e->caller[0] = 1 ^ SLOT_PATTERN;
    EXPECT_REQUEST(e, "\x93\x01\x00\x00");
}

static void give_template(struct ends *e, unsigned pos, CK_ATTRIBUTE *template, CK_ULONG count)
{
    e->caller[pos] = (uintptr_t)template;
    e->caller[pos + 1] = count;
}

static void templates(void)
{
    CK_ULONG class = CKO_SECRET_KEY, mechanisms_allowed[] = {CKM_AES_GCM, CKM_AES_CBC}, unavailable = CK_UNAVAILABLE_INFORMATION;
    CK_BBOOL yes = CK_TRUE, odd = 2;
    CK_ATTRIBUTE inner[] = {{CKA_CLASS, &class, sizeof class}};
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &unavailable, sizeof unavailable},
        {CKA_CLASS, "ab", 2},
        {CKA_TOKEN, &yes, 1},
        {CKA_TOKEN, &odd, 1},
        {CKA_LABEL, "key", 3},
        {CKA_LABEL, NULL, 0},
        {CKA_LABEL, NULL, 9},
        {CKA_ALLOWED_MECHANISMS, mechanisms_allowed, sizeof mechanisms_allowed},
        {CKA_WRAP_TEMPLATE, inner, sizeof inner},
        {CKA_WRAP_TEMPLATE, inner, 0},
    };
    struct ends *e = begin(FN_C_FindObjectsInit);
    give_template(e, 1, template, sizeof template / sizeof *template);
    EXPECT_REQUEST(e, "\x92\x05\x9b"
                      "\x92\x00\x04"
                      "\x92\xcd\x01\x00\xff"
                      "\x92\x00\xc4\x02" "ab"
                      "\x92\x01\xc3"
                      "\x92\x01\xc4\x01\x02"
                      "\x92\x03\xc4\x03key"
                      "\x92\x03\xc0"
                      "\x92\x03\x91\x09"
                      "\x92\xce\x40\x00\x06\x00\x92\xcd\x10\x87\xcd\x10\x82"
                      "\x92\xce\x40\x00\x02\x11\x91\x92\x00\x04"
                      "\x92\xce\x40\x00\x02\x11\x90");
    e = begin(FN_C_FindObjectsInit);
    give_template(e, 1, NULL, 3);
    EXPECT_REQUEST(e, "\x92\x05\x03");
}

/* ---- 4.3 ---- */

static void outputs(void)
{
    CK_ULONG length = 256;
    struct ends *e = begin(FN_C_Sign);
    e->caller[1] = (uintptr_t)"data", e->caller[2] = 4;
    e->caller[3] = (uintptr_t)memory, e->caller[4] = (uintptr_t)&length;
    EXPECT_REQUEST(e, "\x93\x05\xc4\x04" "data\x92\xc3\xcd\x01\x00");
    e = begin(FN_C_GenerateRandom);
    e->caller[1] = (uintptr_t)memory, e->caller[2] = 32;
    EXPECT_REQUEST(e, "\x92\x05\x92\xc3\x20");
    e = begin(FN_C_FindObjects);
    e->caller[1] = (uintptr_t)memory, e->caller[2] = 10, e->caller[3] = (uintptr_t)&length;
    EXPECT_REQUEST(e, "\x92\x05\x93\xc3\x0a\xc3");
    e = begin(FN_C_GetSessionInfo);
    EXPECT_REQUEST(e, "\x92\x05\xc2");
}

static void queries(void)
{
    CK_ATTRIBUTE inner[] = {{0, NULL, 0}, {0, memory, 8}};
    CK_ATTRIBUTE template[] = {
        {CKA_LABEL, memory, 100}, {CKA_ID, NULL, 0}, {CKA_WRAP_TEMPLATE, inner, sizeof inner}, {CKA_WRAP_TEMPLATE, NULL, 0},
    };
    struct ends *e = begin(FN_C_GetAttributeValue);
    e->caller[1] = 6 ^ OBJECT_PATTERN;
    give_template(e, 2, template, 4);
    EXPECT_REQUEST(e, "\x93\x05\x06\x94"
                      "\x93\x03\xc3\x64"
                      "\x93\xcd\x01\x02\xc2\x00"
                      "\x93\xce\x40\x00\x02\x11\x92\x93\x00\xc2\x00\x93\x00\xc3\x08\x30"
                      "\x93\xce\x40\x00\x02\x11\xc2\x00");
}

/* ---- 4.4, 4.5 ---- */

static void expect_parameter(CK_MECHANISM mechanism, const char *bytes, size_t len)
{
    struct ends *e = begin(FN_C_EncryptInit);
    char request[128] = "\x93\x05";
    memcpy(request + 2, bytes, len);
    request[2 + len] = 9;
    e->caller[1] = (uintptr_t)&mechanism;
    e->caller[2] = 9 ^ OBJECT_PATTERN;
    expect_request(e, request, len + 3);
}

#define EXPECT_PARAMETER(mechanism, parameter, length, bytes) \
    expect_parameter((CK_MECHANISM){mechanism, parameter, length}, bytes, sizeof(bytes) - 1)

static void parameters(void)
{
    CK_ULONG bits = 128, object = 7 ^ OBJECT_PATTERN;
    CK_GCM_PARAMS gcm = {(CK_BYTE *)(uintptr_t)"iviviviviviv", 12, 96, NULL, 0, 128};
    CK_RSA_PKCS_PSS_PARAMS pss = {CKM_SHA256, CKG_MGF1_SHA256, 32};
    CK_VERSION version = {3, 1};
    EXPECT_PARAMETER(CKM_AES_ECB, NULL, 0, "\x92\xcd\x10\x81\xc0");
    EXPECT_PARAMETER(CKM_AES_CBC, NULL, 16, "\x92\xcd\x10\x82\x10");
    EXPECT_PARAMETER(CKM_AES_CBC, memory, 0, "\x92\xcd\x10\x82\xc4\x00");
    EXPECT_PARAMETER(CKM_AES_CBC, (void *)(uintptr_t)"iviviviviviviviv", 16, "\x92\xcd\x10\x82\xc4\x10iviviviviviviviv");
    EXPECT_PARAMETER(CKM_AES_MAC_GENERAL, &bits, sizeof bits, "\x92\xcd\x10\x84\x92\xa8" "CK_ULONG\xcc\x80");
    EXPECT_PARAMETER(CKM_CONCATENATE_BASE_AND_KEY, &object, sizeof object, "\x92\xcd\x03\x60\x92\xb0" "CK_OBJECT_HANDLE\x07");
    EXPECT_PARAMETER(CKM_RSA_PKCS_PSS, &pss, sizeof pss, "\x92\x0d\x92\xb6" "CK_RSA_PKCS_PSS_PARAMS\x93\xcd\x02\x50\x02\x20");
    EXPECT_PARAMETER(CKM_AES_GCM, &gcm, sizeof gcm,
                     "\x92\xcd\x10\x87\x92\xad" "CK_GCM_PARAMS\x96\xc4\x0civiviviviviv\x0c\x60\xc0\x00\xcc\x80");
    EXPECT_PARAMETER(CKM_TLS_PRE_MASTER_KEY_GEN, &version, sizeof version, "\x92\xcd\x03\x74\x92\xaa" "CK_VERSION\x92\x03\x01");
}

static void no_mechanism(void)
{
    EXPECT_REQUEST(begin(FN_C_EncryptInit), "\x93\x05\xc0\x00");
}

static void pointers_of_parameters(void)
{
    CK_ULONG room = 48;
    CK_VERSION version = {0xee, 0xee};
    CK_TLS_PRF_PARAMS prf = {(CK_BYTE *)(uintptr_t)"seed", 4, NULL, 0, memory, &room};
    CK_SSL3_RANDOM_DATA random = {(CK_BYTE *)(uintptr_t)"cc", 2, (CK_BYTE *)(uintptr_t)"s", 1};
    CK_SSL3_MASTER_KEY_DERIVE_PARAMS ssl = {.pVersion = &version, .RandomInfo = random};
    EXPECT_PARAMETER(CKM_TLS_PRF, &prf, sizeof prf, "\x92\xcd\x03\x78\x92\xb1" "CK_TLS_PRF_PARAMS\x96\xc4\x04seed\x04\xc0\x00\xc3\x30");
    EXPECT_PARAMETER(CKM_SSL3_MASTER_KEY_DERIVE, &ssl, sizeof ssl,
                     "\x92\xcd\x03\x71\x92\xd9\x20" "CK_SSL3_MASTER_KEY_DERIVE_PARAMS"
                     "\x92\x94\xc4\x02" "cc\x02\xc4\x01s\x01\x91\x92\xcc\xee\xcc\xee");
}

static struct ends *begin_message(unsigned fn, CK_MECHANISM_TYPE mechanism, void *parameter, CK_ULONG len)
{
    struct ends *e = begin(fn);
    visit_operation = mechanism;
    e->caller[1] = (uintptr_t)parameter, e->caller[2] = len;
    return e;
}

static void messages(void)
{
    uint8_t iv[2] = "iv", tag[1] = "t";
    CK_GCM_MESSAGE_PARAMS gcm = {iv, 2, 16, CKG_GENERATE_COUNTER, tag, 8};
    EXPECT_REQUEST(begin_message(FN_C_SignMessageBegin, CKM_AES_GCM, NULL, 0), "\x92\x05\x00");
    EXPECT_REQUEST(begin_message(FN_C_SignMessageBegin, CKM_AES_GCM, NULL, 48), "\x92\x05\x30");
    EXPECT_REQUEST(begin_message(FN_C_SignMessageBegin, CKM_AES_CBC, iv, 2), "\x92\x05\x92\xcd\x10\x82\xc4\x02iv");
    EXPECT_REQUEST(begin_message(FN_C_SignMessageBegin, CKM_AES_GCM, &gcm, sizeof gcm),
                   "\x92\x05\x92\xcd\x10\x87\x92\xb5" "CK_GCM_MESSAGE_PARAMS\x96\xc4\x02iv\x02\x10\x02\xc4\x01t\x08");
}

static void tagged_unions(void)
{
    CK_ULONG key = 7 ^ OBJECT_PATTERN;
    CK_SP800_108_COUNTER_FORMAT counter = {CK_FALSE, 16};
    CK_PRF_DATA_PARAM data[] = {
        {CK_SP800_108_ITERATION_VARIABLE, &counter, sizeof counter},
        {CK_SP800_108_BYTE_ARRAY, (void *)(uintptr_t)"label", 5},
        {CK_SP800_108_KEY_HANDLE, &key, sizeof key},
    };
    CK_SP800_108_KDF_PARAMS kdf = {CKM_SHA256_HMAC, 3, data, 0, NULL};
    EXPECT_PARAMETER(CKM_SP800_108_COUNTER_KDF, &kdf, sizeof kdf,
                     "\x92\xcd\x03\xac\x92\xb7" "CK_SP800_108_KDF_PARAMS\x95\xcd\x02\x51\x03\x93"
                     "\x93\x01\x92\x00\x10\x10"
                     "\x93\x04\xc4\x05label\x05"
                     "\x93\x05\x07\x08"
                     "\x00\xc0");
}

/* ---- responses ---- */

static CK_RV respond(struct ends *e, const char *bytes, size_t len)
{
    message_set(&e->message, bytes, len);
    CK_RV rv = ends_read_response(e, 0);
    expect_number(0, e->reader.error);
    expect(message_is_read(&e->message, &e->reader));
    return rv;
}

#define RESPOND(e, bytes) respond(e, bytes, sizeof(bytes) - 1)

static void responses(void)
{
    CK_ULONG length = 16;
    struct ends *e = begin(FN_C_Sign);
    e->caller[3] = (uintptr_t)memory, e->caller[4] = (uintptr_t)&length;
    expect_number(CKR_OK, RESPOND(e, "\x92\x00\x92\x03\xc4\x03sig"));
    expect_number(3, length);
    expect_bytes("sig", memory, 3);
    expect_number(CKR_BUFFER_TOO_SMALL, RESPOND(e, "\x92\xcd\x01\x50\x92\xcd\x01\x00\xc0"));
    expect_number(256, length);
    e = begin(FN_C_CloseSession);
    expect_number(CKR_VENDOR_DEFINED + 1, RESPOND(e, "\x91\xce\x80\x00\x00\x01"));
    e = begin(FN_C_CreateObject);
    e->caller[3] = (uintptr_t)&length;
    expect_number(CKR_OK, RESPOND(e, "\x92\x00\x07"));
    expect_number(7 ^ OBJECT_PATTERN, length);
    expect_number(CKR_DEVICE_ERROR, RESPOND(e, "\x92\x30\xc0"));
    expect_number(7 ^ OBJECT_PATTERN, length);
}

static void structs_in_responses(void)
{
    CK_SESSION_INFO info;
    struct ends *e = begin(FN_C_GetSessionInfo);
    e->caller[1] = (uintptr_t)&info;
    expect_number(CKR_OK, RESPOND(e, "\x92\x00\x94\x01\x02\x06\xff"));
    expect_number(1 ^ SLOT_PATTERN, info.slotID);
    expect_number(2, info.state);
    expect_number(6, info.flags);
    expect_number(CK_UNAVAILABLE_INFORMATION, info.ulDeviceError);
}

static void attributes_in_responses(void)
{
    CK_ULONG class = 0;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, memory, 9}, {CKA_VALUE, memory + 9, 9}};
    struct ends *e = begin(FN_C_GetAttributeValue);
    give_template(e, 2, template, 3);
    expect_number(CKR_ATTRIBUTE_SENSITIVE, RESPOND(e, "\x92\x11\x93\x93\x00\x08\x04\x93\x03\x02\xc4\x02me\x93\x11\xff\xc0"));
    expect_number(CKO_SECRET_KEY, class);
    expect_number(2, template[1].ulValueLen);
    expect_bytes("me", memory, 2);
    expect_number(CK_UNAVAILABLE_INFORMATION, template[2].ulValueLen);
}

static void lengths_in_responses(void)
{
    CK_ATTRIBUTE template[] = {{CKA_LABEL, memory, 9}, {CKA_VALUE, memory + 9, 9}};
    struct ends *e = begin(FN_C_GetAttributeValue);
    give_template(e, 2, template, 2);
    expect_number(CKR_GENERAL_ERROR, RESPOND(e, "\x92\x05\x92\xff\x09"));
    expect_number(CK_UNAVAILABLE_INFORMATION, template[0].ulValueLen);
    expect_number(9, template[1].ulValueLen);
    e = begin(FN_C_GetAttributeValue);
    give_template(e, 2, template, 2);
    expect_number(CKR_GENERAL_ERROR, RESPOND(e, "\x92\x05\xc0"));
    expect_number(9, template[1].ulValueLen);
}

static void changes_in_responses(void)
{
    CK_ULONG room = 4;
    uint8_t out[4] = "old";
    CK_TLS_PRF_PARAMS prf = {(CK_BYTE *)(uintptr_t)"seed", 4, NULL, 0, out, &room};
    CK_MECHANISM mechanism = {CKM_TLS_PRF, &prf, sizeof prf};
    struct ends *e = begin(FN_C_DeriveKey);
    e->caller[1] = (uintptr_t)&mechanism;
    expect_number(CKR_OK, RESPOND(e, "\x93\x00\x96\xc0\xc0\xc0\xc0\xc4\x04new!\x03\xc0"));
    expect_bytes("new!", out, 4);
    expect_number(3, room);
}

static void changes_of_messages_in_responses(void)
{
    uint8_t iv[2] = "iv", tag[1] = "t";
    CK_GCM_MESSAGE_PARAMS gcm = {iv, 2, 16, CKG_GENERATE_COUNTER, tag, 8};
    struct ends *e = begin_message(FN_C_SignMessageBegin, CKM_AES_GCM, &gcm, sizeof gcm);
    ends_write_request(e);
    expect_number(CKR_OK, RESPOND(e, "\x92\x00\x96\xc4\x02VI\xc0\xc0\xc0\xc4\x01T\xc0"));
    expect_bytes("VI", iv, 2);
    expect_bytes("T", tag, 1);
    expect_number(CKR_DEVICE_ERROR, RESPOND(e, "\x92\x30\x96\xc4\x02iv\xc0\xc0\xc0\xc0\xc0"));
    expect_bytes("iv", iv, 2);
    e = begin_message(FN_C_SignMessageBegin, CKM_AES_CBC, iv, 2);
    ends_write_request(e);
    expect_number(CKR_OK, RESPOND(e, "\x92\x00\xc4\x02VI"));
    expect_bytes("VI", iv, 2);
}

static const struct test tests[] = {
    TEST(scalars, "4.1: numbers, truth values, handles and slots"),
    TEST(byte_strings, "4.2: byte strings, and the number that stands for NULL"),
    TEST(fixed_strings, "4.2: strings of fixed length"),
    TEST(templates, "4.2: templates and every kind of value"),
    TEST(outputs, "4.3: what is asked for"),
    TEST(queries, "4.3: what is asked for of attributes"),
    TEST(parameters, "4.4: parameters of every kind"),
    TEST(no_mechanism, "4.2: no mechanism"),
    TEST(pointers_of_parameters, "4.5: pointers, outputs, structs inside"),
    TEST(messages, "4.2, 4.4: parameters of messages"),
    TEST(changes_of_messages_in_responses, "4.4: what a provider changed in one"),
    TEST(tagged_unions, "4.5: tagged unions"),
    TEST(responses, "4.3: what is answered"),
    TEST(structs_in_responses, "4.5: structs that are answered"),
    TEST(attributes_in_responses, "4.3: attributes that are answered"),
    TEST(lengths_in_responses, "4.3: lengths that come with other errors"),
    TEST(changes_in_responses, "4.4: what a provider changed"),
};

TEST_MAIN(tests)
