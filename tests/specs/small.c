/* generated from specs/, do not edit */

#include "tables.h"
#include "layouts.h"

static const struct arg args_C_GetInfo[] = {
    {.kind = ARG_OUT_STRUCT, .pos = 0, .type = LAYOUT_CK_INFO},
};

static const struct arg args_C_Sign[] = {
    {.kind = ARG_SESSION, .pos = 0},
    {.kind = ARG_MECHANISM, .pos = 1, .optional = 1},
    {.kind = ARG_BYTES, .pos = 2, .len = 3},
    {.kind = ARG_OUT_BYTES, .pos = 4, .len = 5},
};

const struct function functions[FUNCTION_COUNT] = {
    {.name = "C_GetInfo", .name_len = 9, .n_args = 1, .n_words = 1, .context = CONTEXT_PLAIN, .patience = PATIENCE_SHORT, .gone = CKR_GENERAL_ERROR, .absent = CKR_GENERAL_ERROR, .args = args_C_GetInfo},
    {.name = "C_Sign", .name_len = 6, .n_args = 4, .n_words = 6, .context = CONTEXT_PLAIN, .patience = PATIENCE_LONG, .secret = true, .gone = CKR_DEVICE_REMOVED, .absent = CKR_SESSION_HANDLE_INVALID, .args = args_C_Sign},
};

static const struct field fields_CK_INFO[] = {
    {.offset = offsetof(CK_INFO, label), .kind = FIELD_FIXED, .dir = DIR_OUT, .length = 32},
    {.offset = offsetof(CK_INFO, flags), .kind = FIELD_NUMBER, .dir = DIR_OUT},
};

static const struct field fields_CK_PARAMS[] = {
    {.offset = offsetof(CK_PARAMS, ivBits), .kind = FIELD_NUMBER, .dir = DIR_IN},
    {.offset = offsetof(CK_PARAMS, pReturned), .kind = FIELD_STRUCTS, .dir = DIR_OUT, .unit = UNIT_FIXED, .length = 1, .type = LAYOUT_CK_RETURNED},
    {.offset = offsetof(CK_PARAMS, pTagged), .kind = FIELD_STRUCTS, .dir = DIR_IN, .unit = UNIT_FIELD, .length = offsetof(CK_PARAMS, ulTagged), .type = LAYOUT_CK_TAGGED},
    {.offset = offsetof(CK_PARAMS, ulTagged), .kind = FIELD_NUMBER, .dir = DIR_IN},
    {.offset = offsetof(CK_PARAMS, pNonce), .kind = FIELD_BYTES, .dir = DIR_IN, .unit = UNIT_UNKNOWN},
};

static const struct field fields_CK_RETURNED[] = {
    {.offset = offsetof(CK_RETURNED, hKey), .kind = FIELD_OBJECT, .dir = DIR_OUT},
    {.offset = offsetof(CK_RETURNED, pIv), .kind = FIELD_BYTES, .dir = DIR_OUT, .unit = UNIT_PARENT_BITS, .length = offsetof(CK_PARAMS, ivBits)},
};

static const struct field fields_CK_TAGGED[] = {
    {.offset = offsetof(CK_TAGGED, type), .kind = FIELD_NUMBER, .dir = DIR_IN},
    {.offset = offsetof(CK_TAGGED, pValue), .kind = FIELD_UNION, .dir = DIR_IN, .unit = UNIT_FIELD, .length = offsetof(CK_TAGGED, ulValueLen), .type = UNION_CK_TAGGED},
    {.offset = offsetof(CK_TAGGED, ulValueLen), .kind = FIELD_NUMBER, .dir = DIR_IN},
};

const struct layout layouts[] = {
    {.name = "CK_INFO", .name_len = 7, .size = sizeof(CK_INFO), .align = _Alignof(CK_INFO), .n_fields = 2, .fields = fields_CK_INFO},
    {.name = "CK_PARAMS", .name_len = 9, .size = sizeof(CK_PARAMS), .align = _Alignof(CK_PARAMS), .n_fields = 5, .fields = fields_CK_PARAMS},
    {.name = "CK_RETURNED", .name_len = 11, .size = sizeof(CK_RETURNED), .align = _Alignof(CK_RETURNED), .n_fields = 2, .fields = fields_CK_RETURNED},
    {.name = "CK_TAGGED", .name_len = 9, .size = sizeof(CK_TAGGED), .align = _Alignof(CK_TAGGED), .n_fields = 3, .fields = fields_CK_TAGGED},
};

const unsigned layout_count = 4;

static const struct variant variants_CK_TAGGED[] = {
    {.tag = CK_TAG_NUMBER, .kind = VALUE_NUMBER},
    {.tag = CK_TAG_INFO, .kind = VALUE_STRUCT, .type = LAYOUT_CK_INFO},
};

const struct tagged_union unions[] = {
    {.tag = offsetof(CK_TAGGED, type), .n_variants = 2, .variants = variants_CK_TAGGED},
};

const struct choice choices[] = {
    {.context = CONTEXT_PLAIN, .kind = VALUE_STRUCT, .type = LAYOUT_CK_PARAMS, .probe = offsetof(CK_PARAMS, ivBits), .probe_max = 256},
    {.context = CONTEXT_PLAIN, .kind = VALUE_STRUCT, .type = LAYOUT_CK_INFO},
    {.context = CONTEXT_WRAP, .kind = VALUE_STRUCT, .type = LAYOUT_CK_PARAMS},
    {.context = CONTEXT_MESSAGE, .kind = VALUE_BYTES, .output = true, .type = 12},
    {.context = CONTEXT_ANY, .kind = VALUE_NUMBER},
};

const struct mechanism mechanisms[] = {
    {.value = CKM_PLAIN},
    {.value = CKM_ALSO_SEAL, .n_choices = 4},
    {.value = CKM_NUMBER, .choices = 4, .n_choices = 1},
};

const unsigned mechanism_count = 3;

const struct attribute attributes[] = {
    {0x00000003UL, VALUE_BYTES, true},
    {0x0000062aUL, VALUE_TEMPLATE, true},
    {0x4000062aUL, VALUE_TEMPLATE, true},
};

const unsigned attribute_count = 3;

const struct code codes[] = {
    {CKR_OK, "CKR_OK"},
    {CKR_GENERAL_ERROR, "CKR_GENERAL_ERROR"},
    {CKR_DEVICE_REMOVED, "CKR_DEVICE_REMOVED"},
};

const unsigned code_count = 3;

const struct tables standard_tables = {
    .layouts = layouts,
    .unions = unions,
    .choices = choices,
    .mechanisms = mechanisms,
    .attributes = attributes,
    .layout_count = sizeof layouts / sizeof *layouts,
    .union_count = sizeof unions / sizeof *unions,
    .choice_count = sizeof choices / sizeof *choices,
    .mechanism_count = sizeof mechanisms / sizeof *mechanisms,
    .attribute_count = sizeof attributes / sizeof *attributes,
};

const uint64_t tables_digest = DIGEST;

const uint32_t patience_ms[3] = {
    DEADLINE_SHORT,
    DEADLINE_LONG,
    DEADLINE_FOREVER,
};

