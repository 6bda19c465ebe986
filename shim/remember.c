#include "remember.h"

#include "log.h"

/* By the client's handle, which no other life's session has. */
static CK_ULONG session_of(const struct call *call)
{
    return call->words[0];
}

void remember_recall(const struct call *call, struct walk *walk, struct recall *recall)
{
    const struct function *f = call->function;
    struct operations *operations = atomic_load(&call->state->operations);
    operations_recall(operations, session_of(call), f->role == ROLE_BEGIN ? 0 : f->operations, recall);
    if (f->role == ROLE_END && recall->known)
        walk->signature = signature_of(walk->tables, recall->mechanism);
    if (f->role == ROLE_CLOSE)
        operations_forget(operations, session_of(call), ALL_OPERATIONS); /* it may be another's before we hear that it is closed */
    walk->recall = recall;
}

/* Only what a later call needs: the mechanism of messages and of signatures with structs, and outputs that may come late. */
static void remember_operation(const struct call *call, const struct walk *walk)
{
    const struct function *f = call->function;
    const struct recall *recall = walk->recall;
    bool needed = recall->begun && (recall->count || f->context == CONTEXT_MESSAGE_INIT ||
                                    signature_of(walk->tables, recall->mechanism));
    struct operations *operations = needed ? operations_find_or_map(&call->state->operations) : NULL;
    struct operation *operation = operations ? operations_reserve(operations) : NULL;
    if (operation)
        operations_remember(operations, operation, session_of(call), f->operations, recall);
    else
        operations_forget(atomic_load(&call->state->operations), session_of(call), f->operations);
}

void remember_follow(const struct call *call, const struct walk *walk, CK_RV rv)
{
    const struct function *f = call->function;
    const struct recall *recall = walk->recall;
    struct operations *operations = atomic_load(&call->state->operations);
    if (f->role == ROLE_BEGIN && rv == CKR_OK)
        remember_operation(call, walk);
    else if (f->role == ROLE_OPEN && rv == CKR_OK)
        operations_forget(operations, operations_opened(f, call->words), ALL_OPERATIONS);
    else if (f->role == ROLE_CANCEL && rv == CKR_OK)
        operations_forget(operations, session_of(call), operations_cancelled(f, call->words));
    else if (operations_ended(f, call->words, rv))
        operations_forget(operations, session_of(call), f->operations);
    else if (f->role != ROLE_BEGIN && recall->count)
        operations_update(operations, session_of(call), f->operations, recall);
    if (recall->lost)
        log_event("output.lost function=%s reason=\"the memory holds something else by now\"", f->name);
}
