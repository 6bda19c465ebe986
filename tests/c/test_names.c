/* What an application sees: handles that tell their generation, slot ids that stay. Also under many threads. */
#include <pthread.h>
#include <stdio.h>

#include "limits.h"
#include "names.h"
#include "root.h"
#include "test.h"

/* The root's lock without the root. */
pthread_mutex_t *root_names_lock(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    return &lock;
}

static struct large_handles large;

static const CK_ULONG servers[] = {
    1, 2, 0xffff, 0xffffffff, (CK_ULONG)1 << 46, ((CK_ULONG)1 << 47) - 1, (CK_ULONG)1 << 47, ((CK_ULONG)1 << 48) - 1,
    (CK_ULONG)1 << 48, (CK_ULONG)1 << 63, 0x7f1234567890, 0xffff880012345678, CK_UNAVAILABLE_INFORMATION - 1,
    CK_UNAVAILABLE_INFORMATION,
};

enum { SERVERS = sizeof servers / sizeof *servers };

static void begin(void)
{
    large_handles_finish(&large);
}

static void handles_come_back(void)
{
    begin();
    for (size_t i = 0; i < SERVERS; i++)
        for (uint32_t generation = 1; generation <= 0xffff; generation += 0x1fff) {
            CK_ULONG server, client = handle_to_client(&large, generation, servers[i]);
            test_case("0x%lx in generation %u", servers[i], generation);
            expect_number(generation, handle_generation(client));
            expect(handle_to_server(&large, generation, client, &server));
            expect_number(servers[i], server);
        }
}

static void the_same_object_has_the_same_handle(void)
{
    begin();
    CK_ULONG first[SERVERS];
    for (size_t i = 0; i < SERVERS; i++)
        first[i] = handle_to_client(&large, 7, servers[i]);
    for (size_t i = SERVERS; i-- > 0;)
        expect_number(first[i], handle_to_client(&large, 7, servers[i]));
}

static void different_objects_have_different_handles(void)
{
    begin();
    for (size_t i = 0; i < SERVERS; i++)
        for (size_t k = 0; k < i; k++)
            expect(handle_to_client(&large, 7, servers[i]) != handle_to_client(&large, 7, servers[k]));
}

static void handles_of_another_life_are_refused(void)
{
    begin();
    for (size_t i = 0; i < SERVERS; i++) {
        CK_ULONG server = 99, client = handle_to_client(&large, 7, servers[i]);
        test_case("0x%lx", servers[i]);
        expect(!handle_to_server(&large, 8, client, &server));
        expect_number(0, server);
        expect(!handle_to_server(&large, 6, client, &server));
    }
}

static void zero_is_zero_in_every_life(void)
{
    CK_ULONG server = 99;
    expect_number(0, handle_to_client(&large, 7, 0));
    expect(handle_to_server(&large, 7, 0, &server));
    expect_number(0, server);
    expect(handle_to_server(&large, 8, 0, &server));
}

static void invented_handles_are_refused(void)
{
    begin();
    CK_ULONG server;
    CK_ULONG client = handle_to_client(&large, 7, CK_UNAVAILABLE_INFORMATION);
    expect(!handle_to_server(&large, 7, client + 1, &server)); /* the next place in the list, which nobody has */
    expect(!handle_to_server(&large, 7, CK_UNAVAILABLE_INFORMATION, &server));
    expect(!handle_to_server(&large, 7, 1, &server)); /* what a provider would say */
}

static void large_handles_are_forgotten_with_their_life(void)
{
    begin();
    CK_ULONG server, old = handle_to_client(&large, 7, (CK_ULONG)1 << 63);
    large_handles_finish(&large);
    expect(!handle_to_server(&large, 7, old, &server));
    expect(!handle_to_server(&large, 8, old, &server));
    CK_ULONG fresh = handle_to_client(&large, 8, ((CK_ULONG)1 << 63) + 1);
    expect(handle_to_server(&large, 8, fresh, &server));
    expect_number(((CK_ULONG)1 << 63) + 1, server);
}

/* 2^20 handles in a list would be looked at 2^39 times. */
static void many_large_handles_take_little_time(void)
{
    CK_ULONG server;
    begin();
    for (CK_ULONG i = 0; i < LIMIT_ELEMENTS; i += 2)
        handle_to_client(&large, 7, CK_UNAVAILABLE_INFORMATION - i);
    for (CK_ULONG i = 0; i < LIMIT_ELEMENTS; i += 2) {
        CK_ULONG client = handle_to_client(&large, 7, CK_UNAVAILABLE_INFORMATION - i);
        expect(handle_to_server(&large, 7, client, &server));
        expect_number(CK_UNAVAILABLE_INFORMATION - i, server);
    }
    expect_number(LIMIT_ELEMENTS / 2, large.count);
}

static void generations_are_never_zero_nor_the_same(void)
{
    uint32_t first = generation_next(), last = first;
    for (unsigned i = 1; i < 0xffff; i++) {
        uint32_t next = generation_next();
        expect(next != 0 && next != last && next != first && next <= 0xffff);
        last = next;
    }
    expect_number(first, generation_next());
}

/* ---- modules and slots ---- */

static void modules_keep_their_numbers(void)
{
    unsigned one = module_number("one"), two = module_number("two");
    expect(one != two);
    expect_number(one, module_number("one"));
    expect_number(two, module_number("two"));
    expect(one < LIMIT_MODULES && two < LIMIT_MODULES);
}

static void names_as_long_as_the_limit_are_told_apart(void)
{
    char name[LIMIT_NAME + 1];
    for (size_t i = 0; i < LIMIT_NAME; i++)
        name[i] = 'n';
    name[LIMIT_NAME] = '\0';
    unsigned first = module_number(name);
    name[LIMIT_NAME - 1] = 'm';
    expect(first != module_number(name));
}

static void slots_keep_their_ids(void)
{
    static const CK_ULONG slots[] = {0, 1, 7, 0x5c0ffee, CK_UNAVAILABLE_INFORMATION - 1};
    CK_ULONG ids[2][5];
    for (unsigned module = 0; module < 2; module++)
        for (unsigned i = 0; i < 5; i++)
            ids[module][i] = slot_to_client(module, slots[i]);
    for (unsigned module = 0; module < 2; module++)
        for (unsigned i = 0; i < 5; i++) {
            unsigned of;
            CK_ULONG server;
            expect_number(ids[module][i], slot_to_client(module, slots[i]));
            expect(ids[module][i] >= FIRST_SLOT_ID && ids[module][i] < FIRST_SLOT_ID + 100);
            expect(slot_to_server(ids[module][i], &of, &server));
            expect_number(module, of);
            expect_number(slots[i], server);
        }
}

/* More than there are hints of where to find one, and many that share one. */
static void slots_are_found_among_many(void)
{
    enum { FIRST = 52, MODULES = 2, EACH = 1000 };
    static CK_ULONG ids[MODULES][EACH];
    for (unsigned i = 0; i < EACH; i++)
        for (unsigned m = 0; m < MODULES; m++)
            ids[m][i] = slot_to_client(FIRST + m, 256 * (CK_ULONG)i);
    for (unsigned i = EACH; i-- > 0;)
        for (unsigned m = 0; m < MODULES; m++) {
            unsigned module;
            CK_ULONG server;
            expect_number(ids[m][i], slot_to_client(FIRST + m, 256 * (CK_ULONG)i));
            expect(slot_to_server(ids[m][i], &module, &server));
            expect_number(FIRST + m, module);
            expect_number(256 * (CK_ULONG)i, server);
        }
}

static void unknown_slots_are_refused(void)
{
    unsigned module;
    CK_ULONG server;
    expect(!slot_to_server(0, &module, &server));
    expect(!slot_to_server(LIMIT_SLOTS + 1, &module, &server));
    expect(!slot_to_server(CK_UNAVAILABLE_INFORMATION, &module, &server));
}

/* ---- threads ---- */

enum { THREADS = 8, ROUNDS = 300 };

struct namer {
    unsigned number; /* of the thread */
    CK_ULONG ids[ROUNDS], handles[ROUNDS];
};

/* All threads name the same things, each from another end. */
static void *name_things(void *argument)
{
    struct namer *namer = argument;
    for (unsigned n = 0; n < ROUNDS; n++) {
        unsigned i = (n + namer->number * 37) % ROUNDS, module;
        CK_ULONG server;
        namer->ids[i] = slot_to_client(30 + i % 3, 5000 + i);
        namer->handles[i] = handle_to_client(&large, 9, CK_UNAVAILABLE_INFORMATION - i);
        expect(slot_to_server(namer->ids[i], &module, &server));
        expect_number(5000 + i, server);
        expect(handle_to_server(&large, 9, namer->handles[i], &server));
        expect_number(CK_UNAVAILABLE_INFORMATION - i, server);
    }
    return NULL;
}

static void threads_agree_on_names(void)
{
    static struct namer namers[THREADS];
    pthread_t threads[THREADS];
    begin();
    for (unsigned i = 0; i < THREADS; i++) {
        namers[i].number = i;
        expect_number(0, pthread_create(&threads[i], NULL, name_things, &namers[i]));
    }
    for (unsigned i = 0; i < THREADS; i++)
        expect_number(0, pthread_join(threads[i], NULL));
    for (unsigned i = 1; i < THREADS; i++) {
        expect_bytes(namers[0].ids, namers[i].ids, sizeof namers[0].ids);
        expect_bytes(namers[0].handles, namers[i].handles, sizeof namers[0].handles);
    }
}

/* ---- the ends of the tables: last, because they fill them for good ---- */

static void too_many_modules_are_told(void)
{
    char name[16];
    for (unsigned i = 0; i < 2 * LIMIT_MODULES; i++) {
        snprintf(name, sizeof name, "module-%u", i);
        expect(module_number(name) <= LIMIT_MODULES);
    }
    expect_number(LIMIT_MODULES, module_number("one too many"));
    expect(module_number("one") < LIMIT_MODULES);
}

static void too_many_slots_are_told(void)
{
    for (CK_ULONG i = 0; i < LIMIT_MODULE_SLOTS; i++)
        expect(slot_to_client(50, i) != CK_UNAVAILABLE_INFORMATION);
    expect_number(CK_UNAVAILABLE_INFORMATION, slot_to_client(50, LIMIT_MODULE_SLOTS));
    expect(slot_to_client(50, 0) != CK_UNAVAILABLE_INFORMATION);
    expect(slot_to_client(51, 0) != CK_UNAVAILABLE_INFORMATION);
}

static void too_many_large_handles_are_no_handles(void)
{
    begin();
    struct large_handles full = {.count = LIMIT_ELEMENTS}; /* searching a full list takes its time: begin at its end */
    CK_ULONG server;
    expect_number(0, arena_init(&full.list, LIMIT_ELEMENTS * sizeof server));
    expect(arena_commit(&full.list, LIMIT_ELEMENTS * sizeof server));
    CK_ULONG client = handle_to_client(&full, 9, CK_UNAVAILABLE_INFORMATION);
    expect(client != 0);
    expect(!handle_to_server(&full, 9, client, &server));
    large_handles_finish(&full);
}

static const struct test tests[] = {
    TEST(handles_come_back, "a handle leads back to the provider's, however large that is"),
    TEST(the_same_object_has_the_same_handle, "the same object has the same handle within a life"),
    TEST(different_objects_have_different_handles, "different objects have different handles"),
    TEST(handles_of_another_life_are_refused, "a handle from another life names nothing"),
    TEST(zero_is_zero_in_every_life, "0 is no handle, in both directions"),
    TEST(invented_handles_are_refused, "a handle that was never given out names nothing"),
    TEST(large_handles_are_forgotten_with_their_life, "a new life begins with no large handles"),
    TEST(many_large_handles_take_little_time, "the millionth large handle takes no longer than the first"),
    TEST(generations_are_never_zero_nor_the_same, "2^16 - 1 lives pass before a generation returns, and none is 0"),
    TEST(modules_keep_their_numbers, "a module keeps its number"),
    TEST(names_as_long_as_the_limit_are_told_apart, "long names differ to the last letter"),
    TEST(slots_keep_their_ids, "slot ids are small and stay"),
    TEST(slots_are_found_among_many, "a slot is found under its id, however many there are"),
    TEST(unknown_slots_are_refused, "an id that was never given out is no slot"),
    TEST(threads_agree_on_names, "many threads name the same things alike"),
    TEST(too_many_modules_are_told, "a module too many gets no number, the others keep theirs"),
    TEST(too_many_slots_are_told, "a slot too many gets no id, the others keep theirs"),
    TEST(too_many_large_handles_are_no_handles, "a large handle too many is no handle"),
};

TEST_MAIN(tests)
