/*
 * The descriptor tables: what the walker knows of Cryptoki.
 *
 * The types stand here; the contents are generated from specs/ at build time (tables.c). Nothing in
 * shim/ knows a Cryptoki function, struct or mechanism by name except through these tables and the
 * few functions with semantics of their own (local.c).
 */
#ifndef P11HOST_TABLES_H
#define P11HOST_TABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cryptoki.h"
#include "limits.h"

/* Which way a value travels. INOUT == IN | OUT. */
enum direction { DIR_IN = 1, DIR_OUT = 2, DIR_INOUT = 3 };

/* The patterns of specs/functions.toml. One logical argument may fold two or three C arguments. */
enum arg_kind {
    ARG_NUMBER = 1,  /* CK_ULONG of any domain */
    ARG_BOOL,        /* CK_BBOOL */
    ARG_SLOT,        /* CK_SLOT_ID: says which module the call goes to */
    ARG_SESSION,     /* CK_SESSION_HANDLE: says which module the call goes to */
    ARG_OBJECT,      /* CK_OBJECT_HANDLE */
    ARG_BYTES,       /* pointer + length by value */
    ARG_FIXED,       /* pointer to exactly `type` bytes */
    ARG_STRING,      /* NUL-terminated */
    ARG_TEMPLATE,    /* CK_ATTRIBUTE array + count */
    ARG_TEMPLATE_IO, /* the same, filled by C_GetAttributeValue */
    ARG_MECHANISM,   /* CK_MECHANISM pointer */
    ARG_MESSAGE,     /* message parameter: pointer + length, struct by the session's mechanism */
    ARG_OUT_BYTES,   /* buffer + pointer to length (section 5.2 of the standard) */
    ARG_OUT_EXACT,   /* buffer + length by value, filled whole */
    ARG_OUT_NUMBER,  /* CK_ULONG cell */
    ARG_OUT_SLOT,    /* CK_SLOT_ID cell */
    ARG_OUT_SESSION, /* CK_SESSION_HANDLE cell */
    ARG_OUT_OBJECT,  /* CK_OBJECT_HANDLE cell */
    ARG_OUT_NUMBERS, /* CK_ULONG array + pointer to count (5.2, in elements) */
    ARG_OUT_SLOTS,   /* CK_SLOT_ID array + pointer to count (5.2, in elements) */
    ARG_OUT_OBJECTS, /* CK_OBJECT_HANDLE array + maximum by value + pointer to count */
    ARG_OUT_STRUCT,  /* fixed struct, layout `type` */
    ARG_RESERVED,    /* must be NULL: only whether it is crosses the wire */
    ARG_LOCAL,       /* stays in the shim: never sent */
};

struct arg {
    uint8_t kind;     /* enum arg_kind */
    uint8_t pos;      /* index of the C argument (of the pointer, where there is one) */
    uint8_t len;      /* index of the C argument with its length, count or maximum */
    uint8_t count;    /* ARG_OUT_OBJECTS: index of the pointer to the count */
    uint8_t optional; /* ARG_OBJECT: 0 means "none" here. ARG_MECHANISM: NULL means cancel */
    uint16_t type;    /* ARG_OUT_STRUCT: index into layouts. ARG_FIXED: bytes */
};

/* What a function does with a mechanism: with the mechanism and the parameter's length it chooses the layout. */
enum context {
    CONTEXT_ANY = 0, /* in a choice: wherever no other choice matched */
    CONTEXT_PLAIN,   /* C_EncryptInit, C_GenerateKey, C_DeriveKey, … */
    CONTEXT_WRAP,    /* C_WrapKey, C_UnwrapKey */
    CONTEXT_MESSAGE_INIT,
    CONTEXT_MESSAGE, /* per-message calls, C_WrapKeyAuthenticated, C_UnwrapKeyAuthenticated */
};

/*
 * What a function does with an operation of its session. An operation is known by its flag in CK_MECHANISM_INFO, such as
 * CKF_ENCRYPT.
 */
enum role {
    ROLE_NONE = 0,
    ROLE_BEGIN,    /* begins it; with a NULL mechanism ends it */
    ROLE_CONTINUE, /* ends it by failing, but not by CKR_BUFFER_TOO_SMALL where it has a buffer */
    ROLE_END,      /* ends it, but not by CKR_BUFFER_TOO_SMALL or CKR_OK without the buffer */
    ROLE_USE,      /* leaves it as it is */
    ROLE_FINISH,   /* ends it by succeeding */
    ROLE_CANCEL,   /* ends those in its flags by succeeding */
    ROLE_OPEN,     /* a session without operations */
    ROLE_CLOSE,    /* of a session */
};

/* What a function does beside its operation. */
enum effect {
    EFFECT_NONE = 0,
    EFFECT_LOGIN,         /* logs in whom its subject says */
    EFFECT_LOGIN_BY_NAME, /* the same, with a name too */
    EFFECT_LOGOUT,        /* logs out whoever is logged in */
    EFFECT_DESTROY,       /* ends its subject, an object */
    EFFECT_CHANGE,        /* has its subject, an object, known by something else */
    EFFECT_SEARCH,        /* begins a search of its session */
    EFFECT_FIND,          /* goes on with that, and hands over in its subject what it has found */
};

/* How long a call may take: limits.toml gives each a default. */
enum patience { PATIENCE_SHORT = 0, PATIENCE_LONG, PATIENCE_FOREVER };

/* A flag of the standard that this library does not have, though a provider might. */
struct without {
    uint8_t pos;     /* index of the C argument */
    bool told;       /* it points to a struct, and the flag is cleared there; else a call with the flag is refused */
    uint16_t offset; /* of the CK_FLAGS in that struct */
    CK_FLAGS flag;
    CK_RV refusal;
};

struct function {
    const char *name;
    uint8_t name_len;
    uint8_t n_args;   /* logical arguments */
    uint8_t n_words;  /* C arguments */
    uint8_t context;  /* enum context */
    uint8_t patience; /* enum patience */
    bool secret;      /* carries PINs or key material: every buffer it used is wiped whole */
    bool local;       /* never crosses the wire: answered in the shim */
    uint8_t role;     /* enum role */
    uint16_t operations; /* their flags */
    uint8_t effect;   /* enum effect */
    uint8_t subject;  /* index of the C argument that its effect is about */
    CK_RV gone;       /* what it returns when its helper died during the call */
    CK_RV absent;     /* what it returns when there is no helper to send it to */
    const struct without *without; /* NULL for nearly all */
    const struct arg *args;
};

/* Fields of structs. */
enum field_kind {
    FIELD_NUMBER = 1, /* CK_ULONG */
    FIELD_OBJECT,     /* CK_OBJECT_HANDLE, 0 means "none" */
    FIELD_SLOT,       /* CK_SLOT_ID */
    FIELD_BYTE,       /* CK_BYTE, CK_BBOOL */
    FIELD_FIXED,      /* CK_BYTE[n] inline, n = length */
    FIELD_STRUCT,     /* struct `type` inline */
    FIELD_BYTES,      /* pointer to bytes, see unit */
    FIELD_STRUCTS,    /* pointer to one struct `type` or an array of them, see unit */
    FIELD_NUMBER_PTR, /* pointer to one CK_ULONG */
    FIELD_OBJECT_PTR, /* pointer to one CK_OBJECT_HANDLE */
    FIELD_TEMPLATE,   /* pointer to CK_ATTRIBUTE array */
    FIELD_MECHANISM,  /* pointer to one CK_MECHANISM */
    FIELD_UNION,      /* pointer + length, typed by a tag: `type` is an index into unions */
};

/* Where the length of a pointer field stands and what it counts. */
enum unit {
    UNIT_NONE = 0,
    UNIT_FIXED,         /* `length` bytes or elements, nothing in the struct says so */
    UNIT_FIELD,         /* CK_ULONG at offset `length`: bytes or elements */
    UNIT_BITS,          /* CK_ULONG at offset `length`: bits, rounded up */
    UNIT_BYTES_OR_BITS, /* CK_ULONG at offset `length`: bytes up to 24, bits from 64 (ChaCha20 nonces) */
    UNIT_DEREF,         /* CK_ULONG behind the pointer at offset `length` */
    UNIT_PARENT_BITS,   /* CK_ULONG at offset `length` of the enclosing struct: bits, rounded up */
    UNIT_NUL,           /* up to and with the NUL */
    UNIT_UNKNOWN,       /* said nowhere: the parameter is refused unless the pointer is NULL */
};

struct field {
    uint16_t offset;
    uint16_t length; /* see unit; FIELD_FIXED: bytes */
    uint16_t type;   /* index into layouts (FIELD_STRUCT, FIELD_STRUCTS) or unions (FIELD_UNION) */
    uint8_t kind;    /* enum field_kind */
    uint8_t unit;    /* enum unit */
    uint8_t dir;     /* enum direction */
    bool late;       /* an input that a later call of the operation may write */
};

struct layout {
    const char *name;
    uint16_t size;
    uint8_t align;
    uint8_t name_len;
    uint8_t n_fields;
    bool signature; /* what a signature may be: it points into the buffer it lies in */
    const struct field *fields;
};

/* A tagged union: the CK_ULONG at `tag` of the struct chooses what the pointer is. */
enum value_kind {
    VALUE_BYTES = 1,
    VALUE_NUMBER,   /* one CK_ULONG */
    VALUE_OBJECT,   /* one CK_OBJECT_HANDLE */
    VALUE_BOOL,     /* one CK_BBOOL */
    VALUE_BYTE,     /* one CK_BYTE */
    VALUE_NUMBERS,  /* array of CK_ULONG */
    VALUE_TEMPLATE, /* array of CK_ATTRIBUTE */
    VALUE_STRUCT,   /* struct `type` */
    VALUE_NONE,     /* nothing: NULL and 0 */
};

struct variant {
    CK_ULONG tag;
    uint16_t type;
    uint8_t kind; /* enum value_kind */
};

struct tagged_union {
    uint16_t tag;       /* offset of the CK_ULONG tag */
    uint8_t n_variants; /* an unlisted tag is VALUE_BYTES */
    const struct variant *variants;
};

/* One way a mechanism's parameter may look. The first choice whose context and length fit is taken. */
struct choice {
    uint8_t context;    /* enum context; CONTEXT_ANY fits all */
    uint8_t kind;       /* enum value_kind; VALUE_STRUCT must have length layouts[type].size */
    bool output;        /* VALUE_BYTES: the provider may write it */
    uint16_t type;      /* VALUE_STRUCT: index into layouts. VALUE_BYTES: the usual length, 0 if any */
    uint16_t probe;     /* if probe_max > 0: offset of a CK_ULONG that must be <= probe_max */
    CK_ULONG probe_max;
};

struct mechanism {
    CK_ULONG value;
    uint16_t choices; /* index of the first in choices */
    uint16_t output;  /* what a signature with it is: index into layouts + 1; 0 for plain bytes */
    uint8_t n_choices;
};

struct attribute {
    CK_ULONG value;
    uint8_t kind; /* enum value_kind: NUMBER, BOOL, NUMBERS, TEMPLATE; all others, listed or not, are BYTES */
    bool shown;   /* in a trace; what is not listed is not */
};

/* Generated contents. functions is in the order of CK_FUNCTION_LIST_3_2; the others are sorted by value or name. */
extern const struct function functions[FUNCTION_COUNT];
extern const struct layout layouts[];
extern const unsigned layout_count;
extern const struct tagged_union unions[];
extern const struct choice choices[];
extern const struct mechanism mechanisms[];
extern const unsigned mechanism_count;
extern const struct attribute attributes[];
extern const unsigned attribute_count;

/* A return value and what the standard calls it. */
struct code {
    CK_RV value;
    const char *name;
};

extern const struct code codes[];
extern const unsigned code_count;

/* What the walker looks things up in: the tables above, or a copy of them with a module's own rows (rows.h). */
struct tables {
    const struct layout *layouts;
    const struct tagged_union *unions;
    const struct choice *choices;
    const struct mechanism *mechanisms;
    const struct attribute *attributes;
    unsigned layout_count, union_count, choice_count, mechanism_count, attribute_count;
};

extern const struct tables standard_tables;

/* 64 bits over every table: two ends with the same number agree on all of them. */
extern const uint64_t tables_digest;

/* Milliseconds for each enum patience; 0 for no limit. */
extern const uint32_t patience_ms[3];

#endif
