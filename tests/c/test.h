/*
 * The harness: a test is a function that keeps one promise, a program runs a table of them and prints TAP.
 *
 * A check that fails ends its test and no other. In a thread other than the first it ends the program.
 */
#ifndef P11HOST_TEST_H
#define P11HOST_TEST_H

#include <stddef.h>
#include <stdint.h>

struct test {
    const char *name;
    const char *promise;
    void (*run)(void);
};

#define TEST(function, promise) {#function, promise, function}

/* Runs them all. What main returns. */
int test_main(const struct test *tests, size_t count);

#define TEST_MAIN(tests) \
    int main(void) { return test_main(tests, sizeof(tests) / sizeof *(tests)); }

/* Says which row of a table is tried: shown when a check fails, forgotten when the test ends. */
void test_case(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Something worth knowing about what was covered. */
void test_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

_Noreturn void test_failed(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define expect(condition) \
    do { \
        if (!(condition)) \
            test_failed(__FILE__, __LINE__, "expected: %s", #condition); \
    } while (0)

#define expect_number(expected, actual) \
    test_expect_number(__FILE__, __LINE__, #actual, (long long)(expected), (long long)(actual))
#define expect_text(expected, actual) test_expect_text(__FILE__, __LINE__, #actual, expected, actual)
#define expect_bytes(expected, actual, len) test_expect_bytes(__FILE__, __LINE__, #actual, expected, actual, len)

void test_expect_number(const char *file, int line, const char *what, long long expected, long long actual);
void test_expect_text(const char *file, int line, const char *what, const char *expected, const char *actual);
void test_expect_bytes(const char *file, int line, const char *what, const void *expected, const void *actual, size_t len);

#endif
