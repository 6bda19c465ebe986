/*
 * The walker: carries the arguments of any Cryptoki function over the wire and its results back, by the tables.
 *
 * Four directions, two for each end:
 *     shim:    put_request   caller's memory  -> wire       get_response  wire -> caller's memory
 *     helper:  get_request   wire -> arena                  put_response  arena -> wire
 * A function is its row in `functions`; its C arguments are words in an array. Nothing here knows one call.
 */
#ifndef P11HOST_WALK_H
#define P11HOST_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "arena.h"
#include "codec.h"
#include "operations.h"
#include "tables.h"

/* How the shim renames handles and slots. The helper has none: names on the wire are the provider's. */
struct names {
    void *context;
    bool (*object_to_wire)(void *context, CK_ULONG client, CK_ULONG *ret_server);
    CK_ULONG (*object_from_wire)(void *context, CK_ULONG server);
    CK_ULONG (*session_from_wire)(void *context, CK_ULONG server);
    CK_ULONG (*slot_from_wire)(void *context, CK_ULONG server);
};

struct walk {
    const struct function *function;
    const struct tables *tables; /* the module's */
    uintptr_t *words; /* the C arguments */
    struct writer *w;
    struct reader *r;

    uint8_t theirs; /* bytes of a CK_ULONG at the other end, 0 if as many as here */

    struct recall *recall; /* of the session's operations; NULL where the call is about none */

    /* The shim's: */
    const struct names *names;
    CK_ULONG slot, session; /* the provider's own, for the argument that says where the call goes */

    /* The helper's: */
    struct arena *arena;   /* everything the provider is given points into it */
    size_t image_from;     /* the mechanism's parameter lies in the arena from here */
    size_t image_to;       /* to here, */
    const uint8_t *image;  /* and this is how it was before the call; NULL if there is none */
    const CK_MECHANISM *given;   /* the mechanism, or what a message's parameter is like; NULL if there is none */
    const struct layout *layout; /* the struct the request named for it, NULL if it is none */

    bool goes_round; /* the helper's: the objects found are those of before, again and again */
    bool unnamed; /* the helper's: the signature would be a struct, but the request does not say so */
    const struct layout *signature; /* what fills the buffer of this call, where it is no plain byte string */
    struct carving *carving;        /* the shim's, while it builds that in the caller's buffer: take() gives parts of it */

    /* For the log: */
    bool has_mechanism;
    CK_MECHANISM_TYPE mechanism; /* the call's own */
    CK_ULONG parameter_len;
    const char *reason; /* why a call was refused or an answer is not believed; NULL if neither is so */

    CK_RV rv; /* what the provider returned */
    unsigned nesting;
    CK_RV refusal; /* why the shim cannot send this call, or cannot believe the answer; CKR_OK if it can */
};

/* After these, look at walk.refusal and at the writer's or reader's error. */
void put_request(struct walk *walk);              /* `[args…]` */
void get_request(struct walk *walk);
void put_response(struct walk *walk, CK_RV rv);   /* `[rv, out…]` */
void put_response_again(struct walk *walk, CK_RV rv); /* the same once more, for who watches */
CK_RV get_response(struct walk *walk);

/* ---- between the walker's own files ---- */

/* The largest buffer the provider is given. */
enum { ROOM_BYTES = sizeof(void *) == 8 ? LIMIT_BYTES : LIMIT_NARROW_BYTES };
/* For the log, from whoever notices. */
extern const char provider_lies[], gives_no_handle[], goes_round[], gives_no_objects[];

/* What a cell or buffer in the arena holds until the provider writes it. */
enum { UNWRITTEN = 0xa5 };

static inline void *pointer(const struct walk *walk, unsigned index)
{
    return (void *)walk->words[index];
}

/* In the helper: a buffer's length for the provider to change, the room there really is, and what the caller said of it. */
struct room {
    CK_ULONG length, room;
    uint64_t said;
};

void refuse(struct walk *walk, CK_RV why, const char *reason); /* the reason is for the log */
void name_mechanism(struct walk *walk, const CK_MECHANISM *mechanism);
uint64_t named_mechanism(const struct walk *walk); /* the call's, or its operation's; all ones if none is known */
bool nest(struct walk *walk); /* one level deeper; false when too deep */
void *take(struct walk *walk, size_t size);        /* from the arena, or where it carves; NULL sets the reader's error */
void *take_unwritten(struct walk *walk, size_t size);

void write_number(struct writer *w, CK_ULONG value);
CK_ULONG read_number(struct reader *r);
void write_byte_bool(struct writer *w, uint8_t value);
uint8_t read_byte_bool(struct reader *r);
void *get_bytes(struct walk *walk, CK_ULONG *ret_len); /* bin, or the number that stands for NULL */

const struct mechanism *tables_mechanism(const struct tables *tables, CK_MECHANISM_TYPE type);
const struct layout *tables_layout(const struct tables *tables, const char *name);
enum value_kind attribute_kind(const struct tables *tables, CK_ATTRIBUTE_TYPE type);
bool attribute_shown(const struct tables *tables, CK_ATTRIBUTE_TYPE type); /* may its value stand in a trace? */

static inline const struct layout *layout_of(const struct walk *walk, unsigned type)
{
    return &walk->tables->layouts[type];
}

/* Where the other end's CK_ULONG has another width: */
void put_number(struct walk *walk, CK_ULONG value, CK_RV why); /* from the shim; refused if the helper cannot hold it */
CK_ULONG most_there(const struct walk *walk);                  /* bytes of data that the helper has addresses for */
uint64_t wide(CK_ULONG value);                                 /* 64 bits; all ones stay all ones, and so they do in */
CK_ULONG cut(uint64_t room);                                   /* as much of a caller's room as a CK_ULONG can hold */
void write_wide(struct writer *w, uint64_t value);
bool has_odd_length(const struct walk *walk, enum value_kind kind, CK_ULONG len); /* in the shim */
CK_ULONG room_here(const struct walk *walk, enum value_kind kind, CK_ULONG room); /* of the caller's buffer, in our bytes */
CK_ULONG extent_here(const struct walk *walk, CK_ULONG room); /* of a struct with all that it leads to: at most so long */
uint64_t extent_there(const struct walk *walk, CK_ULONG len);
uint64_t length_there(const struct walk *walk, enum value_kind kind, CK_ULONG len);
void put_template(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count);
CK_ATTRIBUTE *get_template(struct walk *walk, CK_ULONG *ret_count);
void put_template_query(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count);
CK_ATTRIBUTE *get_template_query(struct walk *walk, CK_ULONG *ret_count);
void put_template_answer(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count);
void get_template_answer(struct walk *walk, CK_ATTRIBUTE *template, CK_ULONG count);
void put_template_lengths(struct walk *walk, const CK_ATTRIBUTE *template, CK_ULONG count);
void get_template_lengths(struct walk *walk, CK_ATTRIBUTE *template, CK_ULONG count);

/* What a parameter is, by (mechanism, function, length); NULL when the tables know of nothing. */
const struct choice *choose(const struct walk *walk, const CK_MECHANISM *mechanism);

void put_mechanism(struct walk *walk, const CK_MECHANISM *mechanism);
CK_MECHANISM *get_mechanism(struct walk *walk);
void put_mechanism_changes(struct walk *walk);
void get_mechanism_changes(struct walk *walk, const CK_MECHANISM *mechanism);

/* A signature that is a struct and points into its own buffer (walk_signature.c). */
const struct layout *signature_of(const struct tables *tables, CK_MECHANISM_TYPE type); /* NULL for plain bytes */
void put_signature_name(struct walk *walk);
void get_signature_name(struct walk *walk);
bool signature_is_whole(const struct walk *walk, const void *buffer, CK_ULONG size);
void put_signature(struct walk *walk, const void *buffer);
void get_signature(struct walk *walk, void *buffer, CK_ULONG length);
void *carve(struct walk *walk, size_t size);          /* NULL sets the reader's error */
void *carve_from_end(struct walk *walk, size_t size); /* what needs no alignment */

void put_message(struct walk *walk, void *parameter, CK_ULONG len);
void *get_message(struct walk *walk, CK_ULONG *ret_len);
void get_message_changes(struct walk *walk, void *parameter, CK_ULONG len);

void late_collect(struct walk *walk, const CK_MECHANISM *mechanism); /* into walk.recall */
bool late_refresh(struct recall *recall, bool beginning);            /* true if anything has changed since */
bool late_found(const struct recall *recall);                        /* the same, as late_refresh found it */
void put_late(struct walk *walk);
void get_late(struct walk *walk);

/* A direction of its own: a fixed struct the standard fills, every field of it. */
enum { DIR_WHOLE = 7 };

void put_fields(struct walk *walk, const struct layout *layout, const uint8_t *base, const uint8_t *parent, uint8_t dir);
void get_fields(struct walk *walk, const struct layout *layout, uint8_t *base, uint8_t dir);
void settle_fields(struct walk *walk, const struct layout *layout, uint8_t *base, const uint8_t *parent, uint8_t dir);
bool field_extent(const struct field *field, const uint8_t *base, const uint8_t *parent, CK_ULONG *ret_extent);
void put_changes(struct walk *walk, const struct layout *layout, const uint8_t *live, const uint8_t *parent, uint8_t dir);
void get_changes(struct walk *walk, const struct layout *layout, uint8_t *base, const uint8_t *parent, uint8_t dir);

#endif
