#include "selection.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cryptoki.h"
#include "log.h"

/*
 * Ordinary memory: a child goes on with its parent's. The one in force is never written to, so that a copy made at any instant is
 * sound.
 */
static struct selection selections[2];
static _Atomic(struct selection *) in_force;

static int take(struct selection *selection, const char *name, size_t len)
{
    if (len > LIMIT_NAME) {
        log_event("module.unknown reason=\"its name is longer than %d bytes\"", LIMIT_NAME);
        return -ENAMETOOLONG;
    }
    memcpy(selection->module, name, len);
    selection->module[len] = '\0';
    return 0;
}

/* The kernel looks for the end of the string, and says whether it can be read up to there. */
static bool is_readable(const char *string)
{
    return access(string, F_OK) == 0 || errno != EFAULT;
}

/* Programs that pass something else than a string, or nothing that there is, have always been told that it is wrong. */
static int take_reserved(struct selection *selection, const char *reserved)
{
    static const char key[] = "module=";
    size_t len = sizeof key - 1;
    if (!is_readable(reserved) || strncmp(reserved, key, len) != 0 || !reserved[len])
        return -EINVAL;
    return take(selection, reserved + len, strnlen(reserved + len, LIMIT_NAME + 1));
}

/* The name by which the program had it loaded, which may be a link's. */
static int take_file(struct selection *selection)
{
    static const char before[] = "p11host-", after[] = ".so";
    Dl_info info;
    if (!dladdr((void *)(uintptr_t)&C_GetFunctionList, &info) || !info.dli_fname)
        return 0;
    const char *slash = strrchr(info.dli_fname, '/'), *name = slash ? slash + 1 : info.dli_fname;
    size_t len = strlen(name), fixed = sizeof before + sizeof after - 2;
    if (len <= fixed || strncmp(name, before, sizeof before - 1) != 0 || strcmp(name + len - sizeof after + 1, after) != 0)
        return 0;
    return take(selection, name + sizeof before - 1, len - fixed);
}

int selection_read(struct selection *selection, const char *reserved)
{
    selection->module[0] = '\0';
    selection->slot_errors = secure_getenv("P11HOST_SLOT_ERRORS") != NULL;
    if (reserved)
        return take_reserved(selection, reserved);
    const char *named = secure_getenv("P11HOST_MODULE");
    return named && named[0] ? take(selection, named, strlen(named)) : take_file(selection);
}

void selection_make(const struct selection *selection)
{
    struct selection *other = atomic_load(&in_force) == &selections[0] ? &selections[1] : &selections[0];
    *other = *selection;
    atomic_store(&in_force, other);
}

const char *selection_module(void)
{
    const struct selection *selection = atomic_load(&in_force);
    return selection && selection->module[0] ? selection->module : NULL;
}

bool selection_slot_errors(void)
{
    const struct selection *selection = atomic_load(&in_force);
    return selection && selection->slot_errors;
}
