/* What objects are known by: remembered, found where they are now, and forgotten when they may be others. */
#include <string.h>

#include "limits.h"
#include "objects.h"
#include "test.h"

static struct objects objects;

static struct object an_object(CK_ULONG client)
{
    struct object object = {.client = client, .slot = client % 7, .life = 1, .server = client + 5, .findable = true};
    object.traits = (struct traits){.class = CKO_PRIVATE_KEY, .key_type = CKK_EC, .id_len = sizeof client};
    memcpy(object.traits.id, &client, sizeof client);
    return object;
}

static void remember(CK_ULONG client)
{
    struct object object = an_object(client);
    objects_put(&objects, &object);
}

static void objects_come_back(void)
{
    struct object found;
    for (CK_ULONG client = 1; client <= 100; client++)
        remember(client << 16);
    for (CK_ULONG client = 1; client <= 100; client++) {
        struct object wanted = an_object(client << 16);
        test_case("object %lu", client);
        expect(objects_has(&objects, client << 16));
        expect(objects_get(&objects, client << 16, &found));
        expect_number(wanted.slot, found.slot);
        expect_number(wanted.server, found.server);
        expect(memcmp(&wanted.traits, &found.traits, sizeof wanted.traits) == 0);
    }
    objects_finish(&objects);
}

static void strangers_are_not_known(void)
{
    struct object found;
    expect(!objects_has(&objects, 1));
    remember(0);
    expect(!objects_has(&objects, 0));
    remember(1);
    expect(!objects_has(&objects, 2));
    expect(!objects_get(&objects, 0, &found));
    objects_finish(&objects);
    expect(!objects_has(&objects, 1));
}

static void objects_move(void)
{
    struct object found;
    remember(9);
    objects_settle(&objects, 9, 4, 77);
    objects_settle(&objects, 10, 4, 78);
    expect(objects_get(&objects, 9, &found));
    expect_number(4, found.life);
    expect_number(77, found.server);
    expect(!objects_has(&objects, 10));
    objects_finish(&objects);
}

static void handles_change_hands(void)
{
    remember(9);
    objects_forget(&objects, 9);
    expect(!objects_has(&objects, 9));
    struct object other = an_object(9), found;
    other.traits.class = CKO_CERTIFICATE;
    objects_put(&objects, &other);
    other.traits.class = CKO_DATA;
    objects_put(&objects, &other);
    expect(objects_get(&objects, 9, &found));
    expect_number(CKO_DATA, found.traits.class);
    objects_finish(&objects);
}

static void those_in_use_stay(void)
{
    remember(1);
    for (CK_ULONG client = 2; client < 64 * LIMIT_OBJECTS; client++) {
        remember(client);
        expect(objects_has(&objects, 1));
        expect(objects_has(&objects, client));
    }
    expect(!objects_has(&objects, 2));
    objects_finish(&objects);
}

static void a_child_knows_what_its_parent_knew(void)
{
    static struct objects child;
    struct object found, wanted = an_object(7 << 16);
    remember(7 << 16);
    objects_inherit(&child, &objects);
    objects_finish(&objects);
    expect(objects_get(&child, 7 << 16, &found));
    expect_number(wanted.server, found.server);
    expect(memcmp(&wanted.traits, &found.traits, sizeof wanted.traits) == 0);
    objects_finish(&child);
    objects_inherit(&child, &objects);
    expect(!objects_has(&child, 7 << 16));
}

static const struct test tests[] = {
    TEST(objects_come_back, "an object is known by what was remembered of it"),
    TEST(strangers_are_not_known, "an object that was not remembered, or is none, is not known"),
    TEST(objects_move, "an object is where it was found last"),
    TEST(handles_change_hands, "a handle that was forgotten may be another's"),
    TEST(a_child_knows_what_its_parent_knew, "a child knows the objects that its parent knew"),
    TEST(those_in_use_stay, "objects that are not used give way to others, those in use do not"),
};

TEST_MAIN(tests)
