/*
 * Calls every function through our function list, and by invoke a provider that has that one function and no other.
 * Prints the function, how many of its C arguments arrived as they were given, and what invoke says where the provider
 * lacks the function. Functions are called as if all took ten words, which the ABIs of Unix allow.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "entries.h"
#include "invoke.h"
#include "provider.h"

enum { WORDS = 10, RETURNED = 4711 };

typedef CK_RV (*any)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                     uintptr_t);

struct list {
    CK_VERSION version;
    any functions[FUNCTION_COUNT];
};
_Static_assert(sizeof(struct list) == sizeof(CK_FUNCTION_LIST_3_2), "a list is a version and pointers");
_Static_assert(offsetof(struct provider, list) == 0, "a provider is first of all its list");

extern const unsigned char word_counts[FUNCTION_COUNT]; /* from the tables, by the test */

/* Every bit and every byte of them counts. */
static const uintptr_t given[WORDS] = {
    ~(uintptr_t)1, ~(uintptr_t)2, ~(uintptr_t)3, ~(uintptr_t)4, ~(uintptr_t)5,
    ~(uintptr_t)6, ~(uintptr_t)7, ~(uintptr_t)8, ~(uintptr_t)9, ~(uintptr_t)10,
};
static uintptr_t arrived[WORDS];
static unsigned called;

static unsigned count_same(unsigned fn)
{
    unsigned n = 0;
    if (fn == FN_C_GetSlotList) /* the one CK_BBOOL */
        arrived[0] |= given[0] & ~(uintptr_t)0xff;
    while (n < word_counts[fn] && arrived[n] == given[n])
        n++;
    return n;
}

/* The application's side: what the entry points hand over. */
CK_RV call(unsigned fn, uintptr_t *words)
{
    called = fn;
    memcpy(arrived, words, word_counts[fn] * sizeof *words);
    return RETURNED;
}

/* The provider's side. */
static CK_RV record(uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f, uintptr_t g,
                    uintptr_t h, uintptr_t i, uintptr_t j)
{
    memcpy(arrived, (uintptr_t[WORDS]){a, b, c, d, e, f, g, h, i, j}, sizeof arrived);
    return RETURNED;
}

static void enter(unsigned fn)
{
    const struct list *list = (const struct list *)&function_list_3_2;
    const uintptr_t *w = given;
    called = FUNCTION_COUNT;
    memset(arrived, 0, sizeof arrived);
    CK_RV rv = list->functions[fn](w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9]);
    if (called == FUNCTION_COUNT)
        printf("enter %u local\n", fn);
    else
        printf("enter %u %u %u %lu\n", fn, called, count_same(called), rv);
}

static void leave(unsigned fn)
{
    union {
        struct list list;
        struct provider provider;
    } one = {.list.version = {3, 2}};
    CK_RV lacking = invoke(&one.provider, fn, given);
    one.list.functions[fn] = record;
    memset(arrived, 0, sizeof arrived);
    CK_RV rv = invoke(&one.provider, fn, given);
    printf("leave %u %u %lu %lu\n", fn, count_same(fn), rv, lacking);
}

int main(void)
{
    static const struct provider none;
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++) {
        enter(fn);
        leave(fn);
    }
    printf("unknown %lu\n", invoke(&none, FUNCTION_COUNT, given));
    return 0;
}
