/* The walker over mechanisms: which struct a parameter is, and what of it comes back (4.4 of the protocol). */
#include "walk.h"

#include <errno.h>
#include <string.h>

static const char number_name[] = "CK_ULONG", object_name[] = "CK_OBJECT_HANDLE";

static bool fits(const struct walk *walk, const struct choice *choice, const void *parameter, CK_ULONG len)
{
    if (choice->context != CONTEXT_ANY && choice->context != walk->function->context)
        return false;
    if (choice->kind == VALUE_NONE)
        return len == 0;
    if (choice->kind == VALUE_STRUCT && len != layout_of(walk, choice->type)->size)
        return false;
    if (choice->probe_max == 0)
        return true;
    CK_ULONG probe;
    memcpy(&probe, (const uint8_t *)parameter + choice->probe, sizeof probe);
    return probe <= choice->probe_max;
}

static bool has_pointers(const struct layout *layout)
{
    for (unsigned i = 0; i < layout->n_fields; i++)
        if (layout->fields[i].kind >= FIELD_STRUCT)
            return true;
    return false;
}

/* The parameter of a message where no row says more: "typically an IV", of any length and written by either side. */
static const struct choice *choose_for_message(const struct walk *walk, const struct mechanism *row)
{
    static const struct choice bytes = {.context = CONTEXT_ANY, .kind = VALUE_BYTES, .output = true};
    for (unsigned i = 0; i < row->n_choices; i++) {
        const struct choice *choice = &walk->tables->choices[row->choices + i];
        bool here = choice->context == CONTEXT_ANY || choice->context == CONTEXT_MESSAGE;
        if (here && choice->kind == VALUE_STRUCT && has_pointers(layout_of(walk, choice->type)))
            return NULL;
    }
    return &bytes;
}

const struct choice *choose(const struct walk *walk, const CK_MECHANISM *mechanism)
{
    const struct mechanism *row = tables_mechanism(walk->tables, mechanism->mechanism);
    bool of_message = walk->function->role == ROLE_USE && walk->nesting <= 1;
    for (unsigned i = 0; row && i < row->n_choices; i++) {
        const struct choice *choice = &walk->tables->choices[row->choices + i];
        if (fits(walk, choice, mechanism->pParameter, mechanism->ulParameterLen) &&
            !(of_message && choice->kind == VALUE_BYTES))
            return choice;
    }
    return row && of_message ? choose_for_message(walk, row) : NULL;
}

/* ---- shim: request ---- */

static void put_named(struct writer *w, const char *name, size_t len)
{
    write_array(w, 2);
    write_str(w, name, len);
}

static void put_number_parameter(struct walk *walk, const struct choice *choice, CK_ULONG value)
{
    bool is_object = choice->kind == VALUE_OBJECT;
    if (is_object && !walk->names->object_to_wire(walk->names->context, value, &value))
        refuse(walk, CKR_MECHANISM_PARAM_INVALID, "the object in the parameter is of another life");
    if (is_object)
        put_named(walk->w, object_name, sizeof object_name - 1);
    else
        put_named(walk->w, number_name, sizeof number_name - 1);
    put_number(walk, value, CKR_MECHANISM_PARAM_INVALID);
}

static void put_described(struct walk *walk, const struct choice *choice, const CK_MECHANISM *mechanism)
{
    CK_ULONG len = mechanism->ulParameterLen, number;
    if (choice->kind == VALUE_STRUCT) {
        const struct layout *layout = layout_of(walk, choice->type);
        put_named(walk->w, layout->name, layout->name_len);
        put_fields(walk, layout, mechanism->pParameter, NULL, DIR_IN);
    } else if ((choice->kind == VALUE_NUMBER || choice->kind == VALUE_OBJECT) && len == sizeof number) {
        memcpy(&number, mechanism->pParameter, sizeof number);
        put_number_parameter(walk, choice, number);
    } else if (len > LIMIT_BYTES || has_odd_length(walk, choice->kind, len)) {
        refuse(walk, CKR_MECHANISM_PARAM_INVALID, "the parameter has a length that cannot be carried");
    } else {
        write_bin(walk->w, mechanism->pParameter, len);
    }
}

static const char *why_undescribed(const struct walk *walk, const CK_MECHANISM *mechanism)
{
    const struct mechanism *row = tables_mechanism(walk->tables, mechanism->mechanism);
    if (!row)
        return "no table knows the mechanism";
    return row->n_choices ? "the parameter has not the length of a struct it may be here" : "the tables know of no parameter";
}

static void put_parameter(struct walk *walk, const CK_MECHANISM *mechanism)
{
    CK_ULONG len = mechanism->ulParameterLen;
    const struct choice *choice;
    if (!mechanism->pParameter && len == 0)
        write_nil(walk->w);
    else if (!mechanism->pParameter)
        put_number(walk, len, CKR_MECHANISM_PARAM_INVALID);
    else if (len == 0)
        write_bin(walk->w, "", 0);
    else if ((choice = choose(walk, mechanism)))
        put_described(walk, choice, mechanism);
    else
        refuse(walk, CKR_MECHANISM_PARAM_INVALID, why_undescribed(walk, mechanism));
}

static bool is_beginning(const struct walk *walk)
{
    return walk->recall && walk->function->role == ROLE_BEGIN && walk->nesting == 0;
}

void put_mechanism(struct walk *walk, const CK_MECHANISM *mechanism)
{
    if (!mechanism) {
        write_nil(walk->w);
        return;
    }
    name_mechanism(walk, mechanism);
    if (!nest(walk)) {
        refuse(walk, CKR_MECHANISM_PARAM_INVALID, "mechanisms nest too deep");
        return;
    }
    write_array(walk->w, 2);
    put_number(walk, mechanism->mechanism, CKR_MECHANISM_INVALID);
    put_parameter(walk, mechanism);
    walk->nesting--;
    if (is_beginning(walk) && walk->refusal == CKR_OK)
        late_collect(walk, mechanism);
}

void put_message(struct walk *walk, void *parameter, CK_ULONG len)
{
    if (!parameter) {
        put_number(walk, len, CKR_MECHANISM_PARAM_INVALID);
    } else if (!walk->recall || !walk->recall->known) {
        refuse(walk, CKR_OPERATION_NOT_INITIALIZED, "no operation whose messages have parameters is known here");
    } else {
        const CK_MECHANISM mechanism = {walk->recall->mechanism, parameter, len};
        put_mechanism(walk, &mechanism);
    }
}

/* ---- helper: request ---- */

static void get_number_parameter(struct walk *walk, CK_MECHANISM *mechanism)
{
    CK_ULONG *cell = take(walk, sizeof *cell);
    if (cell)
        *cell = read_number(walk->r);
    mechanism->pParameter = cell;
    mechanism->ulParameterLen = sizeof *cell;
}

static const struct layout *get_struct_parameter(struct walk *walk, const char *name, CK_MECHANISM *mechanism)
{
    const struct layout *layout = tables_layout(walk->tables, name);
    if (!layout)
        reader_fail(walk->r, -EBADMSG);
    uint8_t *base = layout ? take(walk, layout->size) : NULL;
    if (!base)
        return NULL;
    memset(base, 0, layout->size);
    get_fields(walk, layout, base, DIR_IN);
    settle_fields(walk, layout, base, NULL, DIR_IN);
    mechanism->pParameter = base;
    mechanism->ulParameterLen = layout->size;
    if (walk->nesting == 1)
        walk->layout = layout;
    return layout;
}

/* How a parameter came must be how the tables describe it: bytes where they say so, the struct they say. */
static bool is_as_described(const struct walk *walk, const CK_MECHANISM *mechanism, const struct layout *layout, bool is_number)
{
    if (!mechanism->pParameter || mechanism->ulParameterLen == 0)
        return true;
    const struct choice *choice = choose(walk, mechanism);
    if (!choice)
        return false;
    if (choice->kind == VALUE_STRUCT)
        return layout == layout_of(walk, choice->type);
    return !layout && (!is_number || choice->kind == VALUE_NUMBER || choice->kind == VALUE_OBJECT);
}

static void get_named_parameter(struct walk *walk, CK_MECHANISM *mechanism)
{
    struct reader *r = walk->r;
    char name[LIMIT_NAME + 1];
    const struct layout *layout = NULL;
    if (!read_array_of(r, 2))
        return;
    read_text(r, name, sizeof name);
    bool is_number = !strcmp(name, number_name) || !strcmp(name, object_name);
    if (is_number)
        get_number_parameter(walk, mechanism);
    else
        layout = get_struct_parameter(walk, name, mechanism);
    if (!r->error && !is_as_described(walk, mechanism, layout, is_number))
        reader_fail(r, -EBADMSG);
}

static void get_parameter(struct walk *walk, CK_MECHANISM *mechanism)
{
    struct reader *r = walk->r;
    if (read_nil_if(r))
        return;
    if (read_peek(r) == WIRE_ARRAY) {
        get_named_parameter(walk, mechanism);
        return;
    }
    mechanism->pParameter = get_bytes(walk, &mechanism->ulParameterLen);
    if (!r->error && !is_as_described(walk, mechanism, NULL, false))
        reader_fail(r, -EBADMSG);
}

static CK_MECHANISM *get_any_mechanism(struct walk *walk)
{
    struct reader *r = walk->r;
    if (read_nil_if(r))
        return NULL;
    if (!nest(walk))
        reader_fail(r, -EMSGSIZE);
    CK_MECHANISM *mechanism = take(walk, sizeof *mechanism);
    if (!mechanism)
        return NULL;
    *mechanism = (CK_MECHANISM){0};
    if (read_array(r) != 2)
        reader_fail(r, -EBADMSG);
    mechanism->mechanism = read_number(r);
    get_parameter(walk, mechanism);
    walk->nesting--;
    return mechanism;
}

/* The argument itself: remembers how the provider got it, so that only what it changed goes back. */
CK_MECHANISM *get_mechanism(struct walk *walk)
{
    if (walk->nesting)
        return get_any_mechanism(walk);
    walk->image_from = walk->arena->used;
    CK_MECHANISM *mechanism = get_any_mechanism(walk);
    walk->image_to = walk->arena->used;
    walk->given = mechanism;
    if (is_beginning(walk) && mechanism && !walk->r->error)
        late_collect(walk, mechanism);
    if (mechanism)
        name_mechanism(walk, mechanism);
    if (!mechanism || !mechanism->pParameter || walk->r->error)
        return mechanism;
    uint8_t *image = take(walk, walk->image_to - walk->image_from);
    if (image)
        memcpy(image, walk->arena->base + walk->image_from, walk->image_to - walk->image_from);
    walk->image = image;
    return mechanism;
}

void *get_message(struct walk *walk, CK_ULONG *ret_len)
{
    if (read_peek(walk->r) != WIRE_ARRAY) {
        *ret_len = read_number(walk->r);
        return NULL;
    }
    const CK_MECHANISM *mechanism = get_mechanism(walk);
    *ret_len = mechanism ? mechanism->ulParameterLen : 0;
    return mechanism ? mechanism->pParameter : NULL;
}

/* ---- helper: response ---- */

static const uint8_t *image_of(const struct walk *walk, const void *live)
{
    size_t at = (size_t)((const uint8_t *)live - walk->arena->base);
    return walk->image + (at - walk->image_from);
}

static bool is_unchanged(const struct walk *walk)
{
    return !walk->image ||
           !memcmp(walk->image, walk->arena->base + walk->image_from, walk->image_to - walk->image_from);
}

/* By the struct the request named: the memory was laid out by it and by nothing else. */
static void put_parameter_changes(struct walk *walk, const CK_MECHANISM *before)
{
    const struct choice *choice = walk->layout ? NULL : choose(walk, before);
    if (walk->layout)
        put_changes(walk, walk->layout, before->pParameter, NULL, DIR_IN);
    else if (choice && choice->kind == VALUE_BYTES && choice->output)
        write_bin(walk->w, before->pParameter, before->ulParameterLen);
    else
        write_nil(walk->w);
}

void put_mechanism_changes(struct walk *walk)
{
    if (!is_unchanged(walk))
        put_parameter_changes(walk, (const CK_MECHANISM *)(const void *)image_of(walk, walk->given));
    else
        write_nil(walk->w);
}

/* ---- shim: response ---- */

void get_mechanism_changes(struct walk *walk, const CK_MECHANISM *mechanism)
{
    struct reader *r = walk->r;
    if (read_nil_if(r))
        return;
    const struct choice *choice = mechanism && mechanism->pParameter ? choose(walk, mechanism) : NULL;
    if (choice && choice->kind == VALUE_STRUCT) {
        get_changes(walk, layout_of(walk, choice->type), mechanism->pParameter, NULL, DIR_IN);
    } else if (choice && choice->kind == VALUE_BYTES && choice->output) {
        if (read_bin(r) != mechanism->ulParameterLen)
            reader_fail(r, -EBADMSG);
        read_raw(r, mechanism->pParameter, mechanism->ulParameterLen);
    } else {
        reader_fail(r, -EBADMSG);
    }
}

void get_message_changes(struct walk *walk, void *parameter, CK_ULONG len)
{
    const CK_MECHANISM mechanism = {walk->recall ? walk->recall->mechanism : 0, parameter, len};
    get_mechanism_changes(walk, &mechanism);
}
