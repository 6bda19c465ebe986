"""The limits of the protocol by name and type, from the table in which each stands once.

Knows which limits Python keeps. Must not know what anybody does with one.
"""

from dataclasses import dataclass, fields
from functools import cache

from p11host.tables import read_limits


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
    module_slots: int
    channels: int
    narrow_bytes: int
    narrow_channels: int
    rows: int
    profile: int
    view: int
    broken: int
    struct: int
    text: int
    reason: int
    report: int
    reported: int
    told: int
    traced: int
    pin: int
    generations: int
    line: int
    ports: int


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Section `[deadlines]`: how long a call of each patience may take, in milliseconds; 0 is for ever."""

    short: int
    long: int
    forever: int
    start: int
    list: int
    broker: int
    grace: int
    look: int
    watch: int


@cache
def limits() -> Limits:
    """Return the limits both peers of the protocol keep."""
    table = read_limits().limits
    return Limits(**{field.name: table[field.name] for field in fields(Limits)})


@cache
def deadlines() -> Deadlines:
    """Return the deadlines of a module whose configuration sets none."""
    table = read_limits().deadlines
    return Deadlines(**{field.name: table[field.name] for field in fields(Deadlines)})
