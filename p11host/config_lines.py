"""On which line of a TOML file each of its keys stands, which no TOML parser of Python tells.

Knows statements of TOML, which it lets tomllib find. Must not know what a key means.
"""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

Location = tuple[str, ...]


def locate(text: str) -> Mapping[Location, int]:
    """Return the line, from 1, on which each table and key of the valid TOML `text` begins."""
    lines: dict[Location, int] = {}
    table: Location = ()
    for number, statement in _statements(text):
        parsed = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = _header(parsed)
            found = [table[:depth] for depth in range(1, len(table) + 1)]
        else:
            found = [(*table, *key) for key in _keys(parsed)]
        for location in found:
            lines.setdefault(location, number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement with the line it begins on: the fewest lines that are TOML by themselves."""
    start, gathered = 1, ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        gathered += line
        if _is_toml(gathered):
            yield start, gathered
            start, gathered = number + 1, ""


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _header(parsed: Mapping[str, Any]) -> Location:
    """Return the table that a header, parsed alone, opens: the one path down to where nothing follows."""
    location: Location = ()
    while isinstance(parsed, dict) and parsed:
        key, parsed = next(iter(parsed.items()))
        location = (*location, key)
    return location


def _keys(parsed: Mapping[str, Any]) -> Iterator[Location]:
    """Yield the path of every key, those of tables in braces too."""
    for key, value in parsed.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _keys(value))
