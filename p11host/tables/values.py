"""Constants, attributes and limits: specs/constants.toml, attributes.toml and limits.toml.

Knows names and numbers; nothing of functions or structs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .source import SINCE, VENDOR, Source

ATTRIBUTE_KINDS = ("bytes", "bool", "ulong", "ulongs", "template", "date", "version", "vendor")
"""What the value of an attribute is."""


@dataclass(frozen=True)
class Constant:
    """One named number."""

    name: str
    value: int
    """-1 is all ones, whatever the width of CK_ULONG."""
    since: str
    kind: str
    """ckr, ckf, cko, …"""
    domain: str
    """Where numbers of a kind are unique only within one: ``token`` for flags of CK_TOKEN_INFO; else ""."""


@dataclass(frozen=True)
class Attribute:
    """One CKA name."""

    name: str
    value: int
    also: int | None
    """A second number for the same attribute."""
    since: str
    kind: str
    """One of ATTRIBUTE_KINDS."""
    type: str
    """As the standard calls it."""
    shown: bool
    """A trace may show the value."""


@dataclass(frozen=True)
class Limits:
    """Every limit, by its name in limits.toml."""

    limits: Mapping[str, int]
    deadlines: Mapping[str, int]
    """Milliseconds, 0 for none."""


def _constant(source: Source, path: tuple[str, ...], row: object) -> Constant:
    """Read one constant. Its path is KIND.NAME or KIND.DOMAIN.NAME."""
    kind, domain = path[0], path[1] if len(path) > 2 else ""
    if isinstance(row, dict):
        row = source.row(path, row, "value since")
        return Constant(path[-1], source.number(path, row["value"]), source.since(path, row), kind, domain)
    since = VENDOR if source.defaults else SINCE[0]
    return Constant(path[-1], source.number(path, row), since, kind, domain)


def _rows(source: Source) -> Iterator[tuple[tuple[str, ...], object]]:
    """Return each constant with its path."""
    for kind in source.data:
        for name, row in source.table(kind).items():
            if isinstance(row, dict) and "value" not in row:
                yield from (((kind, name, inner), value) for inner, value in row.items())
            else:
                yield (kind, name), row


def load_constants(source: Source) -> Mapping[str, Constant]:
    """Return every constant by name. No two return values have one number."""
    constants: dict[str, Constant] = {}
    codes: dict[int, str] = {}
    for path, row in _rows(source):
        constant = _constant(source, path, row)
        if constant.name in constants:
            source.fail(path, "named twice")
        if constant.kind == "ckr" and codes.setdefault(constant.value, constant.name) != constant.name:
            source.fail(path, f"has the value of {codes[constant.value]}")
        constants[constant.name] = constant
    return constants


def add_constants(source: Source, known: Mapping[str, Constant]) -> Mapping[str, Constant]:
    """Return the known constants with those of a vendor: [constants]."""
    rows = source.part("constants")
    found = load_constants(rows)
    codes = {row.value: name for name, row in known.items() if row.kind == "ckr"}
    for name, row in found.items():
        path = tuple(word for word in (row.kind, row.domain, name) if word)
        if name in known:
            rows.fail(path, "is a constant already")
        if row.kind == "ckr" and row.value in codes:
            rows.fail(path, f"has the value of {codes[row.value]}")
    return {**known, **found}


def load_attributes(source: Source) -> Mapping[str, Attribute]:
    """Return every attribute by name. Two with one number are of one kind."""
    attributes: dict[str, Attribute] = {}
    numbers: dict[int, Attribute] = {}
    for name, values in source.data.items():
        path = (name,)
        row = source.row(path, values, "value since kind type", "also shown")
        attribute = Attribute(
            name=name,
            value=source.number(path, row["value"]),
            also=source.number(path, row["also"]) if "also" in row else None,
            since=source.since(path, row),
            kind=source.choice(path, "kind", row["kind"], ATTRIBUTE_KINDS),
            type=str(row["type"]),
            shown=source.flag(path, row, "shown", default=row["kind"] not in ("bytes", "vendor")),
        )
        for number in (attribute.value, attribute.also):
            if number is not None and numbers.setdefault(number, attribute).kind != attribute.kind:
                source.fail(path, f"has the value of {numbers[number].name}, but another kind")
        attributes[name] = attribute
    return attributes


def add_attributes(source: Source, known: Mapping[str, Attribute]) -> Mapping[str, Attribute]:
    """Return the known attributes with those of a vendor: [attributes].

    A row may say of a known attribute that it is of another kind, by its own name and number.
    """
    rows = source.part("attributes")
    found = load_attributes(rows)
    rows_known = list(known.items())[::-1]
    names = {number: name for name, row in rows_known for number in (row.value, row.also)}
    for name, row in found.items():
        if "shown" in rows.data[name]:
            rows.fail((name,), "'shown' is for the standard's attributes; leave it out")
        if name in known and known[name].value != row.value:
            rows.fail((name,), f"the value of {name} is {known[name].value:#x}")
        for number in (row.value, row.also):
            if name not in known and number is not None and number in names:
                rows.fail((name,), f"{number:#x} is {names[number]}: give it that name to change its kind")
    return {**known, **found}


def load_limits(source: Source) -> Limits:
    """Return the limits and the deadlines."""
    for section in ("limits", "deadlines"):
        for name, value in source.table(section).items():
            if source.number((section, name), value) < 0:
                source.fail((section, name), f"expected a number of at least 0, not {value}")
    return Limits(source.table("limits"), source.table("deadlines"))
