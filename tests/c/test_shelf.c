/* The shelf: long byte strings that lie in memory both ends share. */
#include <errno.h>
#include <string.h>

#include "limits.h"
#include "message.h"
#include "test.h"

static struct writer w;
static struct reader r;
static struct message m;
static uint8_t buffer[READER_BUFFER];

static uint8_t shelf_memory[64 * 1024] __attribute__((aligned(4096)));

static void begin_on_shelf(void)
{
    writer_finish(&w);
    expect_number(0, writer_init(&w));
    memset(shelf_memory, 0, sizeof shelf_memory);
    w.shelf = (struct shelf){.base = shelf_memory, .size = sizeof shelf_memory};
}

static void read_from_shelf(void)
{
    message_take(&m, &w);
    reader_init(&r, buffer, message_source, &m);
    r.shelf = w.shelf;
}

static void expect_end(void)
{
    expect_number(0, r.error);
    expect(message_is_read(&m, &r));
}

static void long_bytes_lie_on_the_shelf(void)
{
    static uint8_t bytes[WRITER_BY_REFERENCE], got[sizeof bytes];
    memset(bytes, 3, sizeof bytes);
    begin_on_shelf();
    write_bin(&w, bytes, sizeof bytes);
    write_bin(&w, bytes, sizeof bytes - 1);
    read_from_shelf();
    expect(m.len < 18 + sizeof bytes + 3);
    expect_number(WIRE_BIN, read_peek(&r));
    expect_number(sizeof bytes, read_bin(&r));
    read_raw(&r, got, sizeof bytes);
    expect_bytes(bytes, got, sizeof bytes);
    expect_number(sizeof bytes - 1, read_bin(&r));
    read_raw(&r, got, sizeof bytes - 1);
    expect_end();
}

static void a_full_shelf_is_no_hindrance(void)
{
    enum { COUNT = 20 };
    static uint8_t bytes[WRITER_BY_REFERENCE], got[sizeof bytes];
    begin_on_shelf();
    for (unsigned i = 0; i < COUNT; i++) {
        static uint8_t each[COUNT][sizeof bytes];
        memset(each[i], (int)i + 1, sizeof bytes);
        write_bin(&w, each[i], sizeof bytes);
    }
    read_from_shelf();
    for (unsigned i = 0; i < COUNT; i++) {
        memset(bytes, (int)i + 1, sizeof bytes);
        expect_number(sizeof bytes, read_bin(&r));
        read_raw(&r, got, sizeof bytes);
        expect_bytes(bytes, got, sizeof bytes);
    }
    expect_end();
}

/* These bytes, to a reader with a shelf. */
static void give(const char *bytes, size_t len)
{
    message_set(&m, bytes, len);
    m.portion = 3;
    reader_init(&r, buffer, message_source, &m);
    r.shelf = (struct shelf){.base = shelf_memory, .size = sizeof shelf_memory};
}

static void a_child_puts_nothing_on_its_parents_shelf(void)
{
    static const _Atomic uint32_t life = 2;
    static const uint8_t bytes[WRITER_BY_REFERENCE] = {1};
    const struct owner parent = {.life = 1, .page = &life};
    begin_on_shelf();
    w.shelf.owner = &parent;
    write_bin(&w, bytes, sizeof bytes);
    expect_number(-EOWNERDEAD, w.error);
    expect_number(0, shelf_memory[0]);
    writer_finish(&w);
}

static void wild_places_on_the_shelf_are_refused(void)
{
    static const char *const rows[] = {
        "\xd8\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01",
        "\xd8\x01\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\x01",
        "\xd8\x01\0\0\0\0\0\0\xff\xff\0\0\0\0\0\0\0\x02",
        "\xd8\x01\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x02",
        "\xd8\x01\0\0\0\0\0\0\0\x10\xff\xff\xff\xff\xff\xff\xff\xf8",
        "\xd8\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02",
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_case("row %zu", i);
        give(rows[i], 18);
        read_bin(&r);
        expect_number(-EBADMSG, r.error);
    }
}

static void shelved_bytes_are_skipped(void)
{
    give("\xd8\x01\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x08\x07", 19);
    read_skip(&r);
    expect_number(7, read_uint(&r));
    expect_end();
}

static const struct test tests[] = {
    TEST(long_bytes_lie_on_the_shelf, "a long byte string goes by the shelf, a short one does not"),
    TEST(a_full_shelf_is_no_hindrance, "what does not fit on the shelf goes through the socket"),
    TEST(a_child_puts_nothing_on_its_parents_shelf, "a child that comes back into its parent's call leaves the shelf alone"),
    TEST(wild_places_on_the_shelf_are_refused, "a place that is not on the shelf is refused"),
    TEST(shelved_bytes_are_skipped, "a byte string on the shelf is skipped"),
};

TEST_MAIN(tests)
