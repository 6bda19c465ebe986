/*
 * A token for tests that guards its PIN, by counting or by a keypad of its own, and makes pairs of keys of any kind.
 *
 *     GUARD_STATE=FILE   a byte for each wrong PIN in a row: a life of it knows what those before it saw. The PIN is 1234,
 *                        and locked after three. Each login is a line in FILE.log: what PIN it was given, or that it was none
 *     GUARD_HANGS=1      C_FindObjects writes a line `find` to FILE.log and never returns
 *     GUARD_KEYPAD=1     CKF_PROTECTED_AUTHENTICATION_PATH: the PIN is typed on the token, which needs none from a program
 *
 * A key has what its template said; no key survives its life. Nothing is ever found.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cryptoki.h"
#include "frame.h"

enum { SLOT = 1, SESSION = 1, MOST_TRIES = 3, KEYS = 2, ATTRIBUTES = 24, VALUE = 64 };
#define NAME "guard"
#include "single.h"

struct attribute {
    CK_ATTRIBUTE_TYPE type;
    CK_ULONG len;
    CK_BYTE value[VALUE];
};

static struct key {
    unsigned count;
    struct attribute attributes[ATTRIBUTES];
} keys[KEYS];

static const char pin[] = "1234";

/* ---- the PIN ---- */

static int has_keypad(void)
{
    return getenv("GUARD_KEYPAD") != NULL;
}

static long wrong_tries(void)
{
    struct stat found;
    const char *state = getenv("GUARD_STATE");
    return state && stat(state, &found) == 0 ? (long)found.st_size : 0;
}

static void append(const char *suffix, const char *text, size_t len)
{
    char path[4096];
    snprintf(path, sizeof path, "%s%s", getenv("GUARD_STATE"), suffix);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, len) != (ssize_t)len)
        abort();
    close(fd);
}

static CK_FLAGS tries_flags(void)
{
    long wrong = wrong_tries();
    if (wrong >= MOST_TRIES)
        return CKF_USER_PIN_LOCKED;
    if (wrong == MOST_TRIES - 1)
        return CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_COUNT_LOW;
    return wrong > 0 ? CKF_USER_PIN_COUNT_LOW : 0;
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *given, CK_ULONG len)
{
    (void)session, (void)user;
    char line[80];
    int n = snprintf(line, sizeof line, "%.*s\n", given ? (int)len : 4, given ? (const char *)given : "NULL");
    append(".log", line, (size_t)n);
    if (has_keypad())
        return given ? CKR_ARGUMENTS_BAD : CKR_OK;
    if (wrong_tries() >= MOST_TRIES)
        return CKR_PIN_LOCKED;
    if (given && len == strlen(pin) && memcmp(given, pin, len) == 0)
        return truncate(getenv("GUARD_STATE"), 0) == 0 || wrong_tries() == 0 ? CKR_OK : CKR_DEVICE_ERROR;
    append("", "x", 1);
    return CKR_PIN_INCORRECT;
}

/* ---- library, slot, session ---- */

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    (void)slot;
    memset(info, 0, sizeof *info);
    pad(info->label, sizeof info->label, "guarded");
    pad(info->manufacturerID, sizeof info->manufacturerID, "guard");
    pad(info->model, sizeof info->model, "guard");
    pad(info->serialNumber, sizeof info->serialNumber, "1");
    pad(info->utcTime, sizeof info->utcTime, "");
    info->flags = CKF_TOKEN_INITIALIZED | CKF_USER_PIN_INITIALIZED | CKF_LOGIN_REQUIRED | tries_flags() |
                  (has_keypad() ? CKF_PROTECTED_AUTHENTICATION_PATH : 0);
    return CKR_OK;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    (void)slot, (void)flags, (void)application, (void)notify;
    *session = SESSION;
    return CKR_OK;
}

static CK_RV of_session(CK_SESSION_HANDLE session)
{
    return session == SESSION ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
}

/* ---- keys ---- */

static CK_RV keep(struct key *key, const CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_CLASS class)
{
    CK_ATTRIBUTE kind = {CKA_CLASS, &class, sizeof class};
    key->count = 0;
    for (CK_ULONG i = 0; i <= count; i++) {
        const CK_ATTRIBUTE *given = i < count ? &template[i] : &kind;
        if (given->type == CKA_CLASS && i < count)
            continue;
        if (key->count == ATTRIBUTES || given->ulValueLen > VALUE)
            return CKR_TEMPLATE_INCONSISTENT;
        struct attribute *kept = &key->attributes[key->count++];
        *kept = (struct attribute){.type = given->type, .len = given->ulValueLen};
        if (given->ulValueLen)
            memcpy(kept->value, given->pValue, given->ulValueLen);
    }
    return CKR_OK;
}

static CK_RV generate_key_pair(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *public, CK_ULONG n_public,
                               CK_ATTRIBUTE *private, CK_ULONG n_private, CK_OBJECT_HANDLE *public_key,
                               CK_OBJECT_HANDLE *private_key)
{
    (void)session;
    if (mechanism->pParameter)
        return CKR_MECHANISM_PARAM_INVALID;
    CK_RV rv = keep(&keys[0], public, n_public, CKO_PUBLIC_KEY);
    if (rv == CKR_OK)
        rv = keep(&keys[1], private, n_private, CKO_PRIVATE_KEY);
    *public_key = 1;
    *private_key = 2;
    return rv;
}

static CK_RV tell(const struct key *key, CK_ATTRIBUTE *asked)
{
    for (unsigned i = 0; i < key->count; i++) {
        const struct attribute *has = &key->attributes[i];
        if (has->type != asked->type)
            continue;
        bool fits = !asked->pValue || asked->ulValueLen >= has->len;
        if (asked->pValue && fits)
            memcpy(asked->pValue, has->value, has->len);
        asked->ulValueLen = fits ? has->len : CK_UNAVAILABLE_INFORMATION;
        return fits ? CKR_OK : CKR_BUFFER_TOO_SMALL;
    }
    asked->ulValueLen = CK_UNAVAILABLE_INFORMATION;
    return CKR_ATTRIBUTE_TYPE_INVALID;
}

static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    (void)session;
    CK_RV rv = CKR_OK;
    if (object < 1 || object > KEYS)
        return CKR_OBJECT_HANDLE_INVALID;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_RV found = tell(&keys[object - 1], &template[i]);
        rv = found == CKR_OK ? rv : found;
    }
    return rv;
}

static CK_RV find_objects_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count)
{
    (void)template, (void)count;
    return of_session(session);
}

static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, CK_ULONG most, CK_ULONG *count)
{
    (void)objects, (void)most;
    if (getenv("GUARD_HANGS"))
        append(".log", "find\n", 5);
    while (getenv("GUARD_HANGS"))
        pause();
    *count = 0;
    return of_session(session);
}

static void fill(CK_FUNCTION_LIST *list)
{
    fill_single(list);
    list->C_GetTokenInfo = get_token_info;
    list->C_OpenSession = open_session;
    list->C_CloseSession = of_session;
    list->C_Login = login;
    list->C_GenerateKeyPair = generate_key_pair;
    list->C_GetAttributeValue = get_attribute_value;
    list->C_FindObjectsInit = find_objects_init;
    list->C_FindObjects = find_objects;
    list->C_FindObjectsFinal = of_session;
}
