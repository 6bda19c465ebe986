#include "merge.h"

#include <stdio.h>
#include <string.h>

#include "code.h"
#include "log.h"
#include "selection.h"

/* The same call with other arguments to one module. */
static CK_RV ask(const struct call *call, struct module *module, uintptr_t *words)
{
    struct call one = *call;
    one.module = module;
    one.words = words;
    return exchange_anew(&one);
}

static CK_RV ask_only(const struct call *call)
{
    return ask(call, &call->state->modules[0], call->words);
}

/* ---- C_GetInfo ---- */

static void pad(CK_UTF8CHAR *field, size_t size, const char *text)
{
    memset(field, ' ', size);
    memcpy(field, text, strlen(text));
}

/* With one module the provider speaks for itself: some programs compare. */
CK_RV merge_info(struct call *call)
{
    CK_INFO *info = (CK_INFO *)call->words[0];
    if (call->state->n_modules == 1)
        return ask_only(call);
    if (!info)
        return CKR_ARGUMENTS_BAD;
    memset(info, 0, sizeof *info);
    info->cryptokiVersion = (CK_VERSION){3, 2};
    info->libraryVersion = (CK_VERSION){P11HOST_MAJOR, P11HOST_MINOR};
    pad(info->manufacturerID, sizeof info->manufacturerID, "p11host");
    pad(info->libraryDescription, sizeof info->libraryDescription, "PKCS#11 modules in helpers");
    return CKR_OK;
}

/* ---- C_GetSlotInfo, C_GetTokenInfo ---- */

/* "NAME does not answer", or "NAME: " and the provider's own error. */
static CK_RV describe(const struct call *call, CK_RV rv, CK_SLOT_INFO *info)
{
    char code[CODE_ROOM], text[sizeof info->slotDescription + 1];
    const char *name = call->module->name, *before = call->silent ? " " : ": ";
    const char *says = call->silent ? "does not answer" : code_name(rv, code);
    int room = (int)(sizeof info->slotDescription - strlen(before) - strlen(says));
    snprintf(text, sizeof text, "%.*s%s%s", room, name, before, says);
    memset(info, 0, sizeof *info);
    pad(info->slotDescription, sizeof info->slotDescription, text);
    pad(info->manufacturerID, sizeof info->manufacturerID, "p11host");
    log_event("slot.described module=%s rv=\"%s\"", name, code_name(rv, code));
    return CKR_OK;
}

/* The provider's word, or its silence, about a slot that is still there. */
static bool is_about_slot(const struct call *call, CK_RV rv)
{
    bool is_ours = !call->module || atomic_load(&call->state->ending);
    return rv != CKR_OK && rv != CKR_SLOT_ID_INVALID && !is_ours;
}

/* What fails is the slot itself, and no token in it: it cannot be described either, or is said to have none. */
static bool is_without_token(const struct call *call)
{
    CK_SLOT_INFO info;
    struct call look = *call;
    look.function = &functions[FN_C_GetSlotInfo];
    return ask(&look, look.module, (uintptr_t[]){call->words[0], (uintptr_t)&info}) != CKR_OK || !(info.flags & CKF_TOKEN_PRESENT);
}

/* With one module the provider speaks for itself, unless the program wants no slot to hide the others. */
static bool is_one_of_many(const struct call *call)
{
    return call->state->n_modules > 1 || selection_slot_errors();
}

CK_RV merge_look(const struct call *call, CK_RV rv)
{
    void *told = (void *)call->words[1];
    if (!told || !is_about_slot(call, rv) || !is_one_of_many(call))
        return rv;
    if (call->function == &functions[FN_C_GetSlotInfo])
        return describe(call, rv, told);
    return call->silent || is_without_token(call) ? call->function->absent : rv;
}

/* ---- C_GetSlotList ---- */

/*
 * A provider has as many slots as it said when it was asked how many (section 5.5 of the standard): with more than that the caller's
 * room would never be enough, and nobody's slots be told.
 */
static void note_told(struct module *module, CK_BBOOL present, CK_ULONG count)
{
    CK_ULONG told = 1 + (count > LIMIT_MODULE_SLOTS ? 0 : count);
    atomic_store(&module->slots_told[present ? 1 : 0], told);
    if (atomic_load(&module->slots_told[0]) < told)
        atomic_store(&module->slots_told[0], told); /* those with a token are some of all */
}

static CK_ULONG at_most_told(struct module *module, CK_BBOOL present, CK_ULONG count)
{
    CK_ULONG all = atomic_load(&module->slots_told[0]), told = atomic_load(&module->slots_told[present ? 1 : 0]);
    if (all && count > all - 1)
        count = all - 1;
    return told && count > told - 1 ? told - 1 : count;
}

/* A module that is late when it is asked how many has none, until somebody asks again. */
static void note_late(struct module *module, CK_BBOOL present)
{
    atomic_store(&module->slots_told[present ? 1 : 0], 1);
}

/* ---- all modules at the same time ---- */

/* A call of C_GetSlotList to one of them. */
struct query {
    struct call call;
    struct talk talk;
    uintptr_t words[3];
    CK_ULONG count;
    bool wanted;
};

/* Asks each that is wanted, and waits for no answer: these are heard one after the other, into the same room. */
static void ask_all(const struct call *call, struct query *queries, CK_BBOOL present, CK_SLOT_ID *found)
{
    struct talk *talks[LIMIT_MODULES];
    unsigned n = 0;
    for (unsigned i = 0; i < call->state->n_modules; i++) {
        struct query *query = &queries[i];
        if (!query->wanted)
            continue;
        query->call = *call;
        query->call.function = &functions[FN_C_GetSlotList];
        query->call.module = &call->state->modules[i];
        query->call.words = query->words;
        query->count = found ? LIMIT_MODULE_SLOTS : 0;
        query->words[0] = present;
        query->words[1] = (uintptr_t)found;
        query->words[2] = (uintptr_t)&query->count;
        query->call.hasty = call->state->n_modules > 1;
        exchange_begin(&query->talk, &query->call);
        talks[n++] = &query->talk;
    }
    exchange_greet(talks, n);
}

/*
 * Ids are given when the answer is read, so the modules' are read in their order; and by threads that do this at the same time in
 * the same order.
 */
static void learn(const struct call *call, struct query *queries, CK_SLOT_ID *found)
{
    ask_all(call, queries, CK_FALSE, found);
    for (unsigned i = 0; i < call->state->n_modules; i++) {
        if (!queries[i].wanted)
            continue;
        queries[i].wanted = exchange_end(&queries[i].talk) == CKR_OK;
        if (!found && queries[i].wanted)
            note_told(&call->state->modules[i], CK_FALSE, queries[i].count);
    }
}

static bool is_to_learn(struct module *module)
{
    return atomic_load(&module->generation) && !atomic_load(&module->slots_known);
}

void merge_learn_slots(const struct call *call)
{
    CK_SLOT_ID found[LIMIT_MODULE_SLOTS];
    struct query queries[LIMIT_MODULES];
    unsigned n = call->state->n_modules, unknown = 0;
    for (unsigned i = 0; i < n; i++)
        unknown += queries[i].wanted = is_to_learn(&call->state->modules[i]);
    if (!unknown)
        return;
    bool asked[LIMIT_MODULES];
    for (unsigned i = 0; i < n; i++)
        asked[i] = queries[i].wanted;
    learn(call, queries, NULL);
    learn(call, queries, found);
    for (unsigned i = 0; i < n; i++)
        if (asked[i] && !queries[i].call.late)
            atomic_store(&call->state->modules[i].slots_known, true);
}

/* ---- C_GetSlotList of many ---- */

struct slot_list {
    CK_SLOT_ID *slots; /* NULL when only the count is asked for */
    CK_ULONG room, count;
};

static void add_slots(struct slot_list *list, const CK_SLOT_ID *found, CK_ULONG count)
{
    for (CK_ULONG i = 0; i < count; i++, list->count++)
        if (list->slots && list->count < list->room)
            list->slots[list->count] = found[i];
}

/*
 * All that have no helper get one at the same time. What is found ready too late is for the next program that asks how many slots
 * there are: a list has as many as the answer before it (section 5.5 of the standard).
 */
static void start_modules(const struct call *call, bool counting, bool ret_ready[LIMIT_MODULES])
{
    struct module *modules = call->state->modules;
    for (unsigned i = 0; i < call->state->n_modules; i++)
        ret_ready[i] = module_start(&modules[i]) && (counting || !module_is_late_for_list(&modules[i]));
    for (unsigned i = 0; i < call->state->n_modules; i++)
        ret_ready[i] = ret_ready[i] && module_revive_for_list(&modules[i]) == CKR_OK;
}

/* Whatever a provider says, it is our C_Finalize that ends everything. */
static bool is_over(const struct call *call)
{
    return atomic_load(&call->state->ending);
}

/* Some providers name a slot twice, and one for which there is no number left has none. */
static CK_ULONG without_repeats(CK_SLOT_ID *slots, CK_ULONG count)
{
    CK_ULONG kept = 0;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_ULONG before = 0;
        while (before < kept && slots[before] != slots[i])
            before++;
        if (before == kept && slots[i] != CK_UNAVAILABLE_INFORMATION)
            slots[kept++] = slots[i];
    }
    return kept;
}

static void refuse_so_many(const struct module *module, CK_ULONG count)
{
    log_event("answer.refused function=C_GetSlotList module=%s slots=%lu reason=\"more than a module may have\"", module->name,
              (unsigned long)count);
}

/* A module that fails, or says what cannot be, is left out: it never hides the others. */
static void add_module(struct query *query, CK_SLOT_ID *found, struct slot_list *list)
{
    struct module *module = query->call.module;
    CK_BBOOL present = (CK_BBOOL)query->words[0];
    CK_RV rv = exchange_end(&query->talk);
    if (query->call.late && !list->slots)
        note_late(module, present);
    if (rv != CKR_OK)
        return;
    if (query->count > LIMIT_MODULE_SLOTS)
        refuse_so_many(module, query->count);
    else if (list->slots)
        add_slots(list, found, without_repeats(found, at_most_told(module, present, query->count)));
    else
        list->count += query->count;
    if (!list->slots)
        note_told(module, present, query->count);
}

/*
 * A module alone answers for itself. One that has yet to start has no slots. What is more than it may have would be of no use: those
 * without a number could not be named.
 */
static CK_RV only_slots(const struct call *call)
{
    struct module *only = &call->state->modules[0];
    CK_SLOT_ID *slots = (CK_SLOT_ID *)call->words[1];
    CK_ULONG *count = (CK_ULONG *)call->words[2];
    bool wanted = !slots || !module_is_late(only);
    merge_learn_slots(call);
    CK_RV rv = wanted ? ask_only(call) : CKR_OK;
    if (rv == CKR_CRYPTOKI_NOT_INITIALIZED || !count)
        return rv;
    if (module_is_late(only)) {
        *count = 0;
        return CKR_OK;
    }
    if ((rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL) && *count > LIMIT_MODULE_SLOTS) {
        refuse_so_many(only, *count);
        return CKR_DEVICE_ERROR;
    }
    if (rv == CKR_OK && slots)
        *count = without_repeats(slots, *count);
    return rv;
}

/* Not on the stack while slots are learnt: the application's threads may have little of that. */
__attribute__((noinline)) static void list_modules(const struct call *call, const bool *ready, struct slot_list *list)
{
    CK_SLOT_ID found[LIMIT_MODULE_SLOTS];
    struct query queries[LIMIT_MODULES];
    for (unsigned i = 0; i < call->state->n_modules; i++)
        queries[i].wanted = ready[i] && atomic_load(&call->state->modules[i].generation); /* not if that ended just now */
    ask_all(call, queries, (CK_BBOOL)call->words[0], list->slots ? found : NULL);
    for (unsigned i = 0; i < call->state->n_modules; i++)
        if (queries[i].wanted)
            add_module(&queries[i], found, list);
}

CK_RV merge_slots(struct call *call)
{
    CK_ULONG *count = (CK_ULONG *)call->words[2];
    bool ready[LIMIT_MODULES];
    if (call->state->n_modules == 1)
        return only_slots(call);
    if (!count)
        return CKR_ARGUMENTS_BAD;
    struct slot_list list = {.slots = (CK_SLOT_ID *)call->words[1], .room = *count};
    start_modules(call, !list.slots, ready);
    merge_learn_slots(call);
    list_modules(call, ready, &list);
    if (is_over(call))
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    *count = list.count;
    return list.slots && list.count > list.room ? CKR_BUFFER_TOO_SMALL : CKR_OK;
}
