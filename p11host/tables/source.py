"""One TOML file of specs/ and the line on which each of its rows stands.

Knows TOML and line numbers, nothing of what the rows mean. Uses the standard library alone, because the
build imports it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from p11host.text import nearest

if TYPE_CHECKING:
    from pathlib import Path

SINCE = ("2.40", "3.0", "3.1", "3.2")
"""Versions of the standard, oldest first."""

VENDOR = "vendor"
"""What stands in the place of a version in a row that is no standard's."""

_TABLE = re.compile(r"\[\s*([\w.-]+)\s*\]")
_KEY = re.compile(r"""\s*["']?([\w-]+)["']?\s*=""")
_BARE = re.compile(r"[\w-]+")
_TOML_LINE = re.compile(r"line (\d+)")


class TableError(Exception):
    """A table that says something impossible: the fault of whoever wrote the row.

    ``str()`` is one line, ``specs/functions.toml:123: C_Sign: what was expected``.
    """

    def __init__(self, file: str, line: int, text: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(f"{file}:{line}: {text}")
        self.file = file
        self.line = line
        self.text = text
        self.path = path
        """Of the row in its file, as far as that is known."""


def _index(rows: tuple[str, ...]) -> dict[tuple[str, ...], int]:
    """Return the line of each table and key by its path of names. One row, one line: so specs/ is written."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(rows, 1):
        if found := _TABLE.match(line):
            table = tuple(found[1].split("."))
            lines.setdefault(table, number)
        elif found := _KEY.match(line):
            lines.setdefault((*table, found[1]), number)
    return lines


@dataclass(frozen=True)
class Source:
    """A parsed TOML file that can say where a row stands. A row is known by its path of names."""

    name: str
    """Directory and file, as errors name it."""
    data: dict[str, Any]
    rows: tuple[str, ...]
    """The lines of the file."""
    lines: Mapping[tuple[str, ...], int]
    prefix: tuple[str, ...] = ()
    """Where in its file ``data`` stands, if it is not the whole; ``lines`` are below it."""
    defaults: Mapping[str, Any] | None = None
    """Keys that every row may leave out. Only a vendor's rows have any."""

    @classmethod
    def read(cls, path: Path) -> Source:
        """Parse one file; TableError where it is missing or no TOML."""
        name = f"{path.parent.name}/{path.name}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(name, 0, f"cannot be read: {error}") from error
        rows = tuple(text.splitlines())
        try:
            return cls(name, tomllib.loads(text), rows, _index(rows))
        except tomllib.TOMLDecodeError as error:
            found = _TOML_LINE.search(str(error))
            raise TableError(name, int(found[1]) if found else len(rows), f"no TOML: {error}") from error

    def part(self, *path: str) -> Source:
        """Return the table at a path, empty where there is none, as a source of its own."""
        depth = len(path)
        lines = {key[depth:]: line for key, line in self.lines.items() if key[:depth] == path}
        data = self.table(*path) if path[0] in self.data else {}
        return replace(self, data=data, lines=lines, prefix=(*self.prefix, *path))

    def line(self, path: tuple[str, ...], item: str = "") -> int:
        """Return the line of a row, or of the string ``item`` in the array that begins there."""
        while path and path not in self.lines:
            path = path[:-1]
        start = self.lines.get(path, 1)
        if not item:
            return start
        return next((n for n in range(start, len(self.rows) + 1) if item in self.rows[n - 1]), start)

    def fail(
        self, path: tuple[str, ...], text: str, *, item: str = "", culprit: tuple[str, ...] = ()
    ) -> NoReturn:
        """Raise TableError at a row: one of specs/ is named by the last of its path, another by all of it.

        ``culprit`` is the path of what is wrong, where that is below the row.
        """
        row = self._dotted(path) if self.prefix or self.defaults else path[-1] if path else ""
        where = (*self.prefix, *(culprit or path))
        line = self.line(culprit or path, item)
        raise TableError(self.name, line, f"{row}: {text}" if row else text, where)

    def _dotted(self, path: tuple[str, ...]) -> str:
        keys = (*self.prefix, *path)
        return ".".join(key if _BARE.fullmatch(key) else f'"{key}"' for key in keys)

    def near(self, word: str, known: Iterable[str]) -> str:
        """Return ", did you mean …" for a fault that is a misspelling."""
        question = nearest(word, known)
        return f"; {question}" if question else ""

    def table(self, *path: str) -> dict[str, Any]:
        """Return the table at a path; TableError where there is none."""
        found: object = self.data
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            self.fail((), f"expected a table [{'.'.join(path)}]", culprit=path)
        return found

    def row(self, path: tuple[str, ...], row: object, required: str, optional: str = "") -> dict[str, Any]:
        """Return a row that has all ``required`` keys (words) and no others but ``optional`` ones."""
        known = f"{required} {optional}".split()
        if not isinstance(row, dict):
            self.fail(path, f"expected the keys {', '.join(required.split())}, not {row!r}")
        row = {key: value for key, value in (self.defaults or {}).items() if key in known} | row
        for key in required.split():
            if key not in row:
                self.fail(path, f"expected a key {key!r}")
        for key in row:
            if key not in known:
                asked = self.near(key, known) or f"; expected one of {', '.join(known)}"
                self.fail(path, f"unknown key {key!r}{asked}")
        return row

    def since(self, path: tuple[str, ...], row: dict[str, Any]) -> str:
        """Return the row's ``since``: one of SINCE, or VENDOR."""
        return self.choice(path, "since", row["since"], (*SINCE, VENDOR) if self.defaults else SINCE)

    def choice(self, path: tuple[str, ...], key: str, value: object, allowed: tuple[str, ...]) -> str:
        """Return a value that is one of ``allowed``."""
        if value not in allowed:
            self.fail(path, f"{key}: expected one of {', '.join(allowed)}, not {value!r}")
        return str(value)

    def number(self, path: tuple[str, ...], value: object) -> int:
        """Return a whole number that fits 64 bits, or -1."""
        if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < 1 << 64:
            self.fail(path, f"expected a number of at most 64 bits, not {value!r}")
        return value

    def flag(self, path: tuple[str, ...], row: dict[str, Any], key: str, *, default: bool) -> bool:
        """Return a key that is true or false."""
        value = row.get(key, default)
        if not isinstance(value, bool):
            self.fail(path, f"{key}: expected true or false, not {value!r}")
        return value

    def strings(self, path: tuple[str, ...], key: str, value: object) -> tuple[str, ...]:
        """Return an array of strings."""
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(path, f"{key}: expected an array of strings")
        return tuple(value)
