/* MessagePack, read: what is accepted, what is refused, however it arrives. */
#include <errno.h>
#include <string.h>

#include "limits.h"
#include "message.h"
#include "test.h"

static struct writer w;
static struct reader r;
static struct message m;
static uint8_t buffer[READER_BUFFER];

/* Bytes at a time, 0 for all. */
static const size_t portions[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};

enum { PORTIONS = sizeof portions / sizeof *portions };

static void begin_writing(void)
{
    writer_finish(&w);
    expect_number(0, writer_init(&w));
}

static void begin_reading(const void *bytes, size_t len, size_t portion)
{
    message_set(&m, bytes, len);
    m.portion = portion;
    reader_init(&r, buffer, message_source, &m);
}

/* ---- reading: every encoding of every value ---- */

struct encoding {
    const char *bytes;
    size_t len;
    uint64_t value; /* of a number, or how many */
};

#define ENCODING(value, bytes) {bytes, sizeof(bytes) - 1, value}

static const struct encoding unsigned_encodings[] = {
    ENCODING(5, "\x05"),
    ENCODING(5, "\xcc\x05"),
    ENCODING(5, "\xcd\x00\x05"),
    ENCODING(5, "\xce\x00\x00\x00\x05"),
    ENCODING(5, "\xcf\x00\x00\x00\x00\x00\x00\x00\x05"),
    ENCODING(5, "\xd0\x05"),
    ENCODING(5, "\xd1\x00\x05"),
    ENCODING(5, "\xd2\x00\x00\x00\x05"),
    ENCODING(5, "\xd3\x00\x00\x00\x00\x00\x00\x00\x05"),
    ENCODING(127, "\x7f"),
    ENCODING(127, "\xd0\x7f"),
    ENCODING(255, "\xcc\xff"),
    ENCODING(32767, "\xd1\x7f\xff"),
    ENCODING(65535, "\xcd\xff\xff"),
    ENCODING(UINT32_MAX, "\xce\xff\xff\xff\xff"),
    ENCODING(INT64_MAX, "\xd3\x7f\xff\xff\xff\xff\xff\xff\xff"),
    ENCODING(UINT64_MAX - 1, "\xcf\xff\xff\xff\xff\xff\xff\xff\xfe"),
    ENCODING(UINT64_MAX, "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
    ENCODING(UINT64_MAX, "\xff"), /* -1 is all ones */
    ENCODING(UINT64_MAX, "\xd0\xff"),
    ENCODING(UINT64_MAX, "\xd1\xff\xff"),
    ENCODING(UINT64_MAX, "\xd2\xff\xff\xff\xff"),
    ENCODING(UINT64_MAX, "\xd3\xff\xff\xff\xff\xff\xff\xff\xff"),
};

static void expect_end(void)
{
    expect_number(0, r.error);
    expect(message_is_read(&m, &r));
}

static void every_encoding_of_a_number_is_read(void)
{
    for (size_t i = 0; i < sizeof unsigned_encodings / sizeof *unsigned_encodings; i++)
        for (size_t p = 0; p < PORTIONS; p++) {
            const struct encoding *e = &unsigned_encodings[i];
            test_case("row %zu by %zu", i, portions[p]);
            begin_reading(e->bytes, e->len, portions[p]);
            expect(read_peek(&r) == WIRE_UINT || e->value == UINT64_MAX || read_peek(&r) == WIRE_INT);
            expect_number(e->value, read_uint(&r));
            expect_end();
        }
}

static void every_encoding_of_a_size_is_read(void)
{
    static const struct encoding arrays[] = {
        ENCODING(0, "\x90"), ENCODING(15, "\x9f"), ENCODING(3, "\x93"), ENCODING(3, "\xdc\x00\x03"), ENCODING(3, "\xdd\x00\x00\x00\x03"),
        ENCODING(65535, "\xdc\xff\xff"), ENCODING(LIMIT_ELEMENTS, "\xdd\x00\x10\x00\x00"),
    };
    static const struct encoding maps[] = {
        ENCODING(0, "\x80"), ENCODING(15, "\x8f"), ENCODING(3, "\xde\x00\x03"), ENCODING(3, "\xdf\x00\x00\x00\x03"),
        ENCODING(LIMIT_ELEMENTS, "\xdf\x00\x10\x00\x00"),
    };
    for (size_t i = 0; i < 12; i++)
        for (size_t p = 0; p < PORTIONS; p++) {
            bool map = i >= 7;
            const struct encoding *e = map ? &maps[i - 7] : &arrays[i];
            test_case("%s %zu by %zu", map ? "map" : "array", i, portions[p]);
            begin_reading(e->bytes, e->len, portions[p]);
            expect_number(map ? WIRE_MAP : WIRE_ARRAY, read_peek(&r));
            expect_number(e->value, map ? read_map(&r) : read_array(&r));
            expect_end();
        }
}

static void every_encoding_of_a_string_is_read(void)
{
    static const struct encoding rows[] = {
        ENCODING(3, "\xc4\x03" "abc"), ENCODING(3, "\xc5\x00\x03" "abc"), ENCODING(3, "\xc6\x00\x00\x00\x03" "abc"),
        ENCODING(0, "\xc4\x00"),
        ENCODING(3, "\xa3" "abc"), ENCODING(3, "\xd9\x03" "abc"), ENCODING(3, "\xda\x00\x03" "abc"),
        ENCODING(3, "\xdb\x00\x00\x00\x03" "abc"), ENCODING(0, "\xa0"),
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t p = 0; p < PORTIONS; p++) {
            char bytes[4] = "";
            test_case("row %zu by %zu", i, portions[p]);
            begin_reading(rows[i].bytes, rows[i].len, portions[p]);
            expect_number(i < 4 ? WIRE_BIN : WIRE_STR, read_peek(&r));
            size_t len = i < 4 ? read_bin(&r) : read_str(&r);
            expect_number(rows[i].value, len);
            read_raw(&r, bytes, len);
            expect_text(len ? "abc" : "", bytes);
            expect_end();
        }
}

static void short_values_are_read(void)
{
    for (size_t p = 0; p < PORTIONS; p++) {
        begin_reading("\xc0\xc2\xc3\xc0", 4, portions[p]);
        expect_number(WIRE_NIL, read_peek(&r));
        read_nil(&r);
        expect_number(WIRE_BOOL, read_peek(&r));
        expect(!read_bool(&r));
        expect(read_bool(&r));
        read_nil(&r);
        expect_end();
    }
}

/* Longer than the reader's buffer, with short values before and behind. */
static void long_bytes_are_read_whole(void)
{
    static uint8_t long_bytes[3 * READER_BUFFER], got[sizeof long_bytes];
    static const size_t chunks[] = {0, 1, 9, 1000, READER_BUFFER - 1, READER_BUFFER, READER_BUFFER + 1};
    for (size_t i = 0; i < sizeof long_bytes; i++)
        long_bytes[i] = (uint8_t)(i * 31 >> 3);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        begin_writing();
        write_uint(&w, 1);
        write_bin(&w, long_bytes, sizeof long_bytes);
        write_uint(&w, UINT64_MAX - 7);
        message_take(&m, &w);
        m.portion = chunks[i];
        reader_init(&r, buffer, message_source, &m);
        test_case("by %zu", chunks[i]);
        expect_number(1, read_uint(&r));
        expect_number(sizeof got, read_bin(&r));
        read_raw(&r, got, sizeof got);
        expect_bytes(long_bytes, got, sizeof got);
        expect_number(UINT64_MAX - 7, read_uint(&r));
        expect_end();
    }
}

static void text_is_read(void)
{
    char text[6];
    begin_reading("\xa5" "hello\xa0", 7, 2);
    read_text(&r, text, sizeof text);
    expect_text("hello", text);
    read_text(&r, text, sizeof text);
    expect_text("", text);
    expect_end();
}

static void text_too_long_or_with_a_nul_is_refused(void)
{
    char text[5] = "kept";
    begin_reading("\xa5" "hello", 6, 0);
    read_text(&r, text, sizeof text);
    expect_number(-EMSGSIZE, r.error);
    expect_text("", text);
    begin_reading("\xa3" "a\0b", 4, 0);
    read_text(&r, text, sizeof text);
    expect_number(-EBADMSG, r.error);
    expect_text("", text);
}

/* ---- reading: what is refused ---- */

enum reading { AS_NIL, AS_BOOL, AS_UINT, AS_ARRAY, AS_MAP, AS_BIN, AS_STR, AS_TEXT, READINGS };

static void read_as(enum reading how)
{
    char text[LIMIT_NAME + 1];
    switch (how) {
    case AS_NIL: read_nil(&r); break;
    case AS_BOOL: read_bool(&r); break;
    case AS_UINT: read_uint(&r); break;
    case AS_ARRAY: read_array(&r); break;
    case AS_MAP: read_map(&r); break;
    case AS_BIN: read_bin(&r); break;
    case AS_STR: read_str(&r); break;
    default: read_text(&r, text, sizeof text);
    }
}

/* One head of every kind, and which reading takes it. */
static const struct {
    const char *bytes;
    size_t len;
    unsigned taken_as; /* 1 << enum reading */
} kinds[] = {
#define KIND(bytes, taken_as) {bytes, sizeof(bytes) - 1, taken_as}
    KIND("\xc0", 1 << AS_NIL),
    KIND("\xc2", 1 << AS_BOOL),
    KIND("\xc3", 1 << AS_BOOL),
    KIND("\x00", 1 << AS_UINT),
    KIND("\xcc\x80", 1 << AS_UINT),
    KIND("\xd0\x01", 1 << AS_UINT),
    KIND("\xff", 1 << AS_UINT),
    KIND("\xfe", 0),
    KIND("\xe0", 0),
    KIND("\xd0\xfe", 0),
    KIND("\xd1\x80\x00", 0),
    KIND("\xd2\xff\xff\xff\xfe", 0),
    KIND("\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 0),
    KIND("\x90", 1 << AS_ARRAY),
    KIND("\xdc\x00\x00", 1 << AS_ARRAY),
    KIND("\x80", 1 << AS_MAP),
    KIND("\xde\x00\x00", 1 << AS_MAP),
    KIND("\xc4\x00", 1 << AS_BIN),
    KIND("\xa0", 1 << AS_STR | 1 << AS_TEXT),
    KIND("\xd9\x00", 1 << AS_STR | 1 << AS_TEXT),
    KIND("\xc1", 0),
    KIND("\xca\x3f\x80\x00\x00", 0),
    KIND("\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00", 0),
    KIND("\xc7\x01\x01x", 0),
    KIND("\xc8\x00\x01\x01x", 0),
    KIND("\xc9\x00\x00\x00\x01\x01x", 0),
    KIND("\xd4\x01x", 0),
    KIND("\xd5\x01xx", 0),
    KIND("\xd6\x01xxxx", 0),
    KIND("\xd7\x01xxxxxxxx", 0),
    KIND("\xd8\x02xxxxxxxxxxxxxxxx", 0),
    KIND("\xd8\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", 0), /* there is no shelf here */
};

static void nothing_is_taken_for_something_else(void)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (unsigned how = 0; how < READINGS; how++)
            for (size_t p = 0; p < PORTIONS; p++) {
                test_case("head 0x%02x as %u by %zu", (uint8_t)kinds[i].bytes[0], how, portions[p]);
                begin_reading(kinds[i].bytes, kinds[i].len, portions[p]);
                read_as((enum reading)how);
                expect_number(kinds[i].taken_as & 1U << how ? 0 : -EBADMSG, r.error);
            }
}

/* Every head there is, truncated after every byte. */
static void the_end_in_the_middle_is_an_error(void)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (unsigned how = 0; how < READINGS; how++)
            for (size_t len = 0; len < kinds[i].len; len++) {
                test_case("head 0x%02x as %u, %zu bytes", (uint8_t)kinds[i].bytes[0], how, len);
                begin_reading(kinds[i].bytes, len, 1);
                read_as((enum reading)how);
                expect(r.error == -ENODATA || (r.error == -EBADMSG && !(kinds[i].taken_as & 1U << how)));
            }
}

static void sizes_over_the_limits_are_refused(void)
{
    static const struct {
        enum reading how;
        const char *bytes;
        size_t len;
    } rows[] = {
        {AS_ARRAY, "\xdd\x00\x10\x00\x01", 5},
        {AS_ARRAY, "\xdd\xff\xff\xff\xff", 5},
        {AS_MAP, "\xdf\x00\x10\x00\x01", 5},
        {AS_MAP, "\xdf\xff\xff\xff\xff", 5},
        {AS_BIN, "\xc6\x40\x00\x00\x01", 5},
        {AS_BIN, "\xc6\xff\xff\xff\xff", 5},
        {AS_STR, "\xdb\x40\x00\x00\x01", 5},
        {AS_TEXT, "\xd9\x41", 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_case("row %zu", i);
        begin_reading(rows[i].bytes, rows[i].len, 0);
        read_as(rows[i].how);
        expect_number(-EMSGSIZE, r.error);
    }
}

/* What a message may have is spent before it is waited for. */
static void a_message_over_the_limit_is_refused(void)
{
    uint8_t byte;
    begin_reading("\xc6\x40\x00\x00\x00", 5, 0);
    r.left = 1000;
    expect_number(LIMIT_BYTES, read_bin(&r));
    read_raw(&r, &byte, LIMIT_BYTES);
    expect_number(-EMSGSIZE, r.error);
}

static void errors_stay(void)
{
    begin_reading("\xc1\x05\x05\x05", 4, 0);
    read_nil(&r);
    expect_number(-EBADMSG, r.error);
    size_t pos = r.pos;
    for (unsigned how = 0; how < READINGS; how++)
        read_as((enum reading)how);
    read_skip(&r);
    expect_number(WIRE_BAD, read_peek(&r));
    expect_number(0, read_uint(&r));
    expect(!read_bool(&r));
    expect_number(0, read_bin(&r));
    expect_number(-EBADMSG, r.error);
    expect_number(pos, r.pos);
    reader_fail(&r, -EMSGSIZE);
    expect_number(-EBADMSG, r.error);
}

static long failing_source(void *context, void *bytes, size_t max)
{
    (void)bytes, (void)max;
    return *(const long *)context;
}

static void the_source_s_error_is_the_reader_s(void)
{
    long error = -ETIMEDOUT;
    reader_init(&r, buffer, failing_source, &error);
    read_nil(&r);
    expect_number(-ETIMEDOUT, r.error);
    reader_begin(&r);
    expect_number(0, r.error);
}

/* ---- skipping ---- */

static void any_value_is_skipped(void)
{
    static const struct encoding rows[] = {
        ENCODING(0, "\xc0"), ENCODING(0, "\xc3"), ENCODING(0, "\x05"), ENCODING(0, "\xcf\x01\x02\x03\x04\x05\x06\x07\x08"),
        ENCODING(0, "\xff"), ENCODING(0, "\xfe"), ENCODING(0, "\xe0"), ENCODING(0, "\xd0\x80"), ENCODING(0, "\xd1\x80\x00"),
        ENCODING(0, "\xd2\x80\x00\x00\x00"), ENCODING(0, "\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
        ENCODING(0, "\xc4\x03" "abc"), ENCODING(0, "\xa3" "abc"), ENCODING(0, "\x90"), ENCODING(0, "\x80"),
        ENCODING(0, "\x93\x01\xa1x\x92\xc0\x81\xa1k\x90"), ENCODING(0, "\x82\x01\x02\xa1k\x93\x01\x02\x03"),
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t p = 0; p < PORTIONS; p++) {
            char bytes[64];
            memcpy(bytes, rows[i].bytes, rows[i].len);
            bytes[rows[i].len] = 0x2a;
            test_case("row %zu by %zu", i, portions[p]);
            begin_reading(bytes, rows[i].len + 1, portions[p]);
            read_skip(&r);
            expect_number(0x2a, read_uint(&r));
            expect_end();
        }
}

static int skip_nested(uint8_t head, size_t depth)
{
    uint8_t bytes[5 * LIMIT_DEPTH];
    size_t len = 0;
    for (size_t i = 0; i < depth; i++) {
        bytes[len++] = head;
        if (head == 0x81)
            bytes[len++] = 0;
    }
    bytes[len++] = 0xc0;
    begin_reading(bytes, len, 0);
    read_skip(&r);
    return r.error;
}

static void nesting_is_bounded(void)
{
    static const uint8_t heads[] = {0x91, 0x81};
    for (size_t i = 0; i < sizeof heads; i++) {
        test_case("head 0x%02x", heads[i]);
        expect_number(0, skip_nested(heads[i], 1));
        expect_number(0, skip_nested(heads[i], LIMIT_DEPTH));
        expect_number(-EMSGSIZE, skip_nested(heads[i], LIMIT_DEPTH + 1));
        expect_number(-EMSGSIZE, skip_nested(heads[i], 2 * (size_t)LIMIT_DEPTH));
    }
}

static void bad_values_inside_are_not_skipped(void)
{
    static const struct encoding rows[] = {
        ENCODING(0, "\x91\xc1"), ENCODING(0, "\x91\xca\x00\x00\x00\x00"), ENCODING(0, "\x92\x01\xd4\x01x"),
        ENCODING(0, "\x81\x01\xcb\0\0\0\0\0\0\0\0"),
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_case("row %zu", i);
        begin_reading(rows[i].bytes, rows[i].len, 0);
        read_skip(&r);
        expect_number(-EBADMSG, r.error);
    }
}

/* ---- one message after another ---- */

static void the_next_message_stays(void)
{
    begin_reading("\x01\x02", 2, 0);
    expect_number(1, read_uint(&r));
    reader_wipe(&r);
    reader_begin(&r);
    expect_number(2, read_uint(&r));
    expect_end();
}

/* However the pieces of a message fell into the buffer, and were moved in it: nothing that has been read is left. */
static void what_was_read_is_wiped(void)
{
    static const char secrets[] = "\xc4\x20" "SECRETSECRETSECRETSECRETSECRETSE\xcf" "SECRETS!\xce" "SECR\xcd" "SE\x01\x02";
    static const size_t chunks[] = {0, 1, 3, 16, 17, 18, 30, 40, 47, 48};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        uint8_t got[32];
        begin_reading(secrets, sizeof secrets - 1, chunks[i]);
        test_case("by %zu", chunks[i]);
        memset(buffer, 0, sizeof buffer);
        read_raw(&r, got, read_bin(&r));
        read_uint(&r), read_uint(&r), read_uint(&r), read_uint(&r), read_uint(&r);
        expect_end();
        reader_wipe(&r);
        for (size_t k = 0; k < sizeof buffer; k++)
            if (buffer[k] != 0)
                test_failed(__FILE__, __LINE__, "byte %zu of the buffer: 0x%02x", k, buffer[k]);
    }
}

static const struct test tests[] = {
    TEST(every_encoding_of_a_number_is_read, "a number is understood in every encoding, byte by byte"),
    TEST(every_encoding_of_a_size_is_read, "arrays and maps are understood in every encoding"),
    TEST(every_encoding_of_a_string_is_read, "strings and byte strings are understood in every encoding"),
    TEST(short_values_are_read, "nil and truth values are understood"),
    TEST(long_bytes_are_read_whole, "a byte string longer than the buffer arrives whole, in pieces of any size"),
    TEST(text_is_read, "a string becomes text"),
    TEST(text_too_long_or_with_a_nul_is_refused, "text that does not fit or has a NUL inside is refused"),
    TEST(nothing_is_taken_for_something_else, "a value is read as what it is or refused"),
    TEST(the_end_in_the_middle_is_an_error, "a value that ends too early is an error"),
    TEST(sizes_over_the_limits_are_refused, "lengths and counts over the limits are refused before anything is done with them"),
    TEST(a_message_over_the_limit_is_refused, "a message never takes more than the limit"),
    TEST(errors_stay, "after an error nothing more is read"),
    TEST(the_source_s_error_is_the_reader_s, "why the source failed is known"),
    TEST(any_value_is_skipped, "any value is skipped whole"),
    TEST(nesting_is_bounded, "values nest as deep as the limit says and no deeper"),
    TEST(bad_values_inside_are_not_skipped, "what is malformed is so inside a skipped value too"),
    TEST(the_next_message_stays, "a message that came along with another is not lost"),
    TEST(what_was_read_is_wiped, "nothing of a message is left in the buffer it was read through"),
};

TEST_MAIN(tests)
