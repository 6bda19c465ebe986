/* Late outputs: which they are, how they travel, and what of them is written. Also what a lying peer says of them. */
#include <errno.h>
#include <string.h>

#include "ends.h"
#include "fence.h"
#include "test.h"
#include "visit.h"

enum { IV = 12 };

static struct recall ours, theirs; /* of the shim and of the helper */

/* ---- at the beginning ---- */

static struct ends *begin(unsigned fn, CK_MECHANISM_TYPE type, void *parameter, CK_ULONG len)
{
    struct ends *e = ends_begin(&functions[fn]);
    CK_MECHANISM *mechanism = fence_alloc(sizeof *mechanism);
    *mechanism = (CK_MECHANISM){type, parameter, len};
    ends_give_mechanism(e, mechanism);
    operations_recall(NULL, 0, 0, &ours);
    operations_recall(NULL, 0, 0, &theirs);
    e->shim.recall = &ours;
    e->helper.recall = &theirs;
    return e;
}

static CK_GCM_PARAMS *make_gcm(CK_ULONG iv_len)
{
    CK_GCM_PARAMS *gcm = fence_alloc(sizeof *gcm);
    uint8_t *iv = fence_alloc(iv_len);
    memset(iv, 'i', iv_len);
    *gcm = (CK_GCM_PARAMS){.pIv = iv, .ulIvLen = iv_len, .ulTagBits = 128};
    return gcm;
}

static struct ends *begin_gcm(CK_ULONG iv_len)
{
    struct ends *e = begin(FN_C_EncryptInit, CKM_AES_GCM, NULL, 0);
    CK_MECHANISM *mechanism = (void *)e->caller[1];
    mechanism->pParameter = make_gcm(iv_len);
    mechanism->ulParameterLen = sizeof(CK_GCM_PARAMS);
    return e;
}

static void expect_parts(unsigned count, CK_ULONG size)
{
    expect_number(count, ours.count);
    expect_number(count, theirs.count);
    for (unsigned i = 0; i < count; i++) {
        expect_number(size, ours.list[i].size);
        expect_number(size, theirs.list[i].size);
        expect(ours.list[i].at != theirs.list[i].at);
    }
}

/* Both ends find the same, each in its own memory. */
static void both_ends_know_which_they_are(void)
{
    static const CK_ULONG lengths[] = {0, 1, IV, LIMIT_LATE, LIMIT_LATE + 1, 5000};
    for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct ends *e = begin_gcm(lengths[i]);
        test_case("%lu bytes", lengths[i]);
        expect(ends_request(e, 0));
        expect_parts(lengths[i] > 0 && lengths[i] <= LIMIT_LATE, lengths[i]);
        expect(ours.begun && theirs.begun);
        expect_number(CKM_AES_GCM, theirs.mechanism);
    }
}

static void bytes_that_are_outputs_may_come_late_too(void)
{
    uint8_t bytes[24] = "baton";
    struct ends *e = begin(FN_C_EncryptInit, CKM_BATON_CBC128, bytes, sizeof bytes);
    expect(ends_request(e, 0));
    expect_parts(1, sizeof bytes);
    e = begin(FN_C_EncryptInit, CKM_AES_CBC, bytes, 16);
    expect(ends_request(e, 0));
    expect_parts(0, 0);
    e = begin(FN_C_EncryptInit, CKM_AES_ECB, NULL, 0);
    expect(ends_request(e, 0));
    expect_parts(0, 0);
    expect(ours.begun && theirs.begun);
}

static void no_mechanism_begins_nothing(void)
{
    struct ends *e = begin_gcm(IV);
    e->caller[1] = 0;
    expect(ends_request(e, 0));
    expect(!ours.begun && !theirs.begun);
}

/* An input by the standard: only in this way does it come back. */
static void what_the_beginning_writes_comes_with_its_answer(void)
{
    struct ends *e = begin_gcm(IV);
    expect(ends_request(e, 0));
    memset(theirs.list[0].at, 'w', IV);
    expect_number(CKR_OK, ends_respond(e, CKR_OK, 0));
    expect_number(0, e->reader.error);
    expect_bytes("wwwwwwwwwwww", ours.list[0].at, IV);
    expect_bytes("wwwwwwwwwwww", ours.list[0].was, IV);
}

/* What 4.4 brings comes once: the answer is `[rv, changes]`. */
static void what_the_parameter_brings_comes_once(void)
{
    uint8_t bytes[24] = "baton";
    struct ends *e = begin(FN_C_EncryptInit, CKM_BATON_CBC128, bytes, sizeof bytes);
    expect(ends_request(e, 0));
    memset(theirs.list[0].at, 'w', sizeof bytes);
    expect_number(CKR_OK, ends_respond(e, CKR_OK, 0));
    expect_number(0x92, e->message.bytes[0]);
    expect_number('w', bytes[23]);
    expect_bytes(bytes, ours.list[0].was, sizeof bytes);
}

/* ---- later ---- */

/* C_SignEncryptUpdate, of two operations with a late output each. */
static struct ends *go_on(void)
{
    struct ends *e = ends_begin(&functions[FN_C_SignEncryptUpdate]);
    operations_recall(NULL, 0, 0, &ours);
    operations_recall(NULL, 0, 0, &theirs);
    ours.count = theirs.count = 2;
    for (unsigned i = 0; i < 2; i++) {
        ours.list[i] = (struct late){.at = fence_alloc(IV), .size = IV};
        theirs.list[i] = (struct late){.at = fence_alloc(IV), .size = IV};
        memset(ours.list[i].at, 'i', IV);
        memset(ours.list[i].was, 'i', IV);
        memset(theirs.list[i].at, 'i', IV);
        memset(theirs.list[i].was, 'i', IV);
    }
    e->shim.recall = &ours;
    e->helper.recall = &theirs;
    expect(ends_request(e, 0));
    return e;
}

static void what_changed_comes_and_nothing_else(void)
{
    static const CK_RV answers[] = {CKR_OK, CKR_BUFFER_TOO_SMALL, CKR_DEVICE_ERROR};
    for (unsigned i = 0; i < sizeof answers / sizeof *answers; i++)
        for (unsigned changed = 0; changed < 4; changed++) {
            struct ends *e = go_on();
            test_case("0x%lx, %u", answers[i], changed);
            for (unsigned k = 0; k < 2; k++)
                if (changed >> k & 1)
                    theirs.list[k].at[k] = 'w';
            expect_number(answers[i], ends_respond(e, answers[i], 0));
            expect_number(0, e->reader.error);
            expect_number(changed ? 0x93 : 0x92, e->message.bytes[0]);
            for (unsigned k = 0; k < 2; k++)
                expect_bytes(theirs.list[k].at, ours.list[k].at, IV);
            expect(!ours.lost);
        }
}

/* Nobody promises that the memory is still the caller's. */
static void memory_that_holds_something_else_is_left_alone(void)
{
    struct ends *e = go_on();
    memset(theirs.list[0].at, 'w', IV);
    memset(theirs.list[1].at, 'w', IV);
    ours.list[0].at[IV - 1] = 'x';
    expect_number(CKR_OK, ends_respond(e, CKR_OK, 0));
    expect_number(0, e->reader.error);
    expect_bytes("iiiiiiiiiiix", ours.list[0].at, IV);
    expect_bytes("wwwwwwwwwwww", ours.list[1].at, IV);
    expect(ours.lost);
}

static void memory_that_is_none_is_left_alone(void)
{
    struct ends *e = go_on();
    memset(theirs.list[0].at, 'w', IV);
    ours.list[0].at = fence_alloc(0); /* a page that nobody can touch */
    expect_number(CKR_OK, ends_respond(e, CKR_OK, 0));
    expect_number(0, e->reader.error);
    expect(ours.lost);
}

/* ---- what a peer may say ---- */

static int error_of(struct ends *e, const char *bytes, size_t len)
{
    message_set(&e->message, bytes, len);
    ends_read_response(e, 0);
    return e->reader.error;
}

#define ERROR_OF(e, bytes) error_of(e, bytes, sizeof(bytes) - 1)
#define HEAD "\x93\x00\x92\xc0\xc0"

static void lies_are_malformed(void)
{
    expect_number(0, ERROR_OF(go_on(), HEAD "\x92\xc0\xc0"));
    expect_number(0, ERROR_OF(go_on(), HEAD "\x92\xc0\xc4\x0c" "abcdefghijkl"));
    expect_bytes("abcdefghijkl", ours.list[1].at, IV);
    expect_number(-EBADMSG, ERROR_OF(go_on(), HEAD "\xc0"));
    expect_number(-EBADMSG, ERROR_OF(go_on(), HEAD "\x92\xc0\xc4\x0b" "abcdefghijk"));
    expect_number(-EBADMSG, ERROR_OF(go_on(), HEAD "\x92\xc4\x0d" "abcdefghijklm\xc0"));
    expect_number(-EBADMSG, ERROR_OF(go_on(), HEAD "\x92\x07\xc0"));
    expect_number(-EBADMSG, ERROR_OF(go_on(), HEAD "\xc4\x0c" "abcdefghijkl"));
    expect_number(-EBADMSG, ERROR_OF(go_on(), HEAD "\x99\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0"));
    expect_number(-EBADMSG, ERROR_OF(go_on(), "\x94\x00\x92\xc0\xc0\x92\xc0\xc0\xc0"));
    expect_number('i', ours.list[0].at[0]);
}

/* As when the helper knows of an operation that the shim has forgotten. */
static void what_was_not_asked_for_is_not_written(void)
{
    struct ends *e = go_on();
    expect_number(0, ERROR_OF(e, HEAD "\x91\xc4\x0c" "abcdefghijkl"));
    expect(ours.lost);
    expect_bytes("iiiiiiiiiiii", ours.list[0].at, IV);
    e = go_on();
    ours.count = 0;
    expect_number(0, ERROR_OF(e, HEAD "\x91\xc4\x0c" "abcdefghijkl"));
    e = go_on();
    ours.count = 0;
    expect_number(-EBADMSG, ERROR_OF(e, HEAD "\x91\xc4\x41" "abcdefghabcdefghabcdefghabcdefghabcdefghabcdefghabcdefghabcdefgh!"));
    e = go_on();
    e->shim.recall = NULL; /* a function that is about no operation */
    expect_number(-EBADMSG, ERROR_OF(e, HEAD "\x92\xc0\xc0"));
}

static const struct test tests[] = {
    TEST(both_ends_know_which_they_are, "both ends find the same late outputs in a parameter, none longer than the limit"),
    TEST(bytes_that_are_outputs_may_come_late_too, "so do they in one of bytes, if the tables call it an output"),
    TEST(no_mechanism_begins_nothing, "a NULL mechanism begins nothing"),
    TEST(what_the_beginning_writes_comes_with_its_answer, "what is late by the tables comes also from the beginning itself"),
    TEST(what_the_parameter_brings_comes_once, "what comes back with the parameter does not come twice"),
    TEST(what_changed_comes_and_nothing_else, "what a later call changed comes whatever it answers, and nothing else"),
    TEST(memory_that_holds_something_else_is_left_alone, "memory that does not hold what it held is not written"),
    TEST(memory_that_is_none_is_left_alone, "nor is what is no memory any more"),
    TEST(lies_are_malformed, "an answer with other than what was begun with is malformed"),
    TEST(what_was_not_asked_for_is_not_written, "what belongs to no operation that is known is not written"),
};

TEST_MAIN(tests)
