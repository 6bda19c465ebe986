"""A vendor's rows laid over the standard's: the same tables, more of them.

Knows the sections of such rows: each is in the grammar of the file of specs/ it is named after. Must not know
where the rows come from, nor how they reach those who carry calls (rows.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .layout import WIDTHS, measure
from .mechanisms import add_mechanisms
from .source import VENDOR, Source
from .structs import Size, Struct, Types, add_structs, parents
from .values import add_attributes, add_constants

if TYPE_CHECKING:
    from . import Tables

SECTIONS = ("structs", "types", "unions", "mechanisms", "contexts", "attributes", "constants")
"""What a vendor may have rows in. Types and unions stand in structs.toml, contexts in mechanisms.toml."""

DEFAULTS = {"since": VENDOR, "class": "param", "type": ""}
"""Keys that a vendor's rows need not have."""

_STANDARD_DEPTH = 4
_CLASSES = ("param", "nested", "alias")


def vendor_source(
    name: str,
    text: str,
    data: Mapping[str, Any],
    lines: Mapping[tuple[str, ...], int],
    prefix: tuple[str, ...],
) -> Source:
    """Return the rows that stand in a file at ``prefix``. ``lines`` are the file's, by whole path."""
    depth = len(prefix)
    return Source(
        name=name,
        data={section: data.get(section, {}) for section in SECTIONS},
        rows=tuple(text.splitlines()),
        lines={path[depth:]: line for path, line in lines.items() if path[:depth] == prefix},
        prefix=prefix,
        defaults=DEFAULTS,
    )


def overlay(base: Tables, source: Source) -> Tables:
    """Return ``base`` with a vendor's rows; TableError for the first wrong one."""
    for section in SECTIONS:
        source.table(section)
    constants = add_constants(source, base.constants)
    tags = {row.name: row.value for row in constants.values()}
    types, structs, unions = add_structs(source, tags, base.types, base.structs, base.unions)
    sizes = {abi: _sizes(types, structs, base.sizes[abi], abi) for abi in WIDTHS}
    found = replace(base, types=types, structs=structs, unions=unions, sizes=sizes)
    _check(source.part("structs"), base, found)
    return replace(
        found,
        mechanisms=add_mechanisms(source, structs, base.mechanisms),
        attributes=add_attributes(source, base.attributes),
        constants=constants,
    )


def _sizes(
    types: Types, structs: Mapping[str, Struct], known: Mapping[str, Size], abi: str
) -> Mapping[str, Size]:
    added = {
        name: measure(types, structs, struct, abi) for name, struct in structs.items() if name not in known
    }
    return {**known, **added}


def _check(source: Source, base: Tables, tables: Tables) -> None:
    """Check what a C compiler, and a limit, would have to say of new structs."""
    limits, structs, sizes = base.limits.limits, tables.structs, tables.sizes
    for name, struct in structs.items():
        if base.structs.get(name) is struct:
            continue
        if len(name.encode()) > limits["name"]:
            source.fail((name,), f"a name of more than {limits['name']} bytes")
        if struct.kind not in _CLASSES:
            source.fail((name,), f"class: expected one of {', '.join(_CLASSES)}, not {struct.kind!r}")
        if not 0 < len(struct.fields) <= limits["fields"]:
            source.fail(
                (name,), f"{len(struct.fields)} fields; expected at least 1 and at most {limits['fields']}"
            )
        size = sizes["lp64"][name].size
        if size > limits["struct"]:
            source.fail((name,), f"is {size} bytes long; at most {limits['struct']} are allowed")
        depth = _depth(tables, name)
        if depth > limits["nesting"] + 1:
            most = limits["nesting"] + 1
            source.fail((name,), f"structs inside one another {depth} deep; at most {most} are allowed")
        _check_outputs(source, structs, struct)
    for struct in structs.values():
        _check_parents(source, structs, sizes, struct)


def _depth(tables: Tables, name: str) -> int:
    """Return how many structs stand inside one another, itself among them. The standard's are shallow."""
    struct = tables.structs[name]
    if struct.since != VENDOR:
        return _STANDARD_DEPTH
    inner = {field.base for field in struct.fields if field.kind in ("struct", "structs")}
    if name in tables.unions:
        inner |= {value for value in tables.unions[name].variants.values() if value in tables.structs}
    return 1 + max((_depth(tables, each) for each in inner), default=0)


def _check_outputs(source: Source, structs: Mapping[str, Struct], struct: Struct) -> None:
    """Check that no length is something a provider writes: the caller has none to give there."""
    for field in struct.fields:
        if field.kind == "slot":
            wanted = f"{field.name}: a slot in a parameter cannot be carried"
            source.fail((struct.name,), wanted, item=f'"{field.name} ')
        said = struct.field(field.length.field) if field.length else None
        if said and said.direction == "out":
            wanted = f"{field.name}: {said.name!r} is an output, so nothing says how long it is"
            source.fail((struct.name,), wanted, item=f'"{field.name} ')
        if field.kind != "structs" or field.direction != "out":
            continue
        lengths = [inner.length for inner in structs[field.base].fields if inner.length]
        if any(length.unit not in ("fixed", "parent bits", "nul", "unknown") for length in lengths):
            wanted = (
                f"{field.name}: {field.base} has lengths of its own, so it cannot be output only; say inout"
            )
            source.fail((struct.name,), wanted, item=f'"{field.name} ')


def _check_parents(
    source: Source, structs: Mapping[str, Struct], sizes: Mapping[str, Mapping[str, Size]], struct: Struct
) -> None:
    """Check that a length in the enclosing struct is at one offset in each that may enclose."""
    for field in struct.fields:
        if not field.length or field.length.unit != "parent bits":
            continue
        found = {}
        for holder in parents(structs, struct.name):
            place = [read.name for read in holder.fields].index(field.length.field)
            found[tuple(sizes[abi][holder.name].offsets[place] for abi in sizes)] = holder.name
        if len(found) > 1:
            *_, last = found.values()
            wanted = f"{field.length.field!r} is not where the other structs have it that hold {struct.name}"
            source.fail((last,), wanted)
