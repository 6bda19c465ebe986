/*
 * Both ends of the wire in one place: a call's arguments go from a caller's memory behind fences to a provider's in an
 * arena and back, through the four directions of the walker and a message in between.
 */
#ifndef P11HOST_ENDS_H
#define P11HOST_ENDS_H

#include "make.h"
#include "message.h"
#include "walk.h"

struct ends {
    struct walk shim, helper;
    struct recall begun; /* what the shim knows of the operation: its mechanism is visit_operation, it has no late outputs */
    uintptr_t *caller;             /* the C arguments, behind a fence */
    uintptr_t provider[MAX_WORDS]; /* what the provider is given for them */
    struct writer writer;
    struct reader reader;
    struct arena arena;
    struct message message; /* the last that was carried */
    struct shelf shelf;
    uint8_t buffer[READER_BUFFER];
};

/* Names on the wire are a caller's with a pattern over them; 0 is 0 and NO_OBJECT is nobody's. */
#define TOP_BIT (CK_UNAVAILABLE_INFORMATION / 2 + 1)
#define UPPER_HALF (4 * sizeof(CK_ULONG))
#define OBJECT_PATTERN ((CK_ULONG)0x0b0b << UPPER_HALF)
#define SESSION_PATTERN ((CK_ULONG)0x5e55 << UPPER_HALF)
#define SLOT_PATTERN ((CK_ULONG)0x5107 << UPPER_HALF)
#define NO_OBJECT (CK_UNAVAILABLE_INFORMATION - 0xbad)

extern const struct names ends_names;

/* The one pair of ends of the program, with everything of the last call forgotten. All words are 0. */
struct ends *ends_begin(const struct function *function);

/* Makes it the call's mechanism, whatever it was before. */
void ends_give_mechanism(struct ends *ends, const CK_MECHANISM *mechanism);

/* From now on long byte strings of this call lie on a shelf. */
void ends_use_shelf(struct ends *ends);

/* A call's arguments to the provider. True if they arrived; else see shim.refusal and the reader's error. */
bool ends_request(struct ends *ends, size_t portion);

/* The provider's answer to the caller. What the caller is told; see the reader's error. */
CK_RV ends_respond(struct ends *ends, CK_RV rv, size_t portion);

/* A visit_guard: whether the provider was given that memory, in the arena, on the shelf or among its words. */
bool ends_gave(const void *ends, const void *at, size_t size);

/* The steps of these two. */
void ends_write_request(struct ends *ends);
void ends_read_request(struct ends *ends, size_t portion);
void ends_write_response(struct ends *ends, CK_RV rv);
CK_RV ends_read_response(struct ends *ends, size_t portion);

#endif
