/* Searches that come to no end are noticed; those that are long are not. */
#include "cryptoki.h"
#include "limits.h"
#include "search.h"
#include "tables.h"
#include "test.h"

enum { SESSION = 5, OTHER = 6, MANY = 10000, FEW = 4 };

static void begin(CK_ULONG session)
{
    uintptr_t words[] = {session, 0, 0};
    expect(!search_goes_round(&functions[FN_C_FindObjectsInit], words, CKR_OK));
}

/* So many objects in a row, from this one on. */
static bool find(CK_ULONG session, CK_ULONG from, CK_ULONG count)
{
    CK_ULONG objects[FEW];
    uintptr_t words[] = {session, (uintptr_t)objects, FEW, (uintptr_t)&count};
    for (CK_ULONG i = 0; i < FEW; i++)
        objects[i] = from + i;
    return search_goes_round(&functions[FN_C_FindObjects], words, CKR_OK);
}

static void a_long_search_is_none_without_end(void)
{
    begin(SESSION);
    for (CK_ULONG i = 1; i < MANY; i += FEW)
        expect(!find(SESSION, i, FEW));
}

static void the_same_objects_for_ever_are_noticed(void)
{
    begin(SESSION);
    for (unsigned i = 0; i < 1 + LIMIT_REPEATS; i++)
        expect(!find(SESSION, 1, FEW));
    expect(find(SESSION, 1, FEW));
    expect(find(SESSION, 1, 1));
    expect(!find(SESSION, 1, 0));
    begin(SESSION);
    expect(!find(SESSION, 1, FEW));
}

static void another_session_is_another_search(void)
{
    begin(SESSION);
    begin(OTHER);
    for (unsigned i = 0; i < LIMIT_REPEATS; i++)
        expect(!find(SESSION, 1, FEW) && !find(OTHER, 1, FEW));
}

static void what_is_not_there_is_not_looked_at(void)
{
    CK_ULONG object = 1, more = FEW;
    uintptr_t whats[][4] = {
        {SESSION, 0, 1, (uintptr_t)&more},
        {SESSION, (uintptr_t)&object, 1, 0},
        {SESSION, (uintptr_t)&object, 1, (uintptr_t)&more},
    };
    begin(SESSION);
    for (unsigned i = 0; i < 3 * LIMIT_REPEATS; i++)
        for (unsigned k = 0; k < 3; k++)
            expect(!search_goes_round(&functions[FN_C_FindObjects], whats[k], CKR_OK));
    more = 1;
    for (unsigned i = 0; i < 3 * LIMIT_REPEATS; i++)
        expect(!search_goes_round(&functions[FN_C_FindObjects], whats[2], CKR_FUNCTION_FAILED));
}

static const struct test tests[] = {
    TEST(a_long_search_is_none_without_end, "a search may find as much as there is"),
    TEST(the_same_objects_for_ever_are_noticed, "one that finds the same again and again is noticed, until the next begins"),
    TEST(another_session_is_another_search, "sessions do not disturb each other"),
    TEST(what_is_not_there_is_not_looked_at, "nothing is read past what the provider was given room for"),
};

TEST_MAIN(tests)
