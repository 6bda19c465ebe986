/* MessagePack, written: in the shortest form, in few pieces, within the limits. */
#include <errno.h>
#include <string.h>

#include "limits.h"
#include "message.h"
#include "test.h"

static struct writer w;
static struct message m;

static void begin_writing(void)
{
    writer_finish(&w);
    expect_number(0, writer_init(&w));
}

static void expect_written(const char *bytes, size_t len)
{
    message_take(&m, &w);
    expect_number(0, m.error);
    expect_number(len, m.len);
    expect_bytes(bytes, m.bytes, len);
}

#define EXPECT_WRITTEN(bytes) expect_written(bytes, sizeof(bytes) - 1)

struct number {
    uint64_t value;
    const char *bytes;
    size_t len;
};

#define NUMBER(value, bytes) {value, bytes, sizeof(bytes) - 1}

static const struct number numbers[] = {
    NUMBER(0, "\x00"),
    NUMBER(127, "\x7f"),
    NUMBER(128, "\xcc\x80"),
    NUMBER(255, "\xcc\xff"),
    NUMBER(256, "\xcd\x01\x00"),
    NUMBER(65535, "\xcd\xff\xff"),
    NUMBER(65536, "\xce\x00\x01\x00\x00"),
    NUMBER(UINT32_MAX, "\xce\xff\xff\xff\xff"),
    NUMBER((uint64_t)UINT32_MAX + 1, "\xcf\x00\x00\x00\x01\x00\x00\x00\x00"),
    NUMBER(UINT64_MAX, "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
};

static void numbers_are_written_short(void)
{
    begin_writing();
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        test_case("%llu", (unsigned long long)numbers[i].value);
        write_uint(&w, numbers[i].value);
        expect_written(numbers[i].bytes, numbers[i].len);
    }
    write_minus_one(&w);
    EXPECT_WRITTEN("\xff");
}

static void short_values_are_written(void)
{
    begin_writing();
    write_nil(&w);
    write_bool(&w, false);
    write_bool(&w, true);
    EXPECT_WRITTEN("\xc0\xc2\xc3");
}

struct sized {
    size_t count;
    const char *head;
    size_t len;
};

#define SIZED(count, head) {count, head, sizeof(head) - 1}

static void heads_of_arrays_and_maps_are_written_short(void)
{
    static const struct sized arrays[] = {
        SIZED(0, "\x90"), SIZED(15, "\x9f"), SIZED(16, "\xdc\x00\x10"), SIZED(65535, "\xdc\xff\xff"),
        SIZED(65536, "\xdd\x00\x01\x00\x00"), SIZED(LIMIT_ELEMENTS, "\xdd\x00\x10\x00\x00"),
    };
    static const struct sized maps[] = {SIZED(0, "\x80"), SIZED(15, "\x8f"), SIZED(16, "\xde\x00\x10")};
    begin_writing();
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        write_array(&w, arrays[i].count);
        expect_written(arrays[i].head, arrays[i].len);
    }
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        write_map(&w, maps[i].count);
        expect_written(maps[i].head, maps[i].len);
    }
}

static void strings_are_written(void)
{
    static const struct sized strings[] = {
        SIZED(0, "\xa0"), SIZED(31, "\xbf"), SIZED(32, "\xd9\x20"), SIZED(255, "\xd9\xff"), SIZED(256, "\xda\x01\x00"),
    };
    static const struct sized bins[] = {
        SIZED(0, "\xc4\x00"), SIZED(255, "\xc4\xff"), SIZED(256, "\xc5\x01\x00"), SIZED(65535, "\xc5\xff\xff"),
        SIZED(65536, "\xc6\x00\x01\x00\x00"), SIZED(WRITER_BY_REFERENCE - 1, "\xc5\x1f\xff"), SIZED(WRITER_BY_REFERENCE, "\xc5\x20\x00"),
    };
    static char text[70000];
    memset(text, 't', sizeof text);
    begin_writing();
    for (size_t i = 0; i < sizeof strings / sizeof *strings + sizeof bins / sizeof *bins; i++) {
        bool bin = i >= sizeof strings / sizeof *strings;
        const struct sized *row = bin ? &bins[i - sizeof strings / sizeof *strings] : &strings[i];
        test_case("%zu bytes", row->count);
        if (bin)
            write_bin(&w, text, row->count);
        else
            write_str(&w, text, row->count);
        message_take(&m, &w);
        expect_number(row->len + row->count, m.len);
        expect_bytes(row->head, m.bytes, row->len);
        expect_bytes(text, m.bytes + row->len, row->count);
    }
}

static void empty_bytes_need_no_address(void)
{
    begin_writing();
    write_bin(&w, NULL, 0);
    EXPECT_WRITTEN("\xc4\x00");
}

/* ---- the writer's pieces ---- */

static void long_bytes_are_not_copied(void)
{
    static const uint8_t bytes[WRITER_BY_REFERENCE];
    begin_writing();
    write_array(&w, 2);
    write_bin(&w, bytes, sizeof bytes);
    write_nil(&w);
    expect_number(3, writer_seal(&w));
    expect(w.spans[1].iov_base == (void *)(uintptr_t)bytes);
    expect_number(sizeof bytes, w.spans[1].iov_len);
    expect_number(1 + 3, w.spans[0].iov_len);
    expect_number(1, w.spans[2].iov_len);
}

/* Pieces are few; what does not fit among them is copied. */
static void any_number_of_long_bytes_fits(void)
{
    enum { COUNT = 100 };
    static uint8_t bytes[WRITER_BY_REFERENCE];
    begin_writing();
    write_array(&w, COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        memset(bytes, 7, sizeof bytes);
        write_bin(&w, bytes, sizeof bytes);
        write_uint(&w, i);
    }
    expect(writer_seal(&w) <= WRITER_SPANS);
    message_take(&m, &w);
    expect_number(0, m.error);
    expect_number(3 + COUNT * (3 + sizeof bytes + 1), m.len);
    for (unsigned i = 0; i < COUNT; i++)
        expect_number(i, m.bytes[3 + (i + 1) * (3 + sizeof bytes + 1) - 1]);
}

static void too_much_is_an_error_and_stays_one(void)
{
    static uint8_t bytes[1024];
    begin_writing();
    write_bin(&w, bytes, (size_t)LIMIT_BYTES + 1);
    expect_number(-EMSGSIZE, w.error);
    write_nil(&w);
    expect_number(0, writer_seal(&w));
    expect_number(-EMSGSIZE, w.error);
    writer_reset(&w);
    expect_number(0, w.error);
    for (size_t i = 0; i < LIMIT_MESSAGE - LIMIT_BYTES && !w.error; i += sizeof bytes)
        write_bin(&w, bytes, sizeof bytes);
    expect_number(-EMSGSIZE, w.error);
    writer_reset(&w);
    write_nil(&w);
    EXPECT_WRITTEN("\xc0");
}

/* Two byte strings at the limit are one message over it. */
static void a_message_over_the_limit_is_not_sealed(void)
{
    begin_writing();
    const void *far = (void *)0x1000; /* never looked at */
    write_bin(&w, far, LIMIT_BYTES);
    expect(writer_seal(&w) > 0);
    write_bin(&w, far, LIMIT_BYTES);
    expect_number(0, writer_seal(&w));
    expect_number(-EMSGSIZE, w.error);
    writer_reset(&w);
}

static void a_reset_writer_forgets(void)
{
    begin_writing();
    write_str(&w, "a PIN of somebody", 17);
    const uint8_t *base = w.buffer.base;
    writer_reset(&w);
    for (size_t i = 0; i < 20; i++)
        expect_number(0, base[i]);
    expect_number(0, writer_seal(&w));
}

static const struct test tests[] = {
    TEST(numbers_are_written_short, "a number is written in its shortest form, all ones as -1"),
    TEST(short_values_are_written, "nil and truth values are one byte"),
    TEST(heads_of_arrays_and_maps_are_written_short, "counts are written in their shortest form"),
    TEST(strings_are_written, "strings and byte strings of every width are written whole"),
    TEST(empty_bytes_need_no_address, "an empty byte string may come from NULL"),
    TEST(long_bytes_are_not_copied, "a long byte string is sent from where it lies"),
    TEST(any_number_of_long_bytes_fits, "more long byte strings than pieces are still one message"),
    TEST(too_much_is_an_error_and_stays_one, "what is over a limit is not written, nor is anything after it"),
    TEST(a_message_over_the_limit_is_not_sealed, "a message over the limit is never sent"),
    TEST(a_reset_writer_forgets, "nothing of a message is left in its writer"),
};

TEST_MAIN(tests)
