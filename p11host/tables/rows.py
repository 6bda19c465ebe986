"""A vendor's rows as both ends of a call get them: PROTOCOL.md section 8, as values for MessagePack.

Knows that form and what of the tables goes into it. Computes no offsets: each end lays structs
out for its own width of CK_ULONG.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .source import SINCE
from .structs import parents

if TYPE_CHECKING:
    from . import Tables
    from .mechanisms import Choice, Mechanism
    from .structs import Field, Length, Struct

_WALKED = ("ulong", "bool", "ulongs", "template")
"""Attributes that are more than bytes to whoever carries them."""


def pack(tables: Tables, base: Tables) -> list[Any]:
    """Return what ``tables`` have and ``base`` has not; empty if nothing that has to be carried."""
    mechanisms = [row for name, row in tables.mechanisms.items() if base.mechanisms.get(name) is not row]
    attributes = [row for name, row in tables.attributes.items() if base.attributes.get(name) is not row]
    found = [
        [
            _struct(tables, row)
            for name, row in tables.structs.items()
            if row.layout and name not in base.structs
        ],
        [row for name in tables.structs if name in base.structs for row in _lengths(tables, base, name)],
        list({row.value: _mechanism(tables, row) for row in mechanisms}.values()),
        [
            [value, row.kind if row.kind in _WALKED else "bytes"]
            for row in attributes
            for value in (row.value, row.also)
            if value is not None
        ],
    ]
    return found if any(found) else []


def _place(struct: Struct, name: str) -> int:
    """Return the index of a field."""
    return [field.name for field in struct.fields].index(name)


def _struct(tables: Tables, struct: Struct) -> list[Any]:
    return [struct.name, [_field(tables, struct, field) for field in struct.fields]]


def _field(tables: Tables, struct: Struct, field: Field) -> list[Any]:
    length = _length(tables, struct, field.length) if field.length else field.array or None
    return [field.kind, "late" if field.late else field.direction, length, _type(tables, struct, field)]


def _length(tables: Tables, struct: Struct, length: Length) -> list[Any]:
    if length.unit == "parent bits":
        # The first that holds it; in the others it lies at the same place.
        holder = next(row for row in parents(tables.structs, struct.name) if row.layout)
        return [length.unit, _place(holder, length.field)]
    if length.unit == "fixed":
        return [length.unit, length.count]
    return [length.unit, _place(struct, length.field)] if length.field else [length.unit]


def _type(tables: Tables, struct: Struct, field: Field) -> Any:
    if field.kind in ("struct", "structs"):
        base = tables.structs[field.base]
        return base.alias or base.name
    if field.kind != "union":
        return None
    variants = []
    for tag, value in tables.unions[struct.name].variants.items():
        is_struct = value in tables.structs
        name = value if is_struct else None
        variants.append([tables.constants[tag].value, "struct" if is_struct else value, name])
    return [_place(struct, field.tag), variants]


def _lengths(tables: Tables, base: Tables, name: str) -> Iterator[list[Any]]:
    """Yield the lengths that a standard struct got."""
    struct = tables.structs[name]
    for index, (field, before) in enumerate(zip(struct.fields, base.structs[name].fields, strict=True)):
        if field.length and field.length != before.length:
            yield [name, index, _length(tables, struct, field.length)]


def _mechanism(tables: Tables, row: Mechanism) -> list[Any]:
    return [row.value, _choices(tables, row), row.output or None]


def _choices(tables: Tables, mechanism: Mechanism) -> list[Any]:
    if not mechanism.contextual:
        return [_choice(tables, "any", choice) for choice in mechanism.choices["plain"]]
    rows = mechanism.choices.items()
    return [_choice(tables, context, choice) for context, choices in rows for choice in choices]


def _choice(tables: Tables, context: str, choice: Choice) -> list[Any]:
    struct = "CK_VERSION" if choice.kind == "version" else choice.struct
    probe = [_place(tables.structs[struct], choice.probe), choice.probe_max] if choice.probe else None
    detail: Any = struct or ([choice.size, choice.output] if choice.kind == "bytes" else None)
    return [context, "struct" if struct else choice.kind, detail, probe]


def is_vendors(row: Any) -> bool:
    """Tell whether a row is no standard's."""
    return row.since not in SINCE
