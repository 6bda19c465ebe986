#include "elf_symbols.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file in memory. Nothing in it is believed: every offset is checked against its size. */
struct image {
    const uint8_t *bytes;
    size_t size;
};

static const void *at(const struct image *image, uint64_t offset, uint64_t size)
{
    if (offset > image->size || size > image->size - offset)
        return NULL;
    return image->bytes + offset;
}

static bool is_text(const struct image *strings, uint64_t offset, const char *text)
{
    size_t len = strlen(text) + 1;
    const void *found = at(strings, offset, len);
    return found && memcmp(found, text, len) == 0;
}

static bool section(const struct image *file, const ElfW(Ehdr) *header, unsigned index, ElfW(Shdr) *ret_section)
{
    const void *found = index < header->e_shnum ? at(file, header->e_shoff + (uint64_t)index * sizeof *ret_section, sizeof *ret_section) : NULL;
    if (found)
        memcpy(ret_section, found, sizeof *ret_section);
    return found != NULL;
}

static bool contents(const struct image *file, const ElfW(Shdr) *section, struct image *ret_contents)
{
    *ret_contents = (struct image){at(file, section->sh_offset, section->sh_size), section->sh_size};
    return ret_contents->bytes != NULL;
}

static bool defines(const struct image *symbols, const struct image *strings, const char *name)
{
    ElfW(Sym) symbol;
    for (uint64_t offset = 0; offset + sizeof symbol <= symbols->size; offset += sizeof symbol) {
        memcpy(&symbol, symbols->bytes + offset, sizeof symbol);
        if (symbol.st_shndx != SHN_UNDEF && is_text(strings, symbol.st_name, name))
            return true;
    }
    return false;
}

static const char *check_symbols(const struct image *file, const ElfW(Ehdr) *header, const char *name)
{
    ElfW(Shdr) table, linked;
    struct image symbols, strings;
    for (unsigned i = 0; section(file, header, i, &table); i++) {
        if (table.sh_type != SHT_DYNSYM)
            continue;
        if (!section(file, header, table.sh_link, &linked) || !contents(file, &table, &symbols) || !contents(file, &linked, &strings))
            return "is damaged: its symbols lie outside of it";
        return defines(&symbols, &strings, name) ? NULL : "is not a PKCS#11 library: it has no C_GetFunctionList";
    }
    return "has no dynamic symbols";
}

/* The program this is part of: its header says what machine it is for. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

static bool is_for_this_machine(const ElfW(Ehdr) *header)
{
    return header->e_machine == __ehdr_start.e_machine && header->e_ident[EI_DATA] == __ehdr_start.e_ident[EI_DATA];
}

static const char *check(const struct image *file, const char *name)
{
    ElfW(Ehdr) header;
    const void *found = at(file, 0, sizeof header);
    if (!found || memcmp(found, ELFMAG, SELFMAG) != 0)
        return "is not a shared library";
    memcpy(&header, found, sizeof header);
    if (header.e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32))
        return "is a library for another word size";
    if (!is_for_this_machine(&header))
        return "is a library for another machine";
    if (header.e_type != ET_DYN || header.e_shentsize != sizeof(ElfW(Shdr)))
        return "is not a shared library";
    return check_symbols(file, &header, name);
}

static const char *check_descriptor(int fd, const char *name)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size <= 0)
        return "is not a regular file";
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return "cannot be read";
    struct image file = {bytes, (size_t)st.st_size};
    const char *unfit = check(&file, name);
    munmap(bytes, (size_t)st.st_size);
    return unfit;
}

const char *elf_lacks_symbol(const char *path, const char *symbol)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return "cannot be opened";
    const char *unfit = check_descriptor(fd, symbol);
    close(fd);
    return unfit;
}
