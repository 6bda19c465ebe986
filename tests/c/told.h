/* A call's arguments as words, and words as what a provider writes: how specs/vectors/calls.toml says both. */
#ifndef P11HOST_TOLD_H
#define P11HOST_TOLD_H

#include "operations.h"
#include "visit.h"

enum { TOLD = 4096 };

/* What a provider is given, leaf by leaf. */
void tell_given(const struct leaves *leaves, char text[TOLD]);

/* What a caller has in its outputs; "-" where that is still what tell_blank put there. */
void tell_outputs(const struct leaves *leaves, char text[TOLD]);
void tell_blank(const struct leaves *leaves);

/* Writes the outputs. False if the words are more or fewer than these. */
bool tell_write(const struct leaves *leaves, const char *words);

/* The same for what an operation's beginning left for later. */
bool tell_write_late(const struct recall *recall, const char *words);

#endif
