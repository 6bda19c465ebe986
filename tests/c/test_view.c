/* Which slots a helper shows: what the broker may say of that, what is asked of the provider, and what follows. */
#include <errno.h>
#include <string.h>

#include "codec.h"
#include "test.h"
#include "view.h"

/* ---- a view, packed ---- */

static struct {
    uint8_t bytes[LIMIT_VIEW + 1];
    size_t len;
} packed;
static struct writer w;

static void begin(void)
{
    writer_finish(&w);
    expect_number(0, writer_init(&w));
}

static void finish(void)
{
    unsigned n = writer_seal(&w);
    packed.len = 0;
    for (unsigned i = 0; i < n; packed.len += w.spans[i++].iov_len)
        memcpy(packed.bytes + packed.len, w.spans[i].iov_base, w.spans[i].iov_len);
}

static void field(const char *name, unsigned place, const char *text)
{
    write_array(&w, 3);
    write_str(&w, name, strlen(name));
    write_uint(&w, place);
    write_bin(&w, text, strlen(text));
}

/* One selector of what is shown follows, with so many conditions; then end_shown. */
static void begin_shown(size_t conditions)
{
    begin();
    write_array(&w, 2);
    write_array(&w, 1), write_array(&w, 1), write_array(&w, conditions);
}

static void end_shown(void)
{
    write_array(&w, 0);
    finish();
}

static int decode(struct view **ret)
{
    int error;
    *ret = view_decode(packed.bytes, packed.len, &error);
    expect((error == 0) == (*ret != NULL));
    return error;
}

static void expect_refused(void)
{
    struct view *view;
    int error = decode(&view);
    expect(error == -EBADMSG || error == -EMSGSIZE);
}

/* ---- a provider of one slot ---- */

enum { SLOT = 7, LABEL = 0, SERIAL = 3, DESCRIPTION = 0 };

static unsigned slot_infos, token_infos;
static CK_RV token_rv;

static CK_RV slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    slot_infos++;
    memset(info, ' ', sizeof *info);
    memcpy(info->slotDescription, "reader", 6);
    return slot == SLOT ? CKR_OK : CKR_SLOT_ID_INVALID;
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    token_infos++;
    memset(info, 0, sizeof *info); /* as some pad */
    memcpy(info->label, "a full label, of which 32 bytes.", 32);
    memcpy(info->serialNumber, "12  ", 4);
    return slot == SLOT ? token_rv : CKR_SLOT_ID_INVALID;
}

static struct provider provider = {.list = {.C_GetSlotInfo = slot_info, .C_GetTokenInfo = token_info}};

static bool shows(CK_SLOT_ID slot)
{
    struct view *view;
    slot_infos = token_infos = 0;
    expect_number(0, decode(&view));
    provider.view = view;
    bool shown = view_shows(&provider, slot);
    provider.view = NULL;
    view_free(view);
    return shown;
}

/* ---- promises ---- */

static void pads_alike(void)
{
    static const struct {
        const char *label, *serial;
        bool shown;
    } rows[] = {
        {"a full label, of which 32 bytes.", "12", true},
        {"a full label, of which 32 bytes.", "12  ", true},
        {"a full label, of which 32 bytes", "12", false},
        {"a full label, of which 32 bytes.", "1", false},
        {"a full label, of which 32 bytes.", "123", false},
        {"a full label, of which 32 bytes.", "", false},
        {"A full label, of which 32 bytes.", "12", false},
    };
    token_rv = CKR_OK;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_case("%s %s", rows[i].label, rows[i].serial);
        begin_shown(2);
        field("CK_TOKEN_INFO", LABEL, rows[i].label);
        field("CK_TOKEN_INFO", SERIAL, rows[i].serial);
        end_shown();
        expect_number(rows[i].shown, shows(SLOT));
        expect_number(1, token_infos);
        expect_number(0, slot_infos);
    }
}

static void asks_only_what_it_needs(void)
{
    begin_shown(1);
    write_uint(&w, SLOT);
    end_shown();
    expect(shows(SLOT));
    expect(!shows(SLOT + 1));
    expect_number(0, slot_infos + token_infos);

    begin_shown(2);
    field("CK_SLOT_INFO", DESCRIPTION, "another reader");
    field("CK_TOKEN_INFO", SERIAL, "12");
    end_shown();
    expect(!shows(SLOT));
    expect_number(1, slot_infos);
    expect_number(0, token_infos);
}

/* A selector of a token, among those that show or those that hide. */
static bool shows_by_token(bool hide)
{
    begin();
    write_array(&w, 2);
    if (!hide)
        write_array(&w, 1);
    else
        write_array(&w, 0);
    write_array(&w, 1), write_array(&w, 1);
    field("CK_TOKEN_INFO", SERIAL, "12");
    if (!hide)
        write_array(&w, 0);
    finish();
    return shows(SLOT);
}

static void knows_empty_from_unknown(void)
{
    token_rv = CKR_OK;
    expect(shows_by_token(false) && !shows_by_token(true));
    token_rv = CKR_TOKEN_NOT_PRESENT;
    expect(shows_by_token(false) && shows_by_token(true));
    static const CK_RV failures[] = {CKR_DEVICE_ERROR, CKR_TOKEN_NOT_RECOGNIZED, CKR_GENERAL_ERROR, CKR_SLOT_ID_INVALID};
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        token_rv = failures[i];
        test_case("0x%lx", (unsigned long)token_rv);
        expect(!shows_by_token(false) && !shows_by_token(true));
    }
}

static void shows_all_without(void)
{
    expect(view_shows(&provider, 1234));
    begin();
    write_array(&w, 2);
    write_array(&w, 0), write_array(&w, 0);
    finish();
    expect(shows(1234));
}

static void refuses_what_is_cut_or_longer(void)
{
    begin_shown(2);
    write_uint(&w, SLOT);
    field("CK_SLOT_INFO", DESCRIPTION, "reader");
    end_shown();
    struct view *view;
    size_t whole = packed.len;
    expect_number(0, decode(&view));
    view_free(view);
    for (packed.len = 0; packed.len < whole; packed.len++) {
        test_case("%zu of %zu bytes", packed.len, whole);
        expect_refused();
    }
    packed.bytes[whole] = 0;
    packed.len = whole + 1;
    expect_refused();
    packed.len = LIMIT_VIEW + 1;
    expect_refused();
}

static void refuses_what_no_slot_has(void)
{
    static const struct {
        const char *name;
        unsigned place;
    } rows[] = {
        {"CK_NONE_SUCH", 0},
        {"CK_SESSION_INFO", 0},                                /* of a session */
        {"CK_MECHANISM_INFO", 0},                              /* of a mechanism, too */
        {"CK_TOKEN_INFO", 4},                                  /* a number */
        {"CK_TOKEN_INFO", 1000},
        {"CK_SLOT_INFO", 3},                                   /* a struct */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_case("%s %u", rows[i].name, rows[i].place);
        begin_shown(1);
        field(rows[i].name, rows[i].place, "x");
        end_shown();
        expect_refused();
    }
    test_case("longer than the field");
    begin_shown(1);
    field("CK_TOKEN_INFO", SERIAL, "17 bytes of text.");
    end_shown();
    expect_refused();
}

static void refuses_counts_that_are_not_there(void)
{
    for (unsigned deep = 0; deep < 4; deep++) {
        test_case("%u deep", deep);
        begin();
        write_array(&w, 2);
        for (unsigned i = 0; i < deep; i++)
            write_array(&w, 1);
        write_array(&w, LIMIT_ELEMENTS);
        finish();
        expect_refused();
    }
}

static const struct test tests[] = {
    TEST(pads_alike, "Blanks and NULs at the end of a field are padding; all else must be the same, and is asked for once."),
    TEST(asks_only_what_it_needs, "A slot's id needs no call, and nothing is asked for that cannot matter any more."),
    TEST(knows_empty_from_unknown, "An empty slot is shown, for a token may come; what cannot be told never is."),
    TEST(shows_all_without, "Without a view, and without a selector in it, every slot is shown."),
    TEST(refuses_what_is_cut_or_longer, "A view that is not whole, or not all there is, is none."),
    TEST(refuses_what_no_slot_has, "A condition on what no function of a slot fills with text is none."),
    TEST(refuses_counts_that_are_not_there, "No memory is taken for what is only claimed."),
};
TEST_MAIN(tests)
