/*
 * The walker over late outputs: byte strings of a parameter that a call after the operation's beginning may write
 * (section 4.7 of the protocol).
 *
 * By then nobody promises that the memory is still the caller's: it is written only where it holds what it last held,
 * and by the kernel, which fails where there is no such memory any more.
 */
#include "walk.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- which they are ---- */

static void collect(struct recall *recall, uint8_t *at, CK_ULONG size, bool output)
{
    if (!at || size == 0 || size > LIMIT_LATE || recall->count == LATE_PARTS)
        return;
    struct late *late = &recall->list[recall->count++];
    *late = (struct late){.at = at, .size = size, .output = output};
    memcpy(late->was, at, size);
}

static void collect_fields(struct walk *walk, const struct layout *layout, uint8_t *base, const uint8_t *parent, uint8_t dir);

static void collect_pointed(struct walk *walk, const struct field *field, uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    uint8_t *p;
    CK_ULONG count = 1;
    memcpy(&p, base + field->offset, sizeof p);
    if (!p || (field->unit != UNIT_NONE && !field_extent(field, base, parent, &count)))
        return;
    if (field->kind == FIELD_BYTES) {
        collect(walk->recall, p, count, dir & DIR_OUT);
        return;
    }
    const struct layout *layout = layout_of(walk, field->type);
    for (CK_ULONG i = 0; i < count && walk->recall->count < LATE_PARTS; i++)
        collect_fields(walk, layout, p + i * layout->size, base, dir);
}

static void collect_fields(struct walk *walk, const struct layout *layout, uint8_t *base, const uint8_t *parent, uint8_t dir)
{
    for (unsigned i = 0; i < layout->n_fields; i++) {
        const struct field *field = &layout->fields[i];
        uint8_t effective = dir == DIR_OUT ? dir : field->dir;
        if (field->kind == FIELD_STRUCT)
            collect_fields(walk, layout_of(walk, field->type), base + field->offset, base, dir);
        else if (field->kind == FIELD_STRUCTS || (field->kind == FIELD_BYTES && (field->late || effective & DIR_OUT)))
            collect_pointed(walk, field, base, parent, effective);
    }
}

void late_collect(struct walk *walk, const CK_MECHANISM *mechanism)
{
    walk->recall->begun = true;
    walk->recall->mechanism = mechanism->mechanism;
    const struct choice *choice = mechanism->pParameter ? choose(walk, mechanism) : NULL;
    if (choice && choice->kind == VALUE_STRUCT)
        collect_fields(walk, layout_of(walk, choice->type), mechanism->pParameter, NULL, DIR_IN);
    else if (choice && choice->kind == VALUE_BYTES && choice->output)
        collect(walk->recall, mechanism->pParameter, mechanism->ulParameterLen, true);
}

/* ---- helper ---- */

/* Looks once: the provider may be writing still. */
static bool refresh(struct late *late, bool beginning)
{
    uint8_t now[LIMIT_LATE];
    memcpy(now, late->at, late->size);
    late->changed = memcmp(now, late->was, late->size) != 0 && !(beginning && late->output);
    memcpy(late->was, now, late->size);
    return late->changed;
}

bool late_refresh(struct recall *recall, bool beginning)
{
    bool any = false;
    for (unsigned i = 0; i < recall->count; i++)
        any |= refresh(&recall->list[i], beginning);
    return any;
}

bool late_found(const struct recall *recall)
{
    for (unsigned i = 0; i < recall->count; i++)
        if (recall->list[i].changed)
            return true;
    return false;
}

void put_late(struct walk *walk)
{
    const struct recall *recall = walk->recall;
    write_array(walk->w, recall->count);
    for (unsigned i = 0; i < recall->count; i++)
        if (recall->list[i].changed)
            write_bin(walk->w, recall->list[i].was, recall->list[i].size);
        else
            write_nil(walk->w);
}

/* ---- shim ---- */

static bool copy(ssize_t (*how)(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long, unsigned long),
                 uint8_t *ours, uint8_t *theirs, size_t size)
{
    const struct iovec here = {ours, size}, there = {theirs, size};
    return how(getpid(), &here, 1, &there, 1, 0) == (ssize_t)size;
}

static bool write_late(struct late *late, uint8_t *bytes)
{
    uint8_t now[LIMIT_LATE];
    if (!copy(process_vm_readv, now, late->at, late->size) || memcmp(now, late->was, late->size) != 0)
        return false;
    late->changed = copy(process_vm_writev, bytes, late->at, late->size);
    memcpy(late->was, bytes, late->size);
    return late->changed;
}

/* An element that is no answer to what we remember is read, and that is all. */
static void get_part(struct walk *walk, struct late *late)
{
    uint8_t bytes[LIMIT_LATE];
    if (read_nil_if(walk->r))
        return;
    size_t size = read_bin(walk->r);
    if (size > LIMIT_LATE || (late && size != late->size)) {
        reader_fail(walk->r, -EBADMSG);
        return;
    }
    read_raw(walk->r, bytes, size);
    if (!walk->r->error && !(late && write_late(late, bytes)))
        walk->recall->lost = true;
}

void get_late(struct walk *walk)
{
    struct recall *recall = walk->recall;
    size_t count = read_array(walk->r);
    if (count > LATE_MOST)
        reader_fail(walk->r, -EBADMSG);
    for (size_t i = 0; i < count && !walk->r->error; i++)
        get_part(walk, count == recall->count ? &recall->list[i] : NULL);
}
