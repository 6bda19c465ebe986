#include "seen.h"

#include <stddef.h>

#include "names.h"

/* A slot's word: two bits of state, a mark, a count of events; the rest is the token's face. */
enum { MARK = 1 << 2, COUNT_SHIFT = 3, COUNT_MASK = 255, FACE_SHIFT = 11 };
_Static_assert(LIMIT_UNHEARD <= COUNT_MASK && COUNT_MASK << COUNT_SHIFT < 1 << FACE_SHIFT, "they have room in the word");

static enum seen_state state_of(uint64_t word)
{
    return (enum seen_state)(word & 3);
}

static unsigned count_of(uint64_t word)
{
    return (unsigned)(word >> COUNT_SHIFT) & COUNT_MASK;
}

static uint64_t word_of(enum seen_state state, uint64_t face, unsigned count, bool mark)
{
    return (uint64_t)state | (mark ? MARK : 0) | (uint64_t)count << COUNT_SHIFT | (state == SEEN_TOKEN ? face << FACE_SHIFT : 0);
}

static uint64_t face_of(uint64_t word)
{
    return word >> FACE_SHIFT;
}

static uint64_t hash(uint64_t h, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        h = (h ^ bytes[i]) * 0x100000001b3;
    return h;
}

uint64_t seen_face(const struct token_face *face)
{
    uint64_t h = hash(0xcbf29ce484222325, face->label, sizeof face->label);
    h = hash(h, face->manufacturer, sizeof face->manufacturer);
    h = hash(h, face->model, sizeof face->model);
    h = hash(h, face->serial, sizeof face->serial);
    h = (h ^ face->flags) * 0x100000001b3;
    h = (h ^ h >> 33) << FACE_SHIFT >> FACE_SHIFT;
    return h ? h : 1;
}

static _Atomic uint64_t *cell(struct seen *seen, CK_ULONG slot)
{
    CK_ULONG place = slot - FIRST_SLOT_ID;
    return place < LIMIT_SLOTS ? &seen->slots[place] : NULL;
}

/* `events` more, and the state after them. The count is the slot's first: whoever finds it pending finds it there. */
static void change(struct seen *seen, _Atomic uint64_t *word, uint64_t was, enum seen_state state, uint64_t face, unsigned events, bool mark)
{
    unsigned count = count_of(was) + events;
    unsigned added = count > LIMIT_UNHEARD ? LIMIT_UNHEARD - count_of(was) : events;
    while (!atomic_compare_exchange_weak(word, &was, word_of(state, face, count_of(was) + added, mark)))
        added = count_of(was) + events > LIMIT_UNHEARD ? LIMIT_UNHEARD - count_of(was) : events;
    atomic_fetch_add(&seen->pending, added);
}

uint64_t seen_before(const struct seen *seen, CK_ULONG slot)
{
    CK_ULONG place = slot - FIRST_SLOT_ID;
    return place < LIMIT_SLOTS ? atomic_load(&seen->slots[place]) : 0;
}

void seen_tell(struct seen *seen, CK_ULONG slot, uint64_t before, enum seen_state state, uint64_t face)
{
    _Atomic uint64_t *word = cell(seen, slot);
    if (!word || (state == SEEN_UNTOLD && state_of(before) != SEEN_NOTHING))
        return;
    if (state == SEEN_TOKEN && state_of(before) == SEEN_TOKEN && !face)
        face = face_of(before);
    atomic_compare_exchange_strong(word, &before, word_of(state, face, count_of(before), false));
}

void seen_event(struct seen *seen, CK_ULONG slot, enum seen_state state, uint64_t face)
{
    _Atomic uint64_t *word = cell(seen, slot);
    if (word)
        change(seen, word, atomic_load(word), state, face, 1, false);
}

static unsigned difference(uint64_t was, enum seen_state state, uint64_t face, bool knew_all)
{
    enum seen_state before = state_of(was);
    if (before == SEEN_NOTHING && knew_all)
        before = SEEN_EMPTY;
    if (before == SEEN_NOTHING || before == SEEN_UNTOLD)
        return 0;
    if (before == SEEN_TOKEN && state == SEEN_TOKEN)
        return face && face_of(was) && face != face_of(was) ? 2 : 0;
    return before != state;
}

void seen_compare(struct seen *seen, CK_ULONG slot, enum seen_state state, uint64_t face, bool knew_all)
{
    _Atomic uint64_t *word = cell(seen, slot);
    if (!word)
        return;
    uint64_t was = atomic_load(word);
    change(seen, word, was, state, face, difference(was, state, face, knew_all), true);
}

void seen_unmark(struct seen *seen, CK_ULONG slot)
{
    _Atomic uint64_t *word = cell(seen, slot);
    if (word)
        atomic_fetch_and(word, ~(uint64_t)MARK);
}

void seen_sweep(struct seen *seen, CK_ULONG slot)
{
    const _Atomic uint64_t *word = cell(seen, slot);
    if (word && !(atomic_load(word) & MARK))
        seen_lose(seen, slot);
}

void seen_lose(struct seen *seen, CK_ULONG slot)
{
    _Atomic uint64_t *word = cell(seen, slot);
    uint64_t was = word ? atomic_load(word) : 0;
    if (state_of(was) == SEEN_TOKEN)
        change(seen, word, was, SEEN_EMPTY, 0, 1, false);
}

/* Where it has been taken by another thread meanwhile, there is none. */
static bool take_one(struct seen *seen, _Atomic uint64_t *word)
{
    uint64_t was = atomic_load(word);
    while (count_of(was))
        if (atomic_compare_exchange_weak(word, &was, was - (UINT64_C(1) << COUNT_SHIFT))) {
            atomic_fetch_sub(&seen->pending, 1);
            return true;
        }
    return false;
}

bool seen_take(struct seen *seen, CK_ULONG *ret_slot)
{
    CK_ULONG next = atomic_load(&seen->next), count = slot_count();
    for (CK_ULONG i = 0; i < count && atomic_load(&seen->pending); i++) {
        CK_ULONG place = (next + i) % count;
        if (!take_one(seen, &seen->slots[place]))
            continue;
        atomic_store(&seen->next, place + 1);
        *ret_slot = place + FIRST_SLOT_ID;
        return true;
    }
    return false;
}
