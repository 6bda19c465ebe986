"""Where the fields of a struct lie on Unix: natural alignment, one width of CK_ULONG and pointer.

Knows alignment. The C compiler does the same for specs/structs.toml, and a vendor's rows are laid out by both
ends when they get them; here it is for whoever reads the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .structs import BYTE, Field, Size, Struct, Types

WIDTHS = {"lp64": 8, "ilp32": 4}
"""Bytes of a CK_ULONG, and of a pointer, by ABI."""


@dataclass(frozen=True)
class _Place:
    """What a value takes."""

    size: int
    align: int


@dataclass(frozen=True)
class _Ruler:
    """Measures the structs of one set of tables for one ABI."""

    types: Types
    structs: Mapping[str, Struct]
    width: int

    def field(self, field: Field) -> _Place:
        """Measure one field."""
        if not field.pointer and field.base in self.structs:
            size, align = self.struct(self.structs[field.base])
            return _Place(size.size, align)
        is_byte = not field.pointer and self.types.base.get(field.base) == BYTE
        unit = 1 if is_byte else self.width
        return _Place(unit * (field.array or 1), unit)

    def struct(self, struct: Struct) -> tuple[Size, int]:
        """Measure one struct; return its alignment too."""
        at, align, offsets = 0, 1, []
        for field in struct.fields:
            place = self.field(field)
            at = _round_up(at, place.align)
            offsets.append(at)
            at, align = at + place.size, max(align, place.align)
        return Size(_round_up(at, align), tuple(offsets)), align


def _round_up(at: int, align: int) -> int:
    return (at + align - 1) // align * align


def measure(types: Types, structs: Mapping[str, Struct], struct: Struct, abi: str) -> Size:
    """Return size and offsets of a struct for an ABI of WIDTHS."""
    return _Ruler(types, structs, WIDTHS[abi]).struct(struct)[0]
