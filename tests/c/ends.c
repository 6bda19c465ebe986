#include "ends.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fence.h"
#include "visit.h"

static bool object_to_wire(void *context, CK_ULONG client, CK_ULONG *ret_server)
{
    (void)context;
    if (client == NO_OBJECT)
        return false;
    *ret_server = client ? client ^ OBJECT_PATTERN : 0;
    return true;
}

static CK_ULONG object_from_wire(void *context, CK_ULONG server)
{
    (void)context;
    return server ? server ^ OBJECT_PATTERN : 0;
}

static CK_ULONG session_from_wire(void *context, CK_ULONG server)
{
    (void)context;
    return server ^ SESSION_PATTERN;
}

static CK_ULONG slot_from_wire(void *context, CK_ULONG server)
{
    (void)context;
    return server ^ SLOT_PATTERN;
}

const struct names ends_names = {NULL, object_to_wire, object_from_wire, session_from_wire, slot_from_wire};

static struct ends *the_ends(void)
{
    static struct ends ends;
    if (ends.arena.base)
        return &ends;
    if (writer_init(&ends.writer) != 0 || arena_init(&ends.arena, (size_t)1 << (sizeof(void *) == 8 ? 32 : 25)) != 0) {
        fputs("ends: no memory\n", stderr);
        abort();
    }
    return &ends;
}

struct ends *ends_begin(const struct function *function)
{
    struct ends *e = the_ends();
    fence_reset();
    writer_reset(&e->writer);
    arena_reset(&e->arena, false);
    message_forget(&e->message);
    reader_init(&e->reader, e->buffer, message_source, &e->message);
    e->shelf = e->writer.shelf = (struct shelf){0};
    operations_recall(NULL, 0, 0, &e->begun);
    e->begun.known = true;
    e->caller = fence_alloc(function->n_words * sizeof *e->caller);
    memset(e->caller, 0, function->n_words * sizeof *e->caller);
    e->shim = (struct walk){
        .function = function, .tables = &standard_tables, .words = e->caller, .w = &e->writer, .r = &e->reader, .names = &ends_names,
    };
    e->shim.recall = function->role == ROLE_USE ? &e->begun : NULL;
    e->helper = (struct walk){
        .function = function, .tables = &standard_tables, .words = e->provider, .w = &e->writer, .r = &e->reader, .arena = &e->arena,
    };
    return e;
}

void ends_give_mechanism(struct ends *e, const CK_MECHANISM *mechanism)
{
    const struct function *f = e->shim.function;
    e->caller[f->args[make_find_arg(f, ARG_MECHANISM)].pos] = (uintptr_t)mechanism;
}

void ends_use_shelf(struct ends *e)
{
    static uint8_t shelf[LIMIT_SHELF] __attribute__((aligned(4096)));
    e->shelf = (struct shelf){.base = shelf, .size = sizeof shelf};
    e->writer.shelf = e->reader.shelf = e->shelf;
}

static bool lies_in(const void *at, size_t size, const void *base, size_t room)
{
    uintptr_t offset = (uintptr_t)at - (uintptr_t)base;
    return base && offset <= room && size <= room - offset;
}

bool ends_gave(const void *ends, const void *at, size_t size)
{
    const struct ends *e = ends;
    return lies_in(at, size, e->provider, sizeof e->provider) || lies_in(at, size, e->arena.base, e->arena.used) ||
           lies_in(at, size, e->shelf.base, e->shelf.size);
}

void ends_write_request(struct ends *e)
{
    e->begun.mechanism = visit_operation;
    e->shim.slot = e->caller[0] ^ SLOT_PATTERN;
    e->shim.session = e->caller[0] ^ SESSION_PATTERN;
    put_request(&e->shim);
    message_take(&e->message, &e->writer);
}

void ends_read_request(struct ends *e, size_t portion)
{
    e->message.portion = portion;
    reader_begin(&e->reader);
    get_request(&e->helper);
}

bool ends_request(struct ends *e, size_t portion)
{
    ends_write_request(e);
    if (e->shim.refusal != CKR_OK || e->message.error)
        return false;
    ends_read_request(e, portion);
    return e->reader.error == 0 && message_is_read(&e->message, &e->reader);
}

void ends_write_response(struct ends *e, CK_RV rv)
{
    put_response(&e->helper, rv);
    message_take(&e->message, &e->writer);
}

CK_RV ends_read_response(struct ends *e, size_t portion)
{
    e->begun.mechanism = visit_operation;
    e->message.portion = portion;
    reader_begin(&e->reader);
    return get_response(&e->shim);
}

CK_RV ends_respond(struct ends *e, CK_RV rv, size_t portion)
{
    ends_write_response(e, rv);
    return ends_read_response(e, portion);
}
