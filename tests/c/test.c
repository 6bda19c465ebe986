#include "test.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static jmp_buf next_test;
static pthread_t runner;
static char row[160];

void test_case(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(row, sizeof row, format, args);
    va_end(args);
}

void test_note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("# ", stdout);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

void test_failed(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("# %s:%d: ", file, line);
    vprintf(format, args);
    printf("%s%s\n", row[0] ? ", case " : "", row);
    fflush(stdout);
    va_end(args);
    if (!pthread_equal(pthread_self(), runner))
        abort();
    longjmp(next_test, 1);
}

void test_expect_number(const char *file, int line, const char *what, long long expected, long long actual)
{
    if (expected != actual)
        test_failed(file, line, "%s: expected %lld (0x%llx), is %lld (0x%llx)", what, expected,
                    (unsigned long long)expected, actual, (unsigned long long)actual);
}

void test_expect_text(const char *file, int line, const char *what, const char *expected, const char *actual)
{
    if (!actual || strcmp(expected, actual) != 0)
        test_failed(file, line, "%s: expected \"%s\", is \"%s\"", what, expected, actual ? actual : "(null)");
}

void test_expect_bytes(const char *file, int line, const char *what, const void *expected, const void *actual, size_t len)
{
    const uint8_t *e = expected, *a = actual;
    for (size_t i = 0; i < len; i++)
        if (e[i] != a[i])
            test_failed(file, line, "%s: byte %zu of %zu: expected 0x%02x, is 0x%02x", what, i, len, e[i], a[i]);
}

static bool passes(const struct test *test)
{
    row[0] = '\0';
    if (setjmp(next_test))
        return false;
    test->run();
    return true;
}

int test_main(const struct test *tests, size_t count)
{
    size_t failed = 0;
    runner = pthread_self();
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("1..%zu\n", count);
    for (size_t i = 0; i < count; i++) {
        bool passed = passes(&tests[i]);
        failed += !passed;
        printf("%s %zu - %s: %s\n", passed ? "ok" : "not ok", i + 1, tests[i].name, tests[i].promise);
    }
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
