/* Why a call was refused: from the shim to its helper to its log. */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message.h"
#include "refusal.h"
#include "test.h"

static struct writer writer;
static struct message message;
static uint8_t buffer[READER_BUFFER];

static const struct refusal plain = {
    .function = "C_DigestInit", .rv = 0x71, .mechanism = 0x80000001, .length = 16, .count = 3, .reason = "no table knows it",
};

static struct reader heard(const struct refusal *refusal)
{
    struct reader r;
    if (!writer.buffer.base)
        expect_number(0, writer_init(&writer));
    write_refusal(&writer, refusal);
    message_take(&message, &writer);
    reader_init(&r, buffer, message_source, &message);
    return r;
}

static void what_is_said_is_heard(void)
{
    char method[LIMIT_NAME + 1], function[LIMIT_NAME + 1];
    struct refusal got, none = plain;
    none.mechanism = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
        struct reader r = heard(i ? &none : &plain);
        expect_number(3, read_array(&r));
        expect_number(2, read_uint(&r));
        read_text(&r, method, sizeof method);
        expect_text("refused", method);
        read_refusal(&r, &got, function);
        expect_number(0, r.error);
        expect(message_is_read(&message, &r));
        expect_text(plain.function, got.function);
        expect_text(plain.reason, got.reason);
        expect_number(plain.rv, got.rv);
        expect_number(plain.count, got.count);
        expect_number(i ? -1 : (long long)plain.mechanism, got.mechanism);
        expect_number(i ? 0 : plain.length, got.length);
    }
}

/* What refusal_say writes, NULL if nothing. */
static const char *said(const struct refusal *refusal, bool full)
{
    static char text[1024];
    int ends[2], before = dup(STDERR_FILENO);
    expect(before >= 0 && pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    memset(text, 0, sizeof text);
    while (full && write(ends[1], text, sizeof text) > 0)
        continue;
    expect_number(0, fcntl(ends[1], F_SETFL, 0)); /* as a helper's is: whoever writes waits */
    expect(dup2(ends[1], STDERR_FILENO) >= 0);
    refusal_say("call.refused", refusal);
    expect(dup2(before, STDERR_FILENO) >= 0);
    while (full && read(ends[0], text, sizeof text) == sizeof text && !text[0])
        continue;
    ssize_t n = read(ends[0], text, sizeof text - 1);
    close(before), close(ends[0]), close(ends[1]);
    text[n > 0 ? n : 0] = '\0';
    return n > 0 ? text : NULL;
}

static void it_is_one_line(void)
{
    struct refusal forged = plain;
    expect_text("p11host: call.refused function=C_DigestInit mechanism=0x80000001 length=16 rv=0x71 count=3 "
                "reason=\"no table knows it\"\n", said(&plain, false));
    forged.mechanism = UINT64_MAX;
    strcpy(forged.reason, "a\nb\"c\x1b[2J\x80");
    expect_text("p11host: call.refused function=C_DigestInit rv=0x71 count=3 reason=\"a?b?c?[2J?\"\n", said(&forged, false));
}

static void the_longest_fits(void)
{
    struct refusal longest = {.rv = UINT64_MAX, .mechanism = UINT64_MAX - 1, .length = UINT64_MAX, .count = UINT64_MAX};
    char name[LIMIT_NAME + 1];
    memset(name, 'C', LIMIT_NAME);
    name[LIMIT_NAME] = '\0';
    longest.function = name;
    memset(longest.reason, 'r', sizeof longest.reason - 1);
    expect(said(&longest, false) != NULL);
}

static void nobody_is_waited_for(void)
{
    expect(said(&plain, true) == NULL);
}

static void a_flood_is_not_said(void)
{
    _Atomic uint64_t count = 0;
    unsigned n = 0;
    for (unsigned i = 1; i <= 1000; i++) {
        uint64_t number = refusal_count(&count);
        expect(number == 0 || number == i);
        n += number != 0;
    }
    expect_number(16 + 5, n); /* 32, 64, 128, 256, 512 */
}

static const struct test tests[] = {
    TEST(what_is_said_is_heard, "what the shim says its helper hears, with a mechanism and without"),
    TEST(it_is_one_line, "whatever the reason holds, it is one line"),
    TEST(the_longest_fits, "the longest line is said"),
    TEST(nobody_is_waited_for, "nobody waits for a log that is not read"),
    TEST(a_flood_is_not_said, "of many refusals the first are said, and then ever fewer"),
};

TEST_MAIN(tests)
