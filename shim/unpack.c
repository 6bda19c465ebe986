#include "unpack.h"

#include <errno.h>
#include <string.h>

const char *const unpack_kinds_of_value[VALUE_NONE] = {
    [VALUE_BYTES] = "bytes", [VALUE_NUMBER] = "ulong", [VALUE_OBJECT] = "handle", [VALUE_BOOL] = "bool",
    [VALUE_BYTE] = "byte", [VALUE_NUMBERS] = "ulongs", [VALUE_TEMPLATE] = "template", [VALUE_STRUCT] = "struct",
};

void unpack_fail(struct unpacking *d)
{
    reader_fail(&d->r, -EBADMSG);
}

bool unpack_failed(const struct unpacking *d)
{
    return d->r.error != 0;
}

uint8_t unpack_word(struct unpacking *d, const char *const *words, size_t count)
{
    char word[LIMIT_NAME + 1];
    read_text(&d->r, word, sizeof word);
    for (size_t i = 0; i < count && !unpack_failed(d); i++)
        if (words[i] && !strcmp(words[i], word))
            return (uint8_t)i;
    unpack_fail(d);
    return 0;
}

CK_ULONG unpack_value(struct unpacking *d)
{
    uint64_t value = read_uint(&d->r);
    if (value > CK_UNAVAILABLE_INFORMATION)
        unpack_fail(d);
    return (CK_ULONG)value;
}

uint16_t unpack_at_most(struct unpacking *d, uint64_t most)
{
    uint64_t value = read_uint(&d->r);
    if (value > most)
        unpack_fail(d);
    return unpack_failed(d) ? 0 : (uint16_t)value;
}

size_t unpack_count(struct unpacking *d)
{
    size_t count = read_array(&d->r);
    if (count > d->r.end - d->r.pos)
        unpack_fail(d);
    return unpack_failed(d) ? 0 : count;
}

void *unpack_memory(struct unpacking *d, size_t count, size_t size)
{
    void *memory = unpack_failed(d) ? NULL : arena_alloc(&d->arena, count * size);
    if (!memory)
        reader_fail(&d->r, -ENOMEM);
    return memory;
}
