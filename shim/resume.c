#include "resume.h"

#include <string.h>

#include "code.h"
#include "log.h"

/* Another call to the module, in the same generation, that concerns us alone. */
static CK_RV aside(const struct call *call, unsigned fn, uintptr_t *words)
{
    struct call one = *call;
    one.function = &functions[fn];
    one.words = words;
    one.aside = true;
    return exchange(&one);
}

/* ---- what an object is known by ---- */

static bool is_known(CK_ULONG len)
{
    return len != 0 && len != CK_UNAVAILABLE_INFORMATION;
}

/* What is too long to be remembered might be all that tells it from another. */
static bool can_be_found(const struct traits *traits, bool too_long)
{
    bool named = is_known(traits->id_len) || is_known(traits->label_len);
    return traits->class != CK_UNAVAILABLE_INFORMATION && (is_known(traits->unique_len) || (named && !too_long));
}

/* With CKR_OK alone has it been checked that what the provider claims fits into our room. */
static CK_ULONG believed(const CK_ATTRIBUTE *attribute, CK_ULONG room)
{
    return attribute->ulValueLen <= room ? attribute->ulValueLen : CK_UNAVAILABLE_INFORMATION;
}

static bool is_longer(const CK_ATTRIBUTE *attribute, CK_ULONG room)
{
    return attribute->ulValueLen != CK_UNAVAILABLE_INFORMATION && attribute->ulValueLen > room;
}

static bool has_answered(CK_RV rv)
{
    return rv == CKR_OK || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_BUFFER_TOO_SMALL;
}

/* False if the provider did not say. */
static bool look_at(const struct call *call, struct object *object)
{
    struct traits *t = &object->traits;
    CK_BBOOL token = CK_FALSE;
    CK_ATTRIBUTE template[] = {
        {CKA_TOKEN, &token, sizeof token},    {CKA_CLASS, &t->class, sizeof t->class}, {CKA_ID, t->id, sizeof t->id},
        {CKA_LABEL, t->label, sizeof t->label}, {CKA_KEY_TYPE, &t->key_type, sizeof t->key_type},
        {CKA_UNIQUE_ID, t->unique, sizeof t->unique},
    };
    uintptr_t words[] = {call->words[0], object->client, (uintptr_t)template, sizeof template / sizeof *template};
    CK_RV rv = aside(call, FN_C_GetAttributeValue, words);
    if (!has_answered(rv))
        return false;
    if (template[1].ulValueLen != sizeof t->class)
        t->class = CK_UNAVAILABLE_INFORMATION;
    bool too_long = rv == CKR_BUFFER_TOO_SMALL || is_longer(&template[2], sizeof t->id) || is_longer(&template[3], sizeof t->label);
    t->id_len = believed(&template[2], sizeof t->id);
    t->label_len = believed(&template[3], sizeof t->label);
    if (template[4].ulValueLen != sizeof t->key_type)
        t->key_type = CK_UNAVAILABLE_INFORMATION;
    t->unique_len = believed(&template[5], sizeof t->unique);
    object->findable = template[0].ulValueLen == sizeof token && token && can_be_found(t, too_long);
    return true;
}

/* Before its first use in a call, so that it is known should that call be the helper's last. */
static void get_to_know(const struct call *call, CK_ULONG client, CK_ULONG server)
{
    struct session session;
    struct object object = {.client = client, .life = call->generation, .server = server};
    if (!sessions_get(&call->module->sessions, call->words[0], &session))
        return;
    object.slot = session.slot;
    object.face = session.face;
    if (look_at(call, &object))
        objects_put(&call->module->objects, &object);
}

/* ---- finding it again ---- */

static CK_ULONG add(CK_ATTRIBUTE *template, CK_ULONG count, CK_ATTRIBUTE_TYPE type, void *value, CK_ULONG len)
{
    if (!is_known(len))
        return count;
    template[count] = (CK_ATTRIBUTE){type, value, len};
    return count + 1;
}

/* By its unique id, or else by all that is known of it. */
static CK_ULONG describe(struct traits *t, CK_ATTRIBUTE template[5])
{
    static CK_BBOOL yes = CK_TRUE;
    CK_ULONG count = add(template, 0, CKA_TOKEN, &yes, sizeof yes);
    if (is_known(t->unique_len))
        return add(template, count, CKA_UNIQUE_ID, t->unique, t->unique_len);
    count = add(template, count, CKA_CLASS, &t->class, sizeof t->class);
    count = add(template, count, CKA_ID, t->id, t->id_len);
    count = add(template, count, CKA_LABEL, t->label, t->label_len);
    if (t->key_type != CK_UNAVAILABLE_INFORMATION)
        count = add(template, count, CKA_KEY_TYPE, &t->key_type, sizeof t->key_type);
    return count;
}

enum { ONE_TOO_MANY = 2 };

/* In a session of our own: no operation of the application's is in it. */
static CK_RV search(const struct call *call, CK_ULONG session, struct object *object, CK_ULONG *ret_found, CK_ULONG *ret_count)
{
    CK_ATTRIBUTE template[5];
    uintptr_t begin[] = {session, (uintptr_t)template, describe(&object->traits, template)};
    uintptr_t next[] = {session, (uintptr_t)ret_found, ONE_TOO_MANY, (uintptr_t)ret_count};
    uintptr_t end[] = {session};
    CK_RV rv = aside(call, FN_C_FindObjectsInit, begin);
    if (rv != CKR_OK)
        return rv;
    rv = aside(call, FN_C_FindObjects, next);
    aside(call, FN_C_FindObjectsFinal, end);
    return rv;
}

static CK_RV search_in_slot(const struct call *call, struct object *object, CK_ULONG *ret_found, CK_ULONG *ret_count)
{
    struct call own = *call;
    CK_ULONG session = 0;
    uintptr_t open[] = {object->slot, CKF_SERIAL_SESSION, 0, 0, (uintptr_t)&session}, close[] = {0};
    own.slot = object->slot;
    CK_RV rv = aside(&own, FN_C_OpenSession, open);
    if (rv != CKR_OK || !handle_to_server(&own.module->large, handle_generation(session), session, &own.session))
        return rv != CKR_OK ? rv : CKR_GENERAL_ERROR;
    rv = search(&own, session, object, ret_found, ret_count);
    close[0] = session;
    aside(&own, FN_C_CloseSession, close);
    return rv;
}

/* A private object cannot be seen before somebody logs in. */
static void lose(struct call *call, CK_RV rv, CK_ULONG count)
{
    if (rv != CKR_OK) { /* of a helper that has died the call itself says so */
        call->lost_rv = CKR_FUNCTION_FAILED;
        call->lost_object = atomic_load(&call->module->generation) == call->generation ? "the search for the object failed" : NULL;
        return;
    }
    bool unseen = count == 0 && atomic_load(&call->module->user_lost) == call->generation;
    call->lost_rv = unseen ? CKR_USER_NOT_LOGGED_IN : CKR_OBJECT_HANDLE_INVALID;
    if (unseen)
        call->lost_object = "the user is not logged in after the restart";
    else
        call->lost_object = count ? "several objects are like the one before the restart" : "the object is not there after the restart";
}

/* The session of the call was opened on another token: what is called the same there is not the object. */
static bool is_elsewhere(const struct call *call, const struct object *object)
{
    struct session session;
    bool known = sessions_get(&call->module->sessions, call->words[0], &session) && session.slot == object->slot;
    return known && session.face && object->face && session.face != object->face;
}

static bool find_again(struct call *call, struct object *object)
{
    if (is_elsewhere(call, object)) {
        call->lost_rv = CKR_OBJECT_HANDLE_INVALID;
        call->lost_object = "it was on another token";
        return false;
    }
    CK_ULONG found[ONE_TOO_MANY], count = 0;
    CK_RV rv = search_in_slot(call, object, found, &count);
    if (rv == CKR_OK && count == 1 && handle_to_server(&call->module->large, call->generation, found[0], &object->server)) {
        objects_settle(&call->module->objects, object->client, call->generation, object->server);
        return true;
    }
    log_event("object.lost module=%s rv=\"%s\" matches=%lu", call->module->name, code_name(rv, (char[CODE_ROOM]){0}), (unsigned long)count);
    lose(call, rv, count);
    return false;
}

bool resume_object(struct call *call, CK_ULONG client, CK_ULONG *ret_server)
{
    struct objects *objects = &call->module->objects;
    struct object object;
    if (handle_generation(client) == call->generation) {
        bool good = handle_to_server(&call->module->large, call->generation, client, ret_server);
        if (good && !objects_has(objects, client))
            get_to_know(call, client, *ret_server);
        return good;
    }
    if (!objects_get(objects, client, &object) || !object.findable)
        return false;
    if (object.life != call->generation && !find_again(call, &object))
        return false;
    *ret_server = object.server;
    return true;
}

/* ---- what calls make of objects and logins ---- */

/* One that is destroyed may give its handle to another; one that is changed is known by something else. */
void resume_foresee(const struct call *call)
{
    const struct function *f = call->function;
    if (f->effect == EFFECT_DESTROY || f->effect == EFFECT_CHANGE)
        objects_forget(&call->module->objects, call->words[f->subject]);
}

/* The one slot where the user has logged in, plus 1. Who has in several has no one PIN. */
enum { NOWHERE = 0 };
#define MANY_SLOTS CK_UNAVAILABLE_INFORMATION

static void logged_in(struct module *module, const struct session *session, uint32_t generation)
{
    CK_ULONG none = NOWHERE, slot = session->slot;
    pthread_mutex_lock(&module->user_lock);
    module->user_life = generation;
    module->user_face = session->face;
    atomic_store(&module->user_lost, 0);
    pthread_mutex_unlock(&module->user_lock);
    if (!atomic_compare_exchange_strong(&module->user_slot, &none, slot + 1) && none != slot + 1)
        atomic_store(&module->user_slot, MANY_SLOTS);
}

static void logged_out(struct module *module, CK_ULONG slot)
{
    CK_ULONG here = slot + 1;
    atomic_compare_exchange_strong(&module->user_slot, &here, NOWHERE);
}

void resume_follow(const struct call *call, CK_RV rv)
{
    const struct function *f = call->function;
    struct session session;
    bool login = f->effect == EFFECT_LOGIN && call->words[f->subject] == CKU_USER;
    if (rv != CKR_OK || !(login || f->effect == EFFECT_LOGOUT) || !sessions_get(&call->module->sessions, call->words[0], &session))
        return;
    if (login)
        logged_in(call->module, &session, call->generation);
    else
        logged_out(call->module, session.slot);
}

/* The last session of a slot takes the login along (section 5.6.7 of the standard). */
void resume_closed(struct module *module, CK_ULONG slot)
{
    struct session session;
    if (!sessions_find(&module->sessions, slot, 0, true, &session))
        logged_out(module, slot);
}

/* ---- logging in again ---- */

bool resume_wants_login(const struct module *module)
{
    CK_ULONG slot = atomic_load(&module->user_slot);
    return module->resumes && slot != NOWHERE && slot != MANY_SLOTS;
}

static void log_in(const struct call *call)
{
    CK_RV rv = exchange_login(call);
    log_event("user.%s module=%s rv=\"%s\"", rv == CKR_OK ? "resumed" : "lost", call->module->name, code_name(rv, (char[CODE_ROOM]){0}));
    if (rv != CKR_OK && rv != CKR_USER_ALREADY_LOGGED_IN)
        atomic_store(&call->module->user_lost, call->generation);
}

/* Under the lock. */
static bool is_another_token(const struct module *module, uint64_t face)
{
    return face && module->user_face && face != module->user_face;
}

/* Whoever comes meanwhile waits: its call may need the login. */
void resume_login(const struct call *call, uint64_t face)
{
    struct module *module = call->module;
    if (atomic_load(&module->user_slot) != call->slot + 1)
        return;
    pthread_mutex_lock(&module->user_lock);
    if (atomic_load(&module->generation) == call->generation && module->user_life != call->generation) {
        module->user_life = call->generation;
        if (is_another_token(module, face))
            logged_out(module, call->slot);
        else
            log_in(call);
    }
    pthread_mutex_unlock(&module->user_lock);
}
