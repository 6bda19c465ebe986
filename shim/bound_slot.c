#include "bound_slot.h"

#include "say.h"

struct sessions bound_sessions;
_Atomic bool bound_alert;
_Atomic CK_ULONG bound_opened;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct bound_slot slots[LIMIT_MODULE_SLOTS];
static unsigned n_slots;

/* ---- under the lock ---- */

static void reckon(void)
{
    bool any = false;
    for (unsigned i = 0; i < n_slots && !any; i++)
        any = slots[i].doubtful || slots[i].refusing;
    atomic_store(&bound_alert, any);
}

static struct bound_slot *find(CK_SLOT_ID id)
{
    for (unsigned i = 0; i < n_slots; i++)
        if (slots[i].id == id)
            return &slots[i];
    return NULL;
}

static struct bound_slot *add(CK_SLOT_ID id)
{
    if (n_slots == LIMIT_MODULE_SLOTS)
        return NULL;
    slots[n_slots].id = id;
    return &slots[n_slots++];
}

static void doubt(struct bound_slot *slot)
{
    slot->prompts++;
    slot->doubtful = true;
}

static void lose(struct bound_slot *slot, bool another)
{
    size_t lost = sessions_move(&bound_sessions, slot->id, BOUND_OPEN, BOUND_LOST);
    say("token.%s slot=%llu sessions=%zu", another ? "exchanged" : "gone", (unsigned long long)slot->id, lost);
    slot->open = 0;
    slot->known = slot->doubtful = false;
    slot->losses++;
    slot->told = slot->warned;
    slot->refusing = slot->unclosed = true;
}

/* What is not clear yet of a token may be, with a later look. */
static void judge(struct bound_slot *slot, const struct slot_look *seen, uint64_t began)
{
    if (!slot->open || began < slot->since)
        return;
    if (seen->state != SLOT_TOKEN) {
        lose(slot, false);
    } else if (!seen->unclear && slot->known && !token_face_is_same(&slot->token, &seen->token)) {
        lose(slot, true);
    } else if (!seen->unclear) {
        slot->token = seen->token;
        slot->known = true;
        slot->warned = false;
    }
}

/* Nothing is open there: what is seen is what sessions will be opened on, if nobody has looked since. */
static void begin(struct bound_slot *slot, const struct slot_look *seen, uint64_t began)
{
    if (began < slot->since)
        return;
    slot->since = began;
    slot->token = seen->token;
    slot->known = seen->state == SLOT_TOKEN && !seen->unclear;
    slot->warned = false;
}

/* The provider has closed a session by itself, and given its number anew. */
static void forget_reused(CK_ULONG handle)
{
    struct session old;
    if (sessions_get(&bound_sessions, handle, &old) && old.life == BOUND_OPEN)
        find(old.slot)->open--;
}

static void forget(struct bound_slot *slot, CK_ULONG handle, uint32_t life)
{
    struct session session;
    sessions_take(&bound_sessions, handle, &session);
    slot->open -= life == BOUND_OPEN;
    slot->doubtful = slot->doubtful && slot->open;
    slot->refusing = slot->refusing && sessions_find(&bound_sessions, slot->id, BOUND_OPEN, true, &session);
    reckon();
}

/* ---- slots ---- */

struct bound_slot *bound_slot_find_or_add(CK_SLOT_ID id)
{
    pthread_mutex_lock(&lock);
    struct bound_slot *slot = find(id);
    if (!slot)
        slot = add(id);
    pthread_mutex_unlock(&lock);
    return slot;
}

struct bound_slot *bound_slot_of(CK_ULONG handle, struct session *ret_session)
{
    if (!sessions_get(&bound_sessions, handle, ret_session))
        return NULL;
    pthread_mutex_lock(&lock);
    struct bound_slot *slot = find(ret_session->slot);
    pthread_mutex_unlock(&lock);
    return slot;
}

struct bound_slot *bound_slot_at(unsigned place)
{
    pthread_mutex_lock(&lock);
    struct bound_slot *slot = place < n_slots ? &slots[place] : NULL;
    pthread_mutex_unlock(&lock);
    return slot;
}

/* ---- sessions ---- */

bool bound_slot_put(struct bound_slot *slot, CK_ULONG handle, uint64_t losses)
{
    struct session session = {.handle = handle, .slot = slot->id, .life = BOUND_OPEN};
    pthread_mutex_lock(&lock);
    session.server = atomic_fetch_add(&bound_opened, 1) + 1;
    if (losses != slot->losses) {
        session.life = BOUND_LOST;
        slot->refusing = slot->unclosed = true;
    }
    forget_reused(handle);
    bool done = sessions_put(&bound_sessions, &session);
    slot->open += done && session.life == BOUND_OPEN;
    reckon();
    pthread_mutex_unlock(&lock);
    return done;
}

bool bound_slot_take(struct bound_slot *slot, CK_ULONG handle, uint32_t life, uint64_t *ret_losses)
{
    struct session session;
    pthread_mutex_lock(&lock);
    bool found = sessions_get(&bound_sessions, handle, &session) && session.life == life;
    if (found)
        forget(slot, handle, life);
    *ret_losses = slot->losses;
    pthread_mutex_unlock(&lock);
    return found;
}

void bound_slot_told(CK_ULONG handle, CK_ULONG opened)
{
    struct session session;
    pthread_mutex_lock(&lock);
    bool found = sessions_get(&bound_sessions, handle, &session);
    if (found && session.life == BOUND_CLOSED)
        forget(find(session.slot), handle, session.life);
    if (found && session.life == BOUND_OPEN && session.server <= opened)
        forget(find(session.slot), handle, session.life);
    pthread_mutex_unlock(&lock);
}

void bound_slot_forget_all(CK_SLOT_ID id)
{
    pthread_mutex_lock(&lock);
    struct bound_slot *slot = find(id);
    if (slot) {
        sessions_forget_slot(&bound_sessions, id);
        slot->open = 0;
        slot->doubtful = slot->refusing = slot->unclosed = false;
        reckon();
    }
    pthread_mutex_unlock(&lock);
}

uint64_t bound_slot_losses(struct bound_slot *slot)
{
    pthread_mutex_lock(&lock);
    uint64_t losses = slot->losses;
    pthread_mutex_unlock(&lock);
    return losses;
}

bool bound_slot_has_unclosed(struct bound_slot *slot)
{
    pthread_mutex_lock(&lock);
    bool has = slot->unclosed;
    pthread_mutex_unlock(&lock);
    return has;
}

void bound_slot_all_closed(struct bound_slot *slot)
{
    struct session session;
    pthread_mutex_lock(&lock);
    slot->unclosed = sessions_find(&bound_sessions, slot->id, BOUND_LOST, false, &session);
    pthread_mutex_unlock(&lock);
}

bool bound_slot_tell(struct bound_slot *slot)
{
    pthread_mutex_lock(&lock);
    bool told = slot->told;
    slot->told = true;
    pthread_mutex_unlock(&lock);
    return told;
}

/* ---- tokens ---- */

bool bound_slot_is_unused(struct bound_slot *slot)
{
    pthread_mutex_lock(&lock);
    bool unused = slot->open == 0;
    pthread_mutex_unlock(&lock);
    return unused;
}

bool bound_slot_is_doubtful(struct bound_slot *slot)
{
    pthread_mutex_lock(&lock);
    bool doubtful = slot->doubtful;
    pthread_mutex_unlock(&lock);
    return doubtful;
}

void bound_slot_warn(CK_ULONG handle)
{
    struct session session;
    pthread_mutex_lock(&lock);
    bool open = sessions_get(&bound_sessions, handle, &session) && session.life == BOUND_OPEN;
    struct bound_slot *slot = open ? find(session.slot) : NULL;
    if (slot) {
        slot->warned = true;
        doubt(slot);
        reckon();
    }
    pthread_mutex_unlock(&lock);
}

bool bound_slot_doubt_all(void)
{
    bool any = false;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < n_slots; i++)
        if (slots[i].open) {
            doubt(&slots[i]);
            any = true;
        }
    reckon();
    pthread_mutex_unlock(&lock);
    return any;
}

uint64_t bound_slot_prompts(struct bound_slot *slot)
{
    pthread_mutex_lock(&lock);
    uint64_t prompts = slot->prompts;
    pthread_mutex_unlock(&lock);
    return prompts;
}

void bound_slot_looked(struct bound_slot *slot, const struct slot_look *seen, uint64_t prompts, uint64_t began)
{
    pthread_mutex_lock(&lock);
    if (slot->open)
        judge(slot, seen, began);
    else
        begin(slot, seen, began);
    if (slot->prompts == prompts && !seen->unclear)
        slot->doubtful = false;
    reckon();
    pthread_mutex_unlock(&lock);
}

bool bound_slot_saw(struct bound_slot *slot, const struct slot_look *seen, uint64_t began)
{
    pthread_mutex_lock(&lock);
    judge(slot, seen, began);
    bool unclosed = slot->unclosed;
    if (unclosed)
        reckon();
    pthread_mutex_unlock(&lock);
    return unclosed;
}
