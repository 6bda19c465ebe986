/* Looks into a shared library without loading it: loading runs its constructors. */
#ifndef P11HOST_ELF_SYMBOLS_H
#define P11HOST_ELF_SYMBOLS_H

/* NULL if the file is a shared library of this machine's kind that defines `symbol`; else why it is not. */
const char *elf_lacks_symbol(const char *path, const char *symbol);

#endif
