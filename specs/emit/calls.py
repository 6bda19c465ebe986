"""entries.c and invoke.c: both ends of a call, the application's and the provider's."""

from __future__ import annotations

from collections.abc import Iterator

from p11host.tables import Function, Tables

from .header import LISTS, in_list, parameters
from .text import declare, header, source

_ENTRIES_H = """\
#include "cryptoki.h"

/* To be given to applications: the functions of the standard, those of 3.0 too, those of 3.2 too. */"""

_INVOKE_H = """\
#include <stdint.h>

#include "cryptoki.h"

struct provider;

/*
 * Calls the provider's function with its C arguments as words and returns what it returned, or
 * CKR_FUNCTION_NOT_SUPPORTED if the provider lacks it or it is one that is never sent.
 */
CK_RV invoke(const struct provider *p, unsigned fn, const uintptr_t *words);"""


def _our(name: str) -> str:
    """Return the name of our own function list of a type."""
    return f"function_list_{LISTS[name].replace('.', '_')}"


def entries_h(_: Tables) -> str:
    """Return the declarations of our function lists."""
    return header("entries.h", [_ENTRIES_H, *(f"extern const {name} {_our(name)};" for name in LISTS)])


def _entry(function: Function) -> Iterator[str]:
    words = ", ".join(f"(uintptr_t){name}" for _, name in function.words)
    yield f"EXPORT CK_RV {function.name}({parameters(function)})"
    yield "{"
    yield f"    uintptr_t words[] = {{{words}}};"
    yield f"    return call(FN_{function.name}, words);"
    yield "}"
    yield ""


def _list(tables: Tables, name: str) -> Iterator[str]:
    yield f"const {name} {_our(name)} = {{"
    yield f"    .version = {{{LISTS[name].replace('.', ', ')}}},"
    yield from (f"    .{function.name} = {function.name}," for function in in_list(tables, name))
    yield "};"
    yield ""


def entries_c(tables: Tables) -> str:
    """Return the exported functions that are sent on, and our function lists. local.c has the others."""
    entries = (line for f in tables.functions.values() if not f.local for line in _entry(f))
    lists = (line for name in LISTS for line in _list(tables, name))
    return source(['"entries.h"', "<stdint.h>", '"call.h"'], [*entries, *lists])


def invoke_h(_: Tables) -> str:
    """Return the declaration of the one function of invoke.c."""
    return header("invoke.h", [_INVOKE_H])


def _case(function: Function) -> Iterator[str]:
    place = f"p->list.{function.name}"
    words = ", ".join(
        f"({declare(kind, '').strip()})words[{pos}]" for pos, (kind, _) in enumerate(function.words)
    )
    yield f"    case FN_{function.name}:"
    yield f"        if ({place} == NULL)"
    yield "            break;"
    yield f"        return {place}({words});"


def invoke_c(tables: Tables) -> str:
    """Return the call of a provider's function."""
    cases = (line for f in tables.functions.values() if not f.local for line in _case(f))
    return source(
        ['"invoke.h"', "<stddef.h>", '"provider.h"'],
        [
            "CK_RV invoke(const struct provider *p, unsigned fn, const uintptr_t *words)",
            "{",
            "    switch (fn) {",
            *cases,
            "    default:",
            "        break;",
            "    }",
            "    return CKR_FUNCTION_NOT_SUPPORTED;",
            "}",
        ],
    )
