"""layouts_check.c: static assertions that the C compiler lays structs out as specs/sizes.toml says."""

from __future__ import annotations

from collections.abc import Iterator

from p11host.tables import Struct, Tables, parents

from .text import source

_WIDTHS = {"lp64": 8, "ilp32": 4}
"""Bytes of a CK_ULONG."""


def _assert(condition: str, name: str) -> str:
    return f'_Static_assert({condition}, "{name}");'


def _abi(tables: Tables, abi: str) -> Iterator[str]:
    """Return assertions that hold wherever a CK_ULONG has another width."""
    other = f"sizeof(CK_ULONG) != {_WIDTHS[abi]} ||"
    for name, size in tables.sizes[abi].items():
        yield _assert(f"{other} sizeof({name}) == {size.size}", name)
        for field, offset in zip(tables.structs[name].fields, size.offsets, strict=True):
            yield _assert(f"{other} offsetof({name}, {field.name}) == {offset}", f"{name}.{field.name}")


def _parents(tables: Tables, struct: Struct) -> Iterator[str]:
    """Return assertions that a length in the enclosing struct has one offset in each that may enclose."""
    for field in struct.fields:
        if field.length and field.length.unit == "parent bits":
            holders = parents(tables.structs, struct.name)
            first, *others = (f"offsetof({holder.name}, {field.length.field})" for holder in holders)
            yield from (_assert(f"{first} == {other}", f"{struct.name}.{field.name}") for other in others)


def layouts_check_c(tables: Tables) -> str:
    """Return the assertions for every width of CK_ULONG."""
    return source(
        ["<stddef.h>", '"cryptoki.h"'],
        [
            *(line for abi in _WIDTHS for line in _abi(tables, abi)),
            *(line for struct in tables.structs.values() for line in _parents(tables, struct)),
        ],
    )
