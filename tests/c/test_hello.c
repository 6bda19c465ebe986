/* Hellos: what each side says first. */
#include <errno.h>
#include <string.h>

#include "door.h"
#include "message.h"
#include "tables.h"
#include "test.h"

static struct writer w;
static struct message m;
static struct reader r;
static uint8_t buffer[READER_BUFFER];

static int read_back(const struct hello *hello, struct hello *ret_hello, size_t portion)
{
    if (!w.buffer.base)
        expect_number(0, writer_init(&w));
    write_hello(&w, hello);
    message_take(&m, &w);
    m.portion = portion;
    reader_init(&r, buffer, message_source, &m);
    read_hello(&r, ret_hello);
    return r.error;
}

static void expect_same_hello(const struct hello *hello)
{
    for (size_t portion = 0; portion < 10; portion++) {
        struct hello heard;
        expect_number(0, read_back(hello, &heard, portion));
        expect(message_is_read(&m, &r));
        expect_number(hello->protocol, heard.protocol);
        expect_number(hello->ulong, heard.ulong);
        expect_number(hello->tables, heard.tables);
        expect_number(hello->pid, heard.pid);
        expect_number(hello->rv, heard.rv);
        expect_number(hello->cryptoki[0], heard.cryptoki[0]);
        expect_number(hello->cryptoki[1], heard.cryptoki[1]);
        expect_number(hello->bell, heard.bell);
        expect_number(hello->serial, heard.serial);
        expect_text(hello->program, heard.program);
        expect_text(hello->module, heard.module);
        expect_text(hello->error, heard.error);
    }
}

static void a_hello_is_understood(void)
{
    struct hello full = hello_ours(), least = hello_ours();
    full.tables = UINT64_MAX;
    full.pid = 4194304;
    full.bell = full.serial = true;
    full.rv = CKR_VENDOR_DEFINED | 0x123;
    full.cryptoki[0] = 3;
    full.cryptoki[1] = 2;
    memset(full.program, 'p', LIMIT_NAME);
    memset(full.module, 'm', LIMIT_NAME);
    memset(full.error, 'e', LIMIT_ERROR);
    expect_same_hello(&full);
    expect_same_hello(&least);
}

/* The longest there can be still goes through a door. */
static void the_longest_hello_fits(void)
{
    struct hello hello = hello_ours(), heard;
    memset(hello.program, 'p', LIMIT_NAME);
    memset(hello.module, 'm', LIMIT_NAME);
    memset(hello.error, 'e', LIMIT_ERROR);
    hello.tables = hello.pid = hello.rv = hello.cryptoki[0] = hello.cryptoki[1] = UINT64_MAX;
    expect_number(0, read_back(&hello, &heard, 0));
    expect(m.len <= LIMIT_HELLO);
}

static void unknown_keys_are_ignored(void)
{
    static const char body[] = "\x93\x02\xa5hello\x91\x84\xa6"
                               "colour\x93\x01\x02\x81\xa1k\xc0\xa8protocol\x01\xa5" "later\xc4\x03xyz\xa5ulong\x08";
    struct hello heard;
    message_set(&m, body, sizeof body - 1);
    reader_init(&r, buffer, message_source, &m);
    read_hello(&r, &heard);
    expect_number(0, r.error);
    expect(message_is_read(&m, &r));
    expect_number(1, heard.protocol);
    expect_number(8, heard.ulong);
}

static void texts_too_long_are_refused(void)
{
    static const char *const keys[] = {"program", "module", "error"};
    for (unsigned i = 0; i < 3; i++) {
        struct hello heard;
        char text[LIMIT_ERROR + 1];
        size_t too_long = i < 2 ? LIMIT_NAME + 1 : LIMIT_ERROR + 1;
        memset(text, 't', sizeof text);
        test_case("%s", keys[i]);
        if (!w.buffer.base)
            expect_number(0, writer_init(&w));
        write_array(&w, 3), write_uint(&w, 2), write_str(&w, "hello", 5), write_array(&w, 1), write_map(&w, 1);
        write_str(&w, keys[i], strlen(keys[i]));
        write_str(&w, text, too_long);
        message_take(&m, &w);
        reader_init(&r, buffer, message_source, &m);
        read_hello(&r, &heard);
        expect_number(-EMSGSIZE, r.error);
    }
}

static const struct test tests[] = {
    TEST(a_hello_is_understood, "every field of a hello arrives, however it is cut"),
    TEST(the_longest_hello_fits, "the longest hello fits through a door"),
    TEST(unknown_keys_are_ignored, "keys that are not known yet are ignored"),
    TEST(texts_too_long_are_refused, "texts over the limits are refused"),
};

TEST_MAIN(tests)
