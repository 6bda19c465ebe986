"""All that is wrong with a vendor's rows, not the first of it alone.

Knows which rows lean on which, by the names in them: of what leans on a wrong row nothing can be told. Must
not know what a row may say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .source import Source, TableError
from .vendor import SECTIONS, overlay

if TYPE_CHECKING:
    from . import Tables

MOST = 20
"""Faults of one module that are told at once."""

_WORD = re.compile(r"@?\w+")
_Data = dict[str, Any]


@dataclass
class Wrong:
    """What has been found so far in a module's rows."""

    faults: list[TableError] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    """Of rows that are wrong, and of those that lean on them; of a context with its @."""

    @property
    def full(self) -> bool:
        """Whether it is enough."""
        return len(self.faults) >= MOST


def overlay_right(base: Tables, source: Source, wrong: Wrong) -> Tables:
    """Return ``base`` with those of a vendor's rows that are right; faults of the others go to ``wrong``."""
    known = {*base.types.base, *base.structs, *base.constants}
    first = len(wrong.faults)
    data = dict(source.data)
    found = None
    while found is None and not wrong.full:
        _drop_leaning(data, wrong.names)
        try:
            found = overlay(base, replace(source, data=data))
        except TableError as error:
            wrong.faults.append(error)
            if not _drop(data, error.path[len(source.prefix) :], wrong.names):
                break
            wrong.names -= known
    wrong.faults[first:] = sorted(wrong.faults[first:], key=lambda fault: fault.line)
    return found or base


def _drop(data: _Data, path: tuple[str, ...], names: set[str]) -> bool:
    """Drop the row that a fault is in. False if that is none of these."""
    depth = len(path) if path[:1] == ("constants",) else 2
    *tables, key = path[:depth] or ("",)
    rows = data
    for table in tables:
        rows[table] = dict(rows[table])
        rows = rows[table]
    if key not in rows:
        return False
    if tables:
        names.update(_names(path[0], key, rows.pop(key)))
    else:
        rows[key] = {}
    return True


def _drop_leaning(data: _Data, names: set[str]) -> None:
    """Drop every row with one of the names in it, and then what leans on that."""
    before = -1
    while before != len(names):
        before = len(names)
        for section in SECTIONS:
            rows = data[section]
            if section != "constants" and isinstance(rows, dict):
                data[section] = {
                    key: row for key, row in rows.items() if not _leans(section, key, row, names)
                }


def _leans(section: str, name: str, row: Any, names: set[str]) -> bool:
    """Tell whether a row has one of the names in it, and so has its own among them from now on."""
    if names.isdisjoint(_words(section, name, row)):
        return False
    names.update(_names(section, name, row))
    return True


def _names(section: str, name: str, row: Any) -> Iterator[str]:
    """Yield what other rows call a row: of types that are named for a basic one, these."""
    if section == "types":
        yield from (each for each in row if isinstance(each, str)) if isinstance(row, list) else ()
    else:
        yield f"@{name}" if section == "contexts" else name


def _words(section: str, name: str, row: Any) -> Iterator[str]:
    yield from _names(section, name, row)
    yield from row if section == "unions" and isinstance(row, dict) else ()
    for text in _texts(row):
        yield from _WORD.findall(text)


def _texts(row: Any) -> Iterator[str]:
    if isinstance(row, str):
        yield row
    for inner in row.values() if isinstance(row, dict) else row if isinstance(row, list) else ():
        yield from _texts(inner)
