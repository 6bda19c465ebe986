"""The limits of the protocol, read from specs/limits.toml, where each stands once.

Knows where that file is installed. Must not know what anybody does with a limit.
"""

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
#: Installed beside the package's modules, or in the source tree beside the package.
_PLACES = (_PACKAGE / "specs" / "limits.toml", _PACKAGE.parent / "specs" / "limits.toml")


@dataclass(frozen=True, slots=True)
class Limits:
    """Section `[limits]`: lengths in bytes, all others are counts."""

    name: int
    hello: int
    depth: int
    nesting: int
    bytes: int
    message: int
    elements: int
    modules: int
    slots: int
    channels: int
    narrow_bytes: int
    narrow_channels: int


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Section `[deadlines]`: how long a call of each patience may take, in milliseconds; 0 is for ever."""

    short: int
    long: int
    forever: int
    start: int


@cache
def limits() -> Limits:
    """Return the limits both peers of the protocol keep."""
    table = _read()["limits"]
    return Limits(**{field.name: table[field.name] for field in fields(Limits)})


@cache
def deadlines() -> Deadlines:
    """Return the deadlines of a module whose configuration sets none."""
    table = _read()["deadlines"]
    return Deadlines(**{field.name: table[field.name] for field in fields(Deadlines)})


@cache
def _read() -> dict[str, dict[str, int]]:
    place = next((place for place in _PLACES if place.exists()), _PLACES[0])
    with place.open("rb") as file:
        return tomllib.load(file)
