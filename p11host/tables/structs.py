"""Structs, their fields and tagged unions: specs/structs.toml and specs/sizes.toml.

Knows the grammar of a field; computes no offsets (the C compiler does) and knows nothing of mechanisms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .source import Source

BYTE, ULONG = "CK_BYTE", "CK_ULONG"
"""The two basic types: all others but structs are names for them."""

CLASSES = ("core", "info", "param", "nested", "signature", "deprecated", "unused", "alias")
"""What a struct is for."""

UNION_VALUES = ("ulong", "handle", "bool", "byte", "bytes")
"""What a tagged pointer may point to, if it is no struct."""

ABIS = ("lp64", "ilp32")
"""Tables of sizes.toml."""

_FIELD = re.compile(
    r"(?P<name>\w+) +(?P<base>\w+)(?P<star>\*?)(?:\[(?P<array>\d+)\])?"
    r"(?: +\[(?P<length>[^\]]+)\])?(?: +by (?P<tag>\w+))?(?: +(?P<direction>in|out|inout|late))?"
)
_LENGTH = re.compile(r"(?P<sign>[*^]?)(?P<name>[A-Za-z]\w*)(?: (?P<unit>bits|bytes\|bits))?")
_UNITS = {
    ("", ""): "field",
    ("", "bits"): "bits",
    ("", "bytes|bits"): "bytes|bits",
    ("*", ""): "deref",
    ("^", "bits"): "parent bits",
}
_LOCAL_TYPES = ("CK_CREATEMUTEX", "CK_DESTROYMUTEX", "CK_LOCKMUTEX", "CK_UNLOCKMUTEX")
_VALUE_KINDS = {"CK_OBJECT_HANDLE": "object", "CK_SLOT_ID": "slot"}
_POINTER_KINDS = {
    "void": "bytes",
    "CK_OBJECT_HANDLE": "object*",
    "CK_ATTRIBUTE": "template",
    "CK_MECHANISM": "mechanism",
}
_ONE = ("ulong*", "object*", "mechanism")
"""Pointers to one value."""
_INPUTS = ("template", "mechanism", "union")
"""Pointers to what no provider writes."""


@dataclass(frozen=True)
class Length:
    """How much a pointer field points to."""

    unit: str
    """fixed, field, bits, bytes|bits, deref, parent bits, nul or unknown."""
    field: str = ""
    """Name of the field that says it."""
    count: int = 0
    """Bytes or elements of a ``fixed``."""


@dataclass(frozen=True)
class Field:
    """One field of a struct."""

    name: str
    kind: str
    """Inline: ulong, object, slot, byte, fixed, struct. Pointer: bytes, structs, ulong*, object*, template,
    mechanism, union. Never carried: local."""
    base: str
    """The type without pointer and array."""
    pointer: bool
    array: int
    """Elements of an inline array, 0 if it is none."""
    length: Length | None
    """None unless it is a pointer."""
    direction: str
    """in, out or inout."""
    tag: str
    """Name of the field that types a ``union``."""
    late: bool = False
    """An input that a provider may write in a later call of the operation."""

    @property
    def type(self) -> str:
        """The C type, ``CK_BYTE*`` or ``CK_BYTE[16]``."""
        return self.base + ("*" if self.pointer else "") + (f"[{self.array}]" if self.array else "")


@dataclass(frozen=True)
class Struct:
    """One struct, or another name for one."""

    name: str
    kind: str
    """One of CLASSES."""
    since: str
    fields: tuple[Field, ...]
    layout: bool
    """Can be carried as a struct."""
    alias: str
    """The struct it is another name for."""

    def field(self, name: str) -> Field | None:
        """Return the field of that name."""
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True)
class Union:
    """What the tagged pointer of a struct may point to."""

    struct: str
    field: str
    """The pointer."""
    tag: str
    """The CK_ULONG that types it."""
    variants: Mapping[str, str]
    """By the constant in the tag: one of UNION_VALUES or a struct. Any other tag is bytes."""


@dataclass(frozen=True)
class Size:
    """What a C compiler must find."""

    size: int
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Types:
    """The names of CK_BYTE and CK_ULONG, themselves among them."""

    base: Mapping[str, str]

    def value_kind(self, name: str) -> str:
        """Return the kind of a field of that type, "" if it is neither number nor byte."""
        return _VALUE_KINDS.get(name) or {BYTE: "byte", ULONG: "ulong"}.get(self.base.get(name, ""), "")

    def pointer_kind(self, name: str) -> str:
        """Return the kind of a pointer to that type, "" if it is neither number, byte nor template."""
        return _POINTER_KINDS.get(name) or {BYTE: "bytes", ULONG: "ulong*"}.get(self.base.get(name, ""), "")


def _types(source: Source, known: Mapping[str, str]) -> Types:
    """Read [types], which adds to the known ones."""
    base = dict(known)
    for basic, names in source.table("types").items():
        path = ("types", basic)
        if basic not in (BYTE, ULONG):
            source.fail(path, f"expected {BYTE} or {ULONG}")
        for name in source.strings(path, "types", names):
            if name in base:
                source.fail(path, f"type {name} is named twice", item=f'"{name}"')
            base[name] = basic
    return Types(base)


@dataclass(frozen=True)
class _Reader:
    """Reads structs.toml, one struct after the other: a struct may use those above it."""

    source: Source
    types: Types
    structs: dict[str, Struct] = field(default_factory=dict)

    def struct(self, name: str) -> Struct:
        """Read one struct."""
        path = (name,)
        row = self.source.row(path, self.source.data[name], "class since", "fields layout alias")
        struct = Struct(
            name=name,
            kind=self.source.choice(path, "class", row["class"], CLASSES),
            since=self.source.since(path, row),
            fields=(),
            layout=self.source.flag(path, row, "layout", default=True),
            alias="",
        )
        if "alias" in row:
            if row["alias"] not in self.structs or "fields" in row:
                wanted = f"alias: expected a struct above and no fields, not {row['alias']!r}"
                self.source.fail(path, wanted)
            alias = self.structs[row["alias"]]
            return replace(struct, fields=alias.fields, layout=False, alias=alias.name)
        texts = self.source.strings(path, "fields", row.get("fields"))
        fields = tuple(self.field(path, text, layout=struct.layout) for text in texts)
        struct = replace(struct, fields=fields)
        self.check_names(path, struct)
        return struct

    def completed(self, name: str) -> Struct:
        """Return a struct that is known already, with the lengths that nothing said so far."""
        path, struct, row = (name,), self.structs[name], self.source.data[name]
        if not isinstance(row, dict) or row.keys() - {"lengths"}:
            self.source.fail(
                path, "is a struct already; of such a one only lengths = { FIELD = LENGTH } can be given"
            )
        read = {field.name: field for field in struct.fields}
        for key, length in self.source.table(name, "lengths").items():
            where = (name, "lengths", key)
            if key not in read:
                self.source.fail(where, f"no field of {name}{self.source.near(key, read)}")
            known = read[key].length
            if known is None or known.unit != "unknown":
                self.source.fail(where, "its length is known: only one that is [?] can be given")
            if not isinstance(length, str) or length == "?" or length.startswith("^"):
                self.source.fail(where, f'expected a length, "=32" or the name of a field, not {length!r}')
            read[key] = replace(read[key], length=self.length(where, key, length))
        struct = replace(struct, fields=tuple(read.values()))
        self.check_names(path, struct)
        return struct

    def field(self, path: tuple[str, ...], text: str, *, layout: bool) -> Field:
        """Read one field. A struct that is never carried may hold what the grammar cannot describe."""
        found = _FIELD.fullmatch(text)
        if not found:
            wanted = f"{text!r}: expected NAME TYPE [LENGTH] [by TAG] [out|inout|late]"
            self.source.fail(path, wanted, item=text)
        read = Field(
            name=found["name"],
            kind="local",
            base=found["base"],
            pointer=bool(found["star"]),
            array=int(found["array"] or 0),
            length=self.length(path, text, found["length"]) if found["length"] else None,
            direction="in" if found["direction"] in (None, "late") else found["direction"],
            tag=found["tag"] or "",
            late=found["direction"] == "late",
        )
        kind = self.kind(read)
        if not kind:
            near = self.source.near(read.base, [*self.types.base, *self.structs])
            self.source.fail(path, f"{text!r}: unknown type {read.base}{found['star']}{near}", item=text)
        if not layout and (kind == "local" or (read.pointer and not read.length)):
            return read
        if kind == "local":
            self.source.fail(path, f"{text!r}: {read.type} cannot be carried: layout = false", item=text)
        if read.pointer != (read.length is not None):
            self.source.fail(path, f"{text!r}: a pointer, and nothing else, has a length", item=text)
        if read.late and kind != "bytes":
            self.source.fail(path, f"{text!r}: only a pointer to bytes can be late", item=text)
        self.check_extent(path, text, replace(read, kind=kind))
        return replace(read, kind=kind)

    def check_extent(self, path: tuple[str, ...], text: str, read: Field) -> None:
        """Check that a field says what can be carried: pointers to one number, not to several."""
        length = read.length
        if (
            length
            and read.kind in _ONE
            and length.unit != "unknown"
            and (length.unit, length.count) != ("fixed", 1)
        ):
            self.source.fail(path, f"{text!r}: a pointer to one {read.base} has the length [=1]", item=text)
        if length and length.unit in ("nul", "parent bits") and read.kind != "bytes":
            self.source.fail(path, f"{text!r}: only bytes can have this length", item=text)
        if length and length.unit == "fixed" and not 0 < length.count < 1 << 16:
            self.source.fail(path, f"{text!r}: expected a length of 1 to 65535", item=text)
        if read.direction != "in" and read.kind in _INPUTS:
            self.source.fail(path, f"{text!r}: a {read.kind} is no output", item=text)

    def kind(self, read: Field) -> str:
        """Return the kind of a field, "" where its type is unknown."""
        if read.base in _LOCAL_TYPES:
            return "local"
        if read.tag:
            return "union" if read.pointer and read.base == "void" else ""
        if read.pointer:
            return self.types.pointer_kind(read.base) or ("structs" if read.base in self.structs else "")
        if read.array:
            return {"byte": "fixed", "ulong": "local"}.get(self.types.value_kind(read.base), "")
        return self.types.value_kind(read.base) or ("struct" if read.base in self.structs else "")

    def length(self, path: tuple[str, ...], text: str, length: str) -> Length:
        """Read what stands in the brackets behind a pointer."""
        if length in ("nul", "?"):
            return Length("nul" if length == "nul" else "unknown")
        if length[0] == "=" and length[1:].isdigit():
            return Length("fixed", count=int(length[1:]))
        found = _LENGTH.fullmatch(length)
        unit = _UNITS.get((found["sign"], found["unit"] or "")) if found else None
        if not found or not unit:
            self.source.fail(path, f"{text!r}: unknown length [{length}]", item=text)
        return Length(unit, found["name"])

    def check_names(self, path: tuple[str, ...], struct: Struct) -> None:
        """Check that names differ, and that every length and tag names a CK_ULONG (or a pointer to one)."""
        seen: set[str] = set()
        for read in struct.fields:
            item = f'"{read.name} '
            if read.name in seen:
                self.source.fail(path, f"two fields are named {read.name!r}", item=item)
            seen.add(read.name)
            if read.tag and read.tag not in seen:
                self.source.fail(path, f"{read.name}: expected the field {read.tag!r} above it", item=item)
            wanted = {read.tag: "ulong"} if read.tag else {}
            if read.length and read.length.unit in ("field", "bits", "bytes|bits", "deref"):
                wanted[read.length.field] = "ulong*" if read.length.unit == "deref" else "ulong"
            for name, kind in wanted.items():
                other = struct.field(name)
                if not other or other.kind != kind:
                    self.source.fail(path, f"{read.name}: expected a {kind} field {name!r}", item=item)


def parents(structs: Mapping[str, Struct], name: str) -> tuple[Struct, ...]:
    """Return the structs that hold or point to the struct ``name``."""
    found = (struct for struct in structs.values() if any(field.base == name for field in struct.fields))
    return tuple(struct for struct in found if not struct.alias)


def _check_parents(source: Source, structs: Mapping[str, Struct]) -> None:
    """Check that a length in the enclosing struct is in each that may enclose."""
    for struct in structs.values():
        for read in struct.fields:
            if not read.length or read.length.unit != "parent bits":
                continue
            name, holders = read.length.field, parents(structs, struct.name)
            if not holders or not all(holder.field(name) for holder in holders):
                wanted = f"{read.name}: expected a field {name!r} in every struct that holds this one"
                source.fail((struct.name,), wanted, item=f'"{read.name} ')


def _union(source: Source, structs: Mapping[str, Struct], tags: Mapping[str, int], name: str) -> Union:
    """Read one table of [unions]."""
    path, row = ("unions", name), source.table("unions", name)
    tagged = next((read for read in structs[name].fields if read.tag), None) if name in structs else None
    if not tagged:
        source.fail(path, "expected a struct with a field that says 'by TAG'")
    seen: dict[int, str] = {}
    for tag, value in row.items():
        if tag not in tags:
            source.fail((*path, tag), "expected a name in constants.toml")
        if tags[tag] in seen:
            source.fail((*path, tag), f"has the value of {seen[tags[tag]]}")
        seen[tags[tag]] = tag
        if value not in UNION_VALUES and not (value in structs and structs[value].layout):
            source.fail((*path, tag), f"expected {', '.join(UNION_VALUES)} or a struct, not {value!r}")
    return Union(name, tagged.name, tagged.tag, row)


def _check_unions(source: Source, structs: Mapping[str, Struct], unions: Mapping[str, Union]) -> None:
    """Check that for each struct with a tagged pointer it is said what that points to."""
    for struct in structs.values():
        if struct.name not in unions and any(read.tag for read in struct.fields):
            source.fail((struct.name,), f"expected a table [unions.{struct.name}]")


def load_structs(
    source: Source, tags: Mapping[str, int]
) -> tuple[Types, Mapping[str, Struct], Mapping[str, Union]]:
    """Return types, structs in an order that C can declare, and unions by struct.

    ``tags`` are all constants by name.
    """
    reader = _Reader(source, _types(source, {BYTE: BYTE, ULONG: ULONG}))
    for name in source.data:
        if name not in ("types", "unions"):
            reader.structs[name] = reader.struct(name)
    structs = reader.structs
    _check_parents(source, structs)
    unions = {name: _union(source, structs, tags, name) for name in source.table("unions")}
    _check_unions(source, structs, unions)
    return reader.types, structs, unions


def add_structs(
    source: Source,
    tags: Mapping[str, int],
    types: Types,
    structs: Mapping[str, Struct],
    unions: Mapping[str, Union],
) -> tuple[Types, Mapping[str, Struct], Mapping[str, Union]]:
    """Return the known types, structs and unions with those of a vendor: [types], [structs] and [unions]."""
    rows = source.part("structs")
    reader = _Reader(rows, _types(source, types.base), dict(structs))
    for name in rows.data:
        reader.structs[name] = reader.completed(name) if name in structs else reader.struct(name)
    _check_parents(rows, reader.structs)
    for name in source.table("unions"):
        if name in unions:
            source.fail(("unions", name), "is a union already")
    found = {name: _union(source, reader.structs, tags, name) for name in source.table("unions")}
    all_unions = {**unions, **found}
    _check_unions(rows, reader.structs, all_unions)
    return reader.types, reader.structs, all_unions


def load_sizes(source: Source, structs: Mapping[str, Struct]) -> Mapping[str, Mapping[str, Size]]:
    """Return sizes and offsets by ABI and struct."""
    sizes: dict[str, dict[str, Size]] = {abi: {} for abi in ABIS}
    for abi, found in sizes.items():
        for name, values in source.table(abi).items():
            path = (abi, name)
            row = source.row(path, values, "size offsets")
            offsets = row["offsets"] if isinstance(row["offsets"], list) else []
            if name not in structs:
                source.fail(path, "no such struct in structs.toml")
            if len(offsets) != len(structs[name].fields):
                source.fail(path, f"offsets: expected {len(structs[name].fields)}, one for each field")
            numbers = tuple(source.number(path, offset) for offset in offsets)
            found[name] = Size(source.number(path, row["size"]), numbers)
        for name in structs.keys() - found.keys():
            source.fail((abi,), f"expected a row for {name}")
    return sizes
