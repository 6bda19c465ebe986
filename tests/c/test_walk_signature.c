/* Signatures that point into their own buffer: built anew in the caller's, and nothing outside it is believed. */
#include <errno.h>
#include <string.h>

#include "ends.h"
#include "fence.h"
#include "test.h"
#include "visit.h"

enum { PARAMS = 4, MOST = 512 };

static const char otp[] = "755224", counter[] = "\0\0\0\0\0\0\0\7";

/* As a provider lays it out: the struct, its parameters, their values, nothing between them. */
static CK_ULONG lay_out(uint8_t *buffer)
{
    CK_OTP_SIGNATURE_INFO *info = (void *)buffer;
    CK_OTP_PARAM *params = (void *)(info + 1);
    uint8_t *free = (uint8_t *)(params + PARAMS);
    CK_ULONG format = CK_OTP_FORMAT_DECIMAL;
    *info = (CK_OTP_SIGNATURE_INFO){params, PARAMS};
    params[0] = (CK_OTP_PARAM){CK_OTP_VALUE, free, sizeof otp - 1};
    free = (uint8_t *)memcpy(free, otp, sizeof otp - 1) + sizeof otp - 1;
    params[1] = (CK_OTP_PARAM){CK_OTP_OUTPUT_FORMAT, free, sizeof format};
    free = (uint8_t *)memcpy(free, &format, sizeof format) + sizeof format;
    params[2] = (CK_OTP_PARAM){CK_OTP_COUNTER, free, 8};
    free = (uint8_t *)memcpy(free, counter, 8) + 8;
    params[3] = (CK_OTP_PARAM){CK_OTP_PIN, NULL, 0};
    return (CK_ULONG)(free - buffer);
}

static CK_ULONG needed(void)
{
    _Alignas(CK_ULONG) uint8_t buffer[MOST];
    return lay_out(buffer);
}

/* C_Sign with a buffer of so many bytes, at the provider. What it was given is in e->provider. */
static struct ends *begin(CK_MECHANISM_TYPE mechanism, uint8_t *buffer, CK_ULONG room, CK_ULONG **ret_cell)
{
    struct ends *e = ends_begin(&functions[FN_C_Sign]);
    *ret_cell = fence_alloc(sizeof **ret_cell);
    **ret_cell = room;
    e->caller[1] = (uintptr_t)fence_alloc(0);
    e->caller[3] = (uintptr_t)(room && !buffer ? fence_alloc(room) : buffer);
    e->caller[4] = (uintptr_t)*ret_cell;
    e->shim.signature = signature_of(&standard_tables, mechanism);
    expect(ends_request(e, 0));
    expect(e->helper.signature == e->shim.signature);
    return e;
}

static struct ends *begin_otp(CK_ULONG room, CK_ULONG **ret_cell)
{
    return begin(CKM_HOTP, NULL, room, ret_cell);
}

static uint8_t *given(const struct ends *e)
{
    return (uint8_t *)e->provider[3];
}

static void fill(struct ends *e)
{
    *(CK_ULONG *)e->provider[4] = lay_out(given(e));
}

static void expect_value(const CK_OTP_PARAM *param, CK_ULONG type, const void *value, CK_ULONG len)
{
    expect_number(type, param->type);
    expect_number(len, param->ulValueLen);
    expect_bytes(value, param->pValue, len);
}

static void it_is_built_anew(void)
{
    static const CK_ULONG more[] = {0, 1, 7, 100};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        CK_ULONG *cell, format = CK_OTP_FORMAT_DECIMAL;
        struct ends *e = begin_otp(needed() + more[i], &cell);
        test_case("%lu bytes more than needed", more[i]);
        fill(e);
        expect_number(CKR_OK, ends_respond(e, CKR_OK, i));
        expect_number(0, e->reader.error);
        expect_number(needed(), *cell);
        CK_OTP_SIGNATURE_INFO info;
        CK_OTP_PARAM params[PARAMS];
        memcpy(&info, (void *)e->caller[3], sizeof info);
        expect_number(PARAMS, info.ulCount);
        memcpy(params, info.pParams, sizeof params);
        expect_value(&params[0], CK_OTP_VALUE, otp, sizeof otp - 1);
        expect_value(&params[1], CK_OTP_OUTPUT_FORMAT, &format, sizeof format);
        expect_value(&params[2], CK_OTP_COUNTER, counter, 8);
        expect(params[3].type == CK_OTP_PIN && !params[3].pValue && params[3].ulValueLen == 0);
        expect(signature_is_whole(&e->shim, (void *)e->caller[3], *cell)); /* all of it within what it is said to measure */
    }
}

static void mechanisms_say_which(void)
{
    expect(signature_of(&standard_tables, CKM_HOTP) != NULL);
    expect(signature_of(&standard_tables, CKM_HOTP) == signature_of(&standard_tables, CKM_SECURID));
    expect(signature_of(&standard_tables, CKM_HOTP) == signature_of(&standard_tables, CKM_ACTI));
    expect(signature_of(&standard_tables, CKM_SHA256_HMAC) == NULL);
    expect(signature_of(&standard_tables, CKM_VENDOR_DEFINED) == NULL);
}

static void queries_and_failures_are_as_of_bytes(void)
{
    CK_ULONG *cell;
    struct ends *e = begin_otp(0, &cell);
    expect(given(e) == NULL);
    *(CK_ULONG *)e->provider[4] = needed();
    expect_number(CKR_OK, ends_respond(e, CKR_OK, 0));
    expect_number(needed(), *cell);
    e = begin_otp(20, &cell);
    *(CK_ULONG *)e->provider[4] = needed();
    fence_snapshot();
    expect_number(CKR_BUFFER_TOO_SMALL, ends_respond(e, CKR_BUFFER_TOO_SMALL, 0));
    expect(fence_first_change() == cell);
    expect_number(needed(), *cell);
    expect_number(0, e->reader.error);
}

/* ---- a provider that points elsewhere ---- */

static uint8_t elsewhere[MOST];

static void point_to_params_elsewhere(CK_OTP_SIGNATURE_INFO *info)
{
    info->pParams = memcpy(elsewhere, info->pParams, PARAMS * sizeof *info->pParams);
}

static void point_to_a_value_elsewhere(CK_OTP_SIGNATURE_INFO *info)
{
    info->pParams[2].pValue = elsewhere;
}

static void claim_more_params(CK_OTP_SIGNATURE_INFO *info)
{
    info->ulCount = PARAMS + 1;
}

static void claim_all_params(CK_OTP_SIGNATURE_INFO *info)
{
    info->ulCount = CK_UNAVAILABLE_INFORMATION;
}

static void claim_a_longer_value(CK_OTP_SIGNATURE_INFO *info)
{
    info->pParams[2].ulValueLen = 9;
}

static void claim_an_endless_value(CK_OTP_SIGNATURE_INFO *info)
{
    info->pParams[0].ulValueLen = CK_UNAVAILABLE_INFORMATION - 7;
}

static void point_before_it(CK_OTP_SIGNATURE_INFO *info)
{
    info->pParams[0].pValue = (uint8_t *)info - 1;
}

static void point_to_its_end(CK_OTP_SIGNATURE_INFO *info)
{
    info->pParams = (void *)((uint8_t *)info + needed());
}

static void say_nothing_sensible(CK_OTP_SIGNATURE_INFO *info)
{
    memset(info, 'o', sizeof *info);
}

static void what_points_elsewhere_is_not_believed(void)
{
    static void (*const ways[])(CK_OTP_SIGNATURE_INFO *) = {
        point_to_params_elsewhere, point_to_a_value_elsewhere, claim_more_params, claim_all_params, claim_a_longer_value,
        claim_an_endless_value, point_before_it, point_to_its_end, say_nothing_sensible,
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        CK_ULONG *cell;
        struct ends *e = begin_otp(needed() + 40, &cell);
        test_case("way %zu", i);
        fill(e);
        ways[i]((void *)given(e));
        fence_snapshot();
        expect_number(CKR_DEVICE_ERROR, ends_respond(e, CKR_OK, 0));
        expect_number(0, e->reader.error);
        expect(fence_first_change() == NULL);
    }
}

static void it_has_at_least_its_head(void)
{
    for (CK_ULONG length = 0; length < sizeof(CK_OTP_SIGNATURE_INFO); length += 5) {
        CK_ULONG *cell;
        struct ends *e = begin_otp(needed(), &cell);
        test_case("length %lu", length);
        fill(e);
        *(CK_ULONG *)e->provider[4] = length;
        expect_number(CKR_DEVICE_ERROR, ends_respond(e, CKR_OK, 0));
        expect_number(0, e->reader.error);
    }
}

/* Two values in one place: what fits the provider's buffer fits the caller's no more. */
static void what_does_not_fit_ends_the_channel(void)
{
    CK_ULONG *cell;
    struct ends *e = begin_otp(needed(), &cell);
    fill(e);
    CK_OTP_SIGNATURE_INFO *info = (void *)given(e);
    info->pParams[3] = info->pParams[2];
    ends_respond(e, CKR_OK, 0);
    expect_number(-EBADMSG, e->reader.error);
    expect_number(needed(), *cell);
}

/* ---- a helper that lies ---- */

/* Whatever stands in its message: nothing is written but the signature, and it leads nowhere else. */
static void damaged_responses_stay_inside(void)
{
    static const uint8_t replacements[] = {0x00, 0x7f, 0x80, 0x93, 0x9f, 0xc0, 0xc3, 0xc4, 0xcc, 0xcf, 0xdc, 0xff};
    size_t len = 1, accepted = 0;
    for (size_t at = 0; at < len; at++)
        for (size_t k = 0; k < sizeof replacements; k++) {
            CK_ULONG *cell;
            struct ends *e = begin_otp(needed() + 3, &cell);
            fill(e);
            ends_write_response(e, CKR_OK);
            len = e->message.len;
            test_case("byte %zu is 0x%02x", at, replacements[k]);
            e->message.bytes[at] = replacements[k];
            fence_snapshot();
            CK_RV rv = ends_read_response(e, 0);
            if (rv == CKR_OK && !e->reader.error && *cell >= sizeof(CK_OTP_SIGNATURE_INFO)) {
                accepted++;
                expect(*cell <= needed() + 3);
                expect(signature_is_whole(&e->shim, (void *)e->caller[3], *cell));
            }
            fence_restore((void *)e->caller[3], needed() + 3);
            fence_restore(cell, sizeof *cell);
            expect(fence_first_change() == NULL);
        }
    test_note("%zu responses, %zu of them accepted", len * sizeof replacements, accepted);
}

/* Only a struct that the tables have as a signature may be named. */
static void no_other_struct_is_named(void)
{
    static const char *const names[] = {"CK_OTP_PARAMS", "CK_INFO", "CK_NOTHING", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        CK_ULONG length = 100;
        struct ends *e = ends_begin(&functions[FN_C_SignFinal]);
        struct layout layout = {.name = names[i], .name_len = (uint8_t)strlen(names[i])};
        test_case("%s", names[i]);
        e->shim.signature = &layout;
        e->caller[2] = (uintptr_t)&length;
        expect(!ends_request(e, 0));
        expect_number(-EBADMSG, e->reader.error);
    }
}

static void it_is_named_in_the_request(void)
{
    static const char end[] = "\xc4\x00\x93\xc3\x64\xb5" "CK_OTP_SIGNATURE_INFO";
    CK_ULONG *cell;
    struct ends *e = begin_otp(100, &cell);
    expect(e->message.len > sizeof end);
    expect_bytes(end, e->message.bytes + e->message.len - (sizeof end - 1), sizeof end - 1);
}

static const struct test tests[] = {
    TEST(mechanisms_say_which, "the tables say whose signature is a struct"),
    TEST(it_is_named_in_the_request, "the request says which struct fills the buffer"),
    TEST(it_is_built_anew, "the caller finds all parts in its own buffer, also when that is only just large enough"),
    TEST(queries_and_failures_are_as_of_bytes, "lengths are asked for and told as for any signature"),
    TEST(what_points_elsewhere_is_not_believed, "a provider that points out of its buffer is not believed"),
    TEST(it_has_at_least_its_head, "nor one whose signature is shorter than the struct"),
    TEST(what_does_not_fit_ends_the_channel, "what does not fit the caller's buffer is not written past it"),
    TEST(damaged_responses_stay_inside, "no response writes anywhere else or leaves a pointer that leads out"),
    TEST(no_other_struct_is_named, "no other struct can be asked for"),
};

TEST_MAIN(tests)
