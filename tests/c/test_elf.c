/* Looking into a library without loading it, whatever the file is. */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd_count.h"
#include "elf_symbols.h"
#include "test.h"

static const char symbol[] = "C_GetFunctionList";

static uint8_t *library;
static size_t library_size;

static void read_library(void)
{
    FILE *file = fopen(SAMPLE_PROVIDER, "rbe");
    expect(file != NULL);
    library = realloc(library, 1 << 20);
    library_size = fread(library, 1, 1 << 20, file);
    expect(library_size > sizeof(Elf64_Ehdr) && library_size < 1 << 20);
    fclose(file);
}

/* What is said of a file with these contents. */
static const char *verdict(const uint8_t *bytes, size_t len)
{
    char path[64];
    int fd = memfd_create("library", MFD_CLOEXEC);
    expect(fd >= 0);
    expect_number(len, write(fd, bytes, len));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const char *unfit = elf_lacks_symbol(path, symbol);
    close(fd);
    return unfit;
}

static const char *or_fit(const char *unfit)
{
    return unfit ? unfit : "fit";
}

static void a_provider_is_fit(void)
{
    expect_text("fit", or_fit(elf_lacks_symbol(SAMPLE_PROVIDER, symbol)));
    read_library();
    expect_text("fit", or_fit(verdict(library, library_size)));
}

static void a_library_without_the_symbol_is_not(void)
{
    static const char why[] = "is not a PKCS#11 library: it has no C_GetFunctionList";
    expect_text(why, or_fit(elf_lacks_symbol(SAMPLE_ALMOST, symbol)));
    expect_text(why, or_fit(elf_lacks_symbol(SAMPLE_USER, symbol)));
}

static void what_is_no_library_is_not(void)
{
    static const struct {
        const char *path, *why;
    } rows[] = {
        {"/nowhere/at/all.so", "cannot be opened"},
        {"", "cannot be opened"},
        {"/", "is not a regular file"},
        {"/dev/null", "is not a regular file"},
        {"/proc/self/status", "is not a regular file"}, /* of size 0 */
        {"/etc/passwd", "is not a shared library"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_case("%s", rows[i].path);
        expect_text(rows[i].why, or_fit(elf_lacks_symbol(rows[i].path, symbol)));
    }
}

static void a_pipe_is_not_waited_for(void)
{
    char directory[] = "/tmp/test_elf.XXXXXX", path[64];
    expect(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/fifo", directory);
    expect_number(0, mkfifo(path, 0600));
    const char *unfit = elf_lacks_symbol(path, symbol);
    unlink(path);
    rmdir(directory);
    expect_text("is not a regular file", or_fit(unfit));
}

static void an_empty_file_is_not(void)
{
    expect_text("is not a regular file", or_fit(verdict((const uint8_t *)"", 0)));
    expect_text("is not a shared library", or_fit(verdict((const uint8_t *)"\x7f" "ELF", 4)));
    expect_text("is not a shared library", or_fit(verdict((const uint8_t *)"#!/bin/sh\nexit 0\n", 17)));
}

/* A library is whole or it is not: cut anywhere, it never seems fit unless all that matters is still there. */
static void truncated_libraries_are_not(void)
{
    read_library();
    const char *last = "fit";
    for (size_t len = library_size; len > 0; len -= len > 400 ? 37 : 1) {
        test_case("%zu of %zu bytes", len, library_size);
        const char *now = or_fit(verdict(library, len));
        expect(strcmp(last, "fit") == 0 || strcmp(now, "fit") != 0);
        last = now;
    }
    expect_text("is not a shared library", last);
}

/* A byte that is wrong, in the header or in the sections' headers: any answer is good, but there is one. */
static void damaged_libraries_are_survived(void)
{
    static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
    read_library();
    const Elf64_Ehdr *header = (const void *)library;
    size_t sections = header->e_shoff, end = sections + (size_t)header->e_shnum * sizeof(Elf64_Shdr);
    expect(end <= library_size);
    for (size_t at = 0; at < end; at = at + 1 == sizeof *header ? sections : at + 1)
        for (size_t i = 0; i < sizeof values; i++) {
            uint8_t before = library[at];
            test_case("byte %zu is 0x%02x", at, values[i]);
            library[at] = values[i];
            verdict(library, library_size);
            library[at] = before;
        }
}

static void libraries_of_another_word_size_are_not(void)
{
    Elf32_Ehdr header = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_DYN, .e_machine = EM_386, .e_version = EV_CURRENT, .e_ehsize = sizeof header, .e_shentsize = sizeof(Elf32_Shdr),
    };
    uint8_t file[4096] = {0};
    memcpy(file, &header, sizeof header);
    expect_text("is a library for another word size", or_fit(verdict(file, sizeof file)));
}

static Elf64_Ehdr *header_of_library(void)
{
    read_library();
    return (void *)library;
}

static void libraries_for_another_machine_are_not(void)
{
    header_of_library()->e_machine = EM_SPARCV9;
    expect(verdict(library, library_size) != NULL);
    header_of_library()->e_ident[EI_DATA] = ELFDATA2MSB;
    expect(verdict(library, library_size) != NULL);
}

static void programs_are_not(void)
{
    header_of_library()->e_type = ET_EXEC;
    expect_text("is not a shared library", or_fit(verdict(library, library_size)));
    header_of_library()->e_type = ET_REL;
    expect_text("is not a shared library", or_fit(verdict(library, library_size)));
    header_of_library()->e_type = ET_CORE;
    expect_text("is not a shared library", or_fit(verdict(library, library_size)));
}

static void a_library_without_sections_is_not(void)
{
    header_of_library()->e_shnum = 0;
    expect_text("has no dynamic symbols", or_fit(verdict(library, library_size)));
}

static void nothing_stays_open(void)
{
    unsigned before = open_descriptors();
    elf_lacks_symbol(SAMPLE_PROVIDER, symbol);
    elf_lacks_symbol("/", symbol);
    elf_lacks_symbol("/nowhere", symbol);
    expect_number(before, open_descriptors());
}

static const struct test tests[] = {
    TEST(a_provider_is_fit, "a library that defines C_GetFunctionList is fit"),
    TEST(a_library_without_the_symbol_is_not, "one that only has a similar name, or only uses it, is not"),
    TEST(what_is_no_library_is_not, "missing files, directories, devices and texts are told apart"),
    TEST(a_pipe_is_not_waited_for, "a pipe that nobody writes to is not waited for"),
    TEST(an_empty_file_is_not, "empty and tiny files are refused"),
    TEST(truncated_libraries_are_not, "a truncated library is refused, wherever it ends"),
    TEST(damaged_libraries_are_survived, "no damage to a library's headers is followed out of the file"),
    TEST(libraries_of_another_word_size_are_not, "a 32-bit library is refused as such"),
    TEST(libraries_for_another_machine_are_not, "a library for another machine is refused"),
    TEST(programs_are_not, "programs, objects and cores are no libraries"),
    TEST(a_library_without_sections_is_not, "a library whose symbols cannot be found is refused"),
    TEST(nothing_stays_open, "the file is closed again"),
};

TEST_MAIN(tests)
