"""Pieces of C text. Knows C, nothing of Cryptoki."""

from __future__ import annotations

from collections.abc import Iterable

BANNER = "/* generated from specs/, do not edit */\n"


def declare(kind: str, name: str) -> str:
    """Return a declaration in C: ``declare("CK_BYTE[16]", "iv")`` is ``CK_BYTE iv[16]``."""
    base, bracket, count = kind.partition("[")
    return f"{base.rstrip('*')} {'*' * base.count('*')}{name}{bracket}{count}"


def header(name: str, body: Iterable[str]) -> str:
    """Return a header file with its guard."""
    guard = f"P11HOST_{name.upper().replace('.', '_')}"
    return "\n".join([BANNER + f"#ifndef {guard}", f"#define {guard}", "", *body, "", "#endif", ""])


def source(includes: Iterable[str], body: Iterable[str]) -> str:
    """Return a source file with its includes, each ``"x.h"`` or ``<x.h>``."""
    return "\n".join([BANNER, *(f"#include {name}" for name in includes), "", *body, ""])


def enum(rows: Iterable[str]) -> list[str]:
    """Return an anonymous enum."""
    return ["enum {", *(f"    {row}," for row in rows), "};"]


def array(declaration: str, rows: Iterable[str]) -> list[str]:
    """Return the definition of an array, one element a line."""
    return [f"{declaration} = {{", *(f"    {row}," for row in rows), "};", ""]


def cells(**values: object) -> str:
    """Return an initialiser with designators, without those whose value is "", 0, False or None."""
    used = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in values.items()
        if value
    }
    return f"{{{', '.join(f'.{key} = {value}' for key, value in used.items())}}}"
