#include "kept.h"

#include <errno.h>

static struct operations kept;

void kept_init(void)
{
    kept.most = LIMIT_OPERATIONS;
}

/* By the provider's handle. */
static CK_ULONG session_of(const struct walk *walk)
{
    return walk->words[0];
}

void kept_expect(struct keeping *keeping, struct walk *walk)
{
    keeping->room = NULL;
    operations_recall(NULL, 0, 0, &keeping->recall);
    walk->recall = &keeping->recall;
}

/* ---- before the provider is called ---- */

/* A provider takes the parameter for what the operation began with, whatever the request calls it. */
static void check_message(const struct keeping *keeping, const struct walk *walk)
{
    bool fits = keeping->recall.known && keeping->recall.mechanism == walk->given->mechanism;
    if (walk->given->pParameter && !fits)
        reader_fail(walk->r, -EBADMSG);
}

/* Of a beginning: what later calls need. */
static void make_room(struct keeping *keeping, struct walk *walk)
{
    bool late = keeping->recall.count > 0, message = walk->function->context == CONTEXT_MESSAGE_INIT;
    if (!keeping->recall.begun || !(late || message || signature_of(walk->tables, keeping->recall.mechanism)))
        return;
    struct operation *room = operations_reserve(&kept);
    if (room && late && !room->arena.base && arena_init(&room->arena, (size_t)1 << CALL_ARENA_BITS) != 0) {
        operations_release(&kept, room);
        room = NULL;
    }
    if (!room)
        reader_fail(walk->r, -ENOMEM);
    keeping->room = room;
}

void kept_prepare(struct keeping *keeping, struct walk *walk)
{
    const struct function *f = walk->function;
    if (f->role == ROLE_BEGIN) {
        make_room(keeping, walk);
        return;
    }
    operations_recall(&kept, session_of(walk), f->operations, &keeping->recall);
    if (f->role == ROLE_USE && walk->given)
        check_message(keeping, walk);
    if (f->role == ROLE_END && keeping->recall.known)
        walk->unnamed = !walk->signature && signature_of(walk->tables, keeping->recall.mechanism);
    if (f->role == ROLE_CLOSE) /* its handle may be another's as soon as it is closed */
        operations_forget(&kept, session_of(walk), ALL_OPERATIONS);
}

/* ---- after it has returned ---- */

static void keep(struct keeping *keeping, struct walk *walk)
{
    struct arena other = keeping->room->arena;
    if (keeping->recall.count > 0) {
        keeping->room->arena = *walk->arena;
        *walk->arena = other;
    }
    operations_remember(&kept, keeping->room, session_of(walk), walk->function->operations, &keeping->recall);
}

static void follow_beginning(struct keeping *keeping, struct walk *walk, CK_RV rv)
{
    if (rv == CKR_OK && keeping->room)
        keep(keeping, walk);
    else if (keeping->room)
        operations_release(&kept, keeping->room);
    else if (rv == CKR_OK)
        operations_forget(&kept, session_of(walk), walk->function->operations);
}

/* An operation whose provider says anything but CKR_OK may go on, with its pointers: its memory stays until it is replaced. */
void kept_follow(struct keeping *keeping, struct walk *walk, CK_RV rv)
{
    const struct function *f = walk->function;
    if (f->role == ROLE_BEGIN)
        follow_beginning(keeping, walk, rv);
    else if (f->role == ROLE_OPEN && rv == CKR_OK)
        operations_forget(&kept, operations_opened(f, walk->words), ALL_OPERATIONS);
    else if (f->role == ROLE_CANCEL && rv == CKR_OK)
        operations_forget(&kept, session_of(walk), operations_cancelled(f, walk->words));
    else if (rv == CKR_OK && operations_ended(f, walk->words, rv))
        operations_forget(&kept, session_of(walk), f->operations);
    else if (keeping->recall.count)
        operations_update(&kept, session_of(walk), f->operations, &keeping->recall);
}
