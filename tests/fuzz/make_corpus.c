/*
 * Writes what the fuzz targets begin with: the vectors of specs/vectors, and requests and responses for every function and
 * for every struct a parameter can be, by the tables, so that the corpus is never older than they are.
 *
 * usage: make_corpus DIRECTORY
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "door.h"
#include "ends.h"
#include "stand_in.h"
#include "vectors.h"
#include "visit.h"

enum { LONGEST = 4096, DICE = 48, TRIES = 30000, EACH = 3 };

static const char *root;
static struct leaves leaves;
static unsigned written;

static void fail(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

static FILE *create(const char *target, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", root, target, name);
    FILE *file = fopen(path, "we");
    if (!file)
        fail(path);
    return file;
}

static void save(const char *target, const char *name, const void *head, size_t head_len, const struct message *m)
{
    if (m->len > LONGEST)
        return;
    FILE *file = create(target, name);
    if (fwrite(head, 1, head_len, file) != head_len || fwrite(m->bytes, 1, m->len, file) != m->len || fclose(file) != 0)
        fail(name);
    written++;
}

/* ---- requests ---- */

static void save_request(struct ends *e, const char *name)
{
    const struct function *f = e->shim.function;
    uint8_t head[3 + LIMIT_NAME + 3] = {(uint8_t)written, 0x94, 0x00, 0x01, 0xd9, f->name_len};
    memcpy(head + 6, f->name, f->name_len);
    ends_write_request(e);
    if (e->shim.refusal == CKR_OK && !e->message.error)
        save("fuzz_request", name, head, 6U + f->name_len, &e->message);
}

static void save_calls(void)
{
    char name[LIMIT_NAME + 16];
    for (unsigned fn = 0; fn < FUNCTION_COUNT; fn++)
        for (unsigned round = 0; round < EACH && make_crosses(&functions[fn]); round++) {
            struct dice dice = dice_from_seed(fn * 100 + round);
            struct ends *e = ends_begin(&functions[fn]);
            make_call(&dice, &functions[fn], e->caller);
            snprintf(name, sizeof name, "%s-%u", functions[fn].name, round);
            save_request(e, name);
        }
}

/* One for each choice, of which many mechanisms have the same. */
static void save_parameters(void)
{
    static bool seen[1024];
    char name[128];
    for (struct way way = {0}; make_next_way(&way);) {
        unsigned number = (unsigned)(way.choice - choices);
        bool is_struct = way.choice->kind == VALUE_STRUCT;
        struct dice dice = dice_from_seed(number);
        if (number >= sizeof seen || seen[number])
            continue;
        seen[number] = true;
        struct ends *e = ends_begin(make_function_for(way.choice));
        ends_give_mechanism(e, make_mechanism(&dice, way.mechanism, way.choice));
        snprintf(name, sizeof name, "parameter-%u-%s", number, is_struct ? layouts[way.choice->type].name : "plain");
        save_request(e, name);
    }
}

/* ---- responses ---- */

/* What the bytes make of themselves, as in fuzz_response.c; the struct of its parameter, -1 if there is none. */
static struct ends *make_from(const uint8_t *bytes, int *ret_layout)
{
    struct dice dice = dice_from_bytes(bytes, DICE);
    const struct function *f = &functions[dice_throw(&dice, FUNCTION_COUNT)];
    if (!make_crosses(f))
        return NULL;
    struct ends *e = ends_begin(f);
    if (dice_once_in(&dice, 2))
        ends_use_shelf(e);
    make_call(&dice, f, e->caller);
    int i = make_find_arg(f, ARG_MECHANISM);
    const CK_MECHANISM *m = i < 0 ? NULL : (void *)e->caller[f->args[i].pos];
    const struct choice *choice = m && m->pParameter && m->ulParameterLen ? visit_choose(f->context, m) : NULL;
    *ret_layout = choice && choice->kind == VALUE_STRUCT ? choice->type : -1;
    return e;
}

static void save_response(struct ends *e, const uint8_t *bytes, const char *name)
{
    struct dice dice = dice_from_seed(written);
    uint8_t head[1 + DICE] = {DICE};
    memcpy(head + 1, bytes, DICE);
    if (!ends_request(e, 0))
        return;
    visit_call(&leaves, e->helper.function, e->provider, NULL, NULL);
    stand_in_writes(&dice, &leaves, CKR_OK, LONGEST);
    ends_write_response(e, CKR_OK);
    save("fuzz_response", name, head, sizeof head, &e->message);
}

/* Dice are thrown until every function and every struct has come up. */
static void save_responses(void)
{
    static unsigned functions_seen[FUNCTION_COUNT], layouts_seen[256];
    char name[128];
    for (unsigned try = 0; try < TRIES; try++) {
        struct dice dice = dice_from_seed(try);
        uint8_t bytes[DICE];
        int layout;
        dice_fill(&dice, bytes, sizeof bytes);
        struct ends *e = make_from(bytes, &layout);
        if (!e)
            continue;
        unsigned *seen = layout >= 0 ? &layouts_seen[layout] : &functions_seen[e->shim.function - functions];
        if (*seen == EACH)
            continue;
        ++*seen;
        snprintf(name, sizeof name, "%s-%u", layout >= 0 ? layouts[layout].name : e->shim.function->name, *seen);
        save_response(e, bytes, name);
    }
}

/* ---- hellos and offers ---- */

static struct writer w;
static struct message m;

static struct hello some_hello(bool from_helper)
{
    struct hello hello = hello_ours();
    if (from_helper) {
        hello.pid = 4242;
        hello.cryptoki[0] = 2;
        hello.cryptoki[1] = 40;
        hello.bell = true;
        strcpy(hello.module, "softhsm");
    }
    strcpy(hello.program, "make_corpus");
    return hello;
}

static void save_hellos(void)
{
    static const uint8_t choices_of_descriptors[] = {1, 2, 17, 18, 0, 5, 9};
    char name[32];
    for (unsigned i = 0; i < sizeof choices_of_descriptors; i++) {
        struct hello hello = some_hello(i % 2);
        if (i % 3 == 2)
            strcpy(hello.error, "a reason");
        write_hello(&w, &hello);
        message_take(&m, &w);
        snprintf(name, sizeof name, "hello-%u", i);
        save("fuzz_door", name, &choices_of_descriptors[i], 1, &m);
    }
}

static void write_key(const char *key)
{
    write_str(&w, key, strlen(key));
}

static void write_module(unsigned i)
{
    static const uint8_t no_rows[] = {0x94, 0x90, 0x90, 0x90, 0x90};
    write_map(&w, i % 3 ? 6 : 7);
    write_key("name"), write_key(i % 2 ? "softhsm" : "card");
    write_key("door"), write_bool(&w, i % 4 != 3);
    write_key("fork"), write_key(i % 2 ? "strict" : "reinit");
    write_key("short"), write_uint(&w, 60000);
    write_key("long"), write_uint(&w, 600000);
    write_key("rows"), write_bin(&w, no_rows, i % 5 ? sizeof no_rows : 1);
    if (i % 3 == 0)
        write_key("error"), i % 2 ? write_nil(&w) : write_key("there is no such file");
}

/* As a broker says it, with as many modules as descriptors and with more or fewer. */
static void save_offers(void)
{
    char name[32];
    for (uint8_t i = 0; i < 12; i++) {
        struct hello hello = some_hello(false);
        uint8_t head = (uint8_t)(i % 5 | (i & 1 ? 0x80 : 0));
        write_hello(&w, &hello);
        write_array(&w, 4), write_uint(&w, 1), write_uint(&w, 1), write_nil(&w);
        write_map(&w, 1), write_key("modules"), write_array(&w, i);
        for (unsigned k = 0; k < i; k++)
            write_module(k + i);
        message_take(&m, &w);
        snprintf(name, sizeof name, "offers-%u", i);
        save("fuzz_control", name, &head, 1, &m);
    }
}

static void save_refusal(void)
{
    struct hello hello = some_hello(false);
    write_hello(&w, &hello);
    write_array(&w, 4), write_uint(&w, 1), write_uint(&w, 1);
    write_array(&w, 2), write_key("refused"), write_key("policy.toml says no");
    write_nil(&w);
    message_take(&m, &w);
    save("fuzz_control", "refusal", "\0", 1, &m);
}

/* ---- vectors ---- */

static void save_octets(const char *target, const struct vector *v, const void *head, size_t head_len, const struct octets *what, size_t skip)
{
    char name[64];
    if (what->len <= skip)
        return;
    message_set(&m, what->bytes + skip, what->len - skip);
    snprintf(name, sizeof name, "vector-%s-%u", v->file, (unsigned)(v - vectors));
    save(target, name, head, head_len, &m);
}

/* Bytes that make up a call of this function. */
static void find_bytes(const struct function *f, uint8_t bytes[DICE])
{
    const struct ends *e = NULL;
    for (uint64_t seed = 0; !e || e->shim.function != f; seed++) {
        struct dice dice = dice_from_seed(seed);
        int layout;
        dice_fill(&dice, bytes, DICE);
        e = make_from(bytes, &layout);
    }
}

/* Without `[1, 1, nil,`, which the shim has read by then. */
static void save_answer(const struct vector *v, const struct function *f, const struct octets *answer)
{
    enum { HEAD = 4 };
    uint8_t head[1 + DICE] = {DICE};
    find_bytes(f, head + 1);
    save_octets("fuzz_response", v, head, sizeof head, answer, HEAD);
}

static void save_vectors(void)
{
    for (const struct vector *v = vectors; v < vectors + vector_count; v++) {
        if (v->function[0]) {
            save_octets("fuzz_request", v, "\0", 1, &v->request, 0);
            save_answer(v, vector_function(v), &v->response);
        } else if (v->call[0]) {
            save_answer(v, vector_function(vector_call(v->call)), &v->send);
            save_octets("fuzz_control", v, "\0", 1, &v->send, 0);
        } else if (!strcmp(v->file, "hellos")) {
            save_octets("fuzz_door", v, "\1", 1, &v->send, 0);
            save_octets("fuzz_control", v, "\0", 1, &v->send, 0);
        } else {
            save_octets("fuzz_request", v, "\0", 1, &v->send, 0);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: make_corpus DIRECTORY\n", stderr);
        return 2;
    }
    root = argv[1];
    mkdir(root, 0777);
    if (writer_init(&w) != 0)
        fail("writer");
    save_calls();
    save_parameters();
    save_responses();
    save_hellos();
    save_offers();
    save_refusal();
    save_vectors();
    printf("%u seeds in %s\n", written, root);
    return 0;
}
