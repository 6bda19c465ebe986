/* What all parts of the walker share: refusing, memory from the arena, scalars and byte strings. */
#include "walk.h"

#include <errno.h>
#include <string.h>

uint64_t named_mechanism(const struct walk *walk)
{
    if (walk->has_mechanism)
        return walk->mechanism;
    return walk->recall && walk->recall->known ? walk->recall->mechanism : UINT64_MAX;
}

const char provider_lies[] = "the provider says that it wrote more than it had room for";
const char gives_no_handle[] = "the provider says CKR_OK and gives a handle of 0, or none";
const char goes_round[] = "the provider finds the same objects again and again";
const char gives_no_objects[] = "the provider finds objects that there cannot be";

void refuse(struct walk *walk, CK_RV why, const char *reason)
{
    if (walk->refusal != CKR_OK)
        return;
    walk->refusal = why;
    walk->reason = reason;
}

/* For the log: the mechanism of the call, not one inside it. */
void name_mechanism(struct walk *walk, const CK_MECHANISM *mechanism)
{
    if (walk->has_mechanism)
        return;
    walk->has_mechanism = true;
    walk->mechanism = mechanism->mechanism;
    walk->parameter_len = mechanism->ulParameterLen;
}

bool nest(struct walk *walk)
{
    return ++walk->nesting <= LIMIT_NESTING;
}

void *take(struct walk *walk, size_t size)
{
    if (walk->carving)
        return carve(walk, size);
    void *memory = walk->r->error ? NULL : arena_alloc(walk->arena, size);
    if (!memory)
        reader_fail(walk->r, -ENOMEM);
    return memory;
}

void *take_unwritten(struct walk *walk, size_t size)
{
    void *memory = take(walk, size);
    if (memory)
        memset(memory, UNWRITTEN, size);
    return memory;
}

void write_number(struct writer *w, CK_ULONG value)
{
    if (value == CK_UNAVAILABLE_INFORMATION)
        write_minus_one(w);
    else
        write_uint(w, value);
}

CK_ULONG read_number(struct reader *r)
{
    uint64_t value = read_uint(r);
    if (value == UINT64_MAX)
        return CK_UNAVAILABLE_INFORMATION;
    if (value > CK_UNAVAILABLE_INFORMATION)
        reader_fail(r, -EBADMSG);
    return (CK_ULONG)value;
}

void write_byte_bool(struct writer *w, uint8_t value)
{
    if (value <= 1)
        write_bool(w, value);
    else
        write_uint(w, value);
}

uint8_t read_byte_bool(struct reader *r)
{
    if (read_peek(r) == WIRE_BOOL)
        return read_bool(r);
    uint64_t value = read_uint(r);
    if (value > UINT8_MAX)
        reader_fail(r, -EBADMSG);
    return (uint8_t)value;
}

void *get_bytes(struct walk *walk, CK_ULONG *ret_len)
{
    struct reader *r = walk->r;
    *ret_len = 0;
    if (read_peek(r) != WIRE_BIN) {
        *ret_len = read_number(r);
        return NULL;
    }
    size_t len = read_bin(r);
    void *bytes = walk->carving ? carve_from_end(walk, len) : take(walk, len);
    if (bytes)
        read_raw(r, bytes, len);
    *ret_len = len;
    return bytes;
}
