/* What is remembered of operations: by session and flag, no more than there is room for, no longer than they last. */
#include <pthread.h>
#include <string.h>

#include "operations.h"
#include "test.h"

enum { FEW = 8, THREADS = 4, ROUNDS = 3000, BYTES = 12 };

static struct operations operations;
static uint8_t memory[LATE_MOST][BYTES];

static void begin(void)
{
    memset(&operations, 0, sizeof operations);
    operations.most = FEW;
}

/* With one late part, which is `what`. */
static void remember(CK_ULONG session, unsigned flag, unsigned what)
{
    struct recall recall = {.mechanism = 0x1000 + what, .count = 1};
    recall.list[0] = (struct late){.at = memory[what % LATE_MOST], .size = BYTES};
    struct operation *operation = operations_reserve(&operations);
    expect(operation != NULL);
    operations_remember(&operations, operation, session, flag, &recall);
}

static struct recall recall_of(CK_ULONG session, unsigned flags)
{
    struct recall recall;
    operations_recall(&operations, session, flags, &recall);
    return recall;
}

static void expect_known(CK_ULONG session, unsigned flag, unsigned what)
{
    struct recall recall = recall_of(session, flag);
    expect(recall.known);
    expect_number(0x1000 + what, recall.mechanism);
    expect_number(1, recall.count);
    expect(recall.list[0].at == memory[what % LATE_MOST]);
}

/* ---- what is known ---- */

static void an_operation_is_known_by_session_and_flag(void)
{
    begin();
    remember(1, CKF_ENCRYPT, 1);
    remember(1, CKF_SIGN, 2);
    remember(CK_UNAVAILABLE_INFORMATION, CKF_ENCRYPT, 3);
    expect_known(1, CKF_ENCRYPT, 1);
    expect_known(1, CKF_SIGN, 2);
    expect_known(CK_UNAVAILABLE_INFORMATION, CKF_ENCRYPT, 3);
    expect(!recall_of(1, CKF_DECRYPT).known);
    expect(!recall_of(2, ALL_OPERATIONS).known);
}

static void a_new_one_takes_the_place_of_the_old(void)
{
    begin();
    for (unsigned i = 0; i < 3 * FEW; i++) {
        remember(7, CKF_ENCRYPT, i);
        expect_known(7, CKF_ENCRYPT, i);
    }
    expect(operations.used <= 2);
}

static void what_is_forgotten_is_not_known(void)
{
    begin();
    remember(7, CKF_ENCRYPT, 1);
    remember(7, CKF_MESSAGE_SIGN, 2);
    remember(8, CKF_ENCRYPT, 3);
    operations_forget(&operations, 7, CKF_ENCRYPT | CKF_SIGN);
    expect(!recall_of(7, CKF_ENCRYPT).known);
    expect_known(7, CKF_MESSAGE_SIGN, 2);
    operations_forget(&operations, 7, ALL_OPERATIONS);
    expect(!recall_of(7, ALL_OPERATIONS).known);
    expect_known(8, CKF_ENCRYPT, 3);
    operations_forget(&operations, 8, CKF_ENCRYPT);
    operations_forget(NULL, 8, CKF_ENCRYPT);
    expect(!recall_of(8, ALL_OPERATIONS).known);
}

/* As C_SignEncryptUpdate is about two: both ends must name their parts in one order. */
static void parts_of_two_come_in_the_order_of_flags(void)
{
    begin();
    remember(7, CKF_SIGN, 2);
    remember(7, CKF_ENCRYPT, 1);
    remember(7, CKF_VERIFY, 3);
    struct recall recall = recall_of(7, CKF_SIGN | CKF_ENCRYPT);
    expect_number(2, recall.count);
    expect(recall.list[0].at == memory[1] && recall.list[1].at == memory[2]);
    memset(recall.list[1].was, 0x55, BYTES);
    operations_update(&operations, 7, CKF_SIGN | CKF_ENCRYPT, &recall);
    expect_number(0x55, recall_of(7, CKF_SIGN).list[0].was[BYTES - 1]);
    expect_number(0, recall_of(7, CKF_ENCRYPT).list[0].was[0]);
}

static void when_there_are_too_many_the_oldest_goes(void)
{
    begin();
    for (unsigned i = 0; i < 100 * FEW; i++)
        remember(i + 1, CKF_ENCRYPT, i);
    unsigned known = 0;
    for (unsigned i = 0; i < 100 * FEW; i++)
        known += recall_of(i + 1, ALL_OPERATIONS).known;
    expect_number(FEW, known);
    expect_known(100 * FEW, CKF_ENCRYPT, 100 * FEW - 1);
}

/* Those whose calls have not returned yet have their room. */
static void reserved_room_is_nobody_elses(void)
{
    struct operation *reserved[FEW];
    begin();
    for (unsigned i = 0; i < FEW; i++)
        expect((reserved[i] = operations_reserve(&operations)) != NULL);
    expect(operations_reserve(&operations) == NULL);
    operations_release(&operations, reserved[3]);
    expect(operations_reserve(&operations) == reserved[3]);
}

/* ---- when an operation ends: NOTES are the standard's sections 5.2 and 5.8 to 5.18 ---- */

static void an_operation_ends_as_the_standard_says(void)
{
    static const struct {
        unsigned fn;
        unsigned buffer; /* the C argument; 0 for none */
        bool ok, query, small, error;
    } rows[] = {
        {FN_C_Encrypt, 3, true, false, false, true},
        {FN_C_EncryptUpdate, 3, false, false, false, true},
        {FN_C_EncryptFinal, 1, true, false, false, true},
        {FN_C_DecryptUpdate, 3, false, false, false, true},
        {FN_C_Digest, 3, true, false, false, true},
        {FN_C_DigestUpdate, 0, false, false, true, true},
        {FN_C_DigestKey, 0, false, false, true, true},
        {FN_C_DigestFinal, 1, true, false, false, true},
        {FN_C_Sign, 3, true, false, false, true},
        {FN_C_SignUpdate, 0, false, false, true, true},
        {FN_C_SignFinal, 1, true, false, false, true},
        {FN_C_SignRecover, 3, true, false, false, true},
        {FN_C_Verify, 0, true, true, true, true},
        {FN_C_VerifyUpdate, 0, false, false, true, true},
        {FN_C_VerifyFinal, 0, true, true, true, true},
        {FN_C_VerifyRecover, 3, true, false, false, true},
        {FN_C_VerifySignature, 0, true, true, true, true},
        {FN_C_VerifySignatureFinal, 0, true, true, true, true},
        {FN_C_SignEncryptUpdate, 3, false, false, false, true},
        {FN_C_EncryptMessage, 7, false, false, false, false},
        {FN_C_EncryptMessageNext, 5, false, false, false, false},
        {FN_C_SignMessage, 5, false, false, false, false},
        {FN_C_MessageEncryptFinal, 0, true, true, false, false},
        {FN_C_GetSessionInfo, 0, false, false, false, false},
    };
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct function *f = &functions[rows[i].fn];
        uintptr_t words[16] = {0};
        test_case("%s", f->name);
        expect_number(rows[i].query, operations_ended(f, words, CKR_OK));
        if (rows[i].buffer)
            words[rows[i].buffer] = (uintptr_t)memory;
        expect_number(rows[i].ok, operations_ended(f, words, CKR_OK));
        expect_number(rows[i].small, operations_ended(f, words, CKR_BUFFER_TOO_SMALL));
        expect_number(rows[i].error, operations_ended(f, words, CKR_DEVICE_ERROR));
    }
}

static void cancelling_and_opening_name_what_they_are_about(void)
{
    CK_ULONG session = 77;
    uintptr_t cancel[] = {5, CKF_ENCRYPT | CKF_FIND_OBJECTS}, open[] = {1, CKF_SERIAL_SESSION, 0, 0, (uintptr_t)&session};
    expect_number(CKF_ENCRYPT | CKF_FIND_OBJECTS, operations_cancelled(&functions[FN_C_SessionCancel], cancel));
    expect_number(77, operations_opened(&functions[FN_C_OpenSession], open));
    open[4] = 0;
    expect_number(0, operations_opened(&functions[FN_C_OpenSession], open));
}

/* ---- many threads ---- */

static void *remember_and_forget(void *argument)
{
    CK_ULONG session = (CK_ULONG)argument;
    for (unsigned i = 0; i < ROUNDS; i++) {
        remember(session, CKF_ENCRYPT, i);
        expect_known(session, CKF_ENCRYPT, i);
        struct recall recall = recall_of(session, ALL_OPERATIONS);
        operations_update(&operations, session, CKF_ENCRYPT, &recall);
        operations_forget(&operations, session, i % 2 ? CKF_ENCRYPT : ALL_OPERATIONS);
        expect(!recall_of(session, ALL_OPERATIONS).known);
    }
    return NULL;
}

static void threads_do_not_disturb_one_another(void)
{
    pthread_t threads[THREADS];
    begin();
    operations.most = 2 * THREADS; /* each may have one, and one that is to take its place */
    for (CK_ULONG i = 0; i < THREADS; i++)
        expect_number(0, pthread_create(&threads[i], NULL, remember_and_forget, (void *)(i + 1)));
    for (unsigned i = 0; i < THREADS; i++)
        expect_number(0, pthread_join(threads[i], NULL));
}

static const struct test tests[] = {
    TEST(an_operation_is_known_by_session_and_flag, "an operation is known by its session and its flag"),
    TEST(a_new_one_takes_the_place_of_the_old, "of two with the same there is the last"),
    TEST(what_is_forgotten_is_not_known, "what is forgotten is not known, and nothing else is forgotten"),
    TEST(parts_of_two_come_in_the_order_of_flags, "what a call is about comes in the order of flags"),
    TEST(when_there_are_too_many_the_oldest_goes, "there are never more than there is room for"),
    TEST(reserved_room_is_nobody_elses, "room that is reserved is not given away"),
    TEST(an_operation_ends_as_the_standard_says, "an operation ends as the standard says"),
    TEST(cancelling_and_opening_name_what_they_are_about, "what is cancelled and what is opened is in the arguments"),
    TEST(threads_do_not_disturb_one_another, "threads with sessions of their own do not disturb one another"),
};

TEST_MAIN(tests)
