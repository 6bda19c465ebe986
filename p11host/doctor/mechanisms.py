"""Which mechanisms of a token can be carried only in part, and why.

Knows the tables. Must not know how the list was got.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from p11host.explain.entries import untold
from p11host.tables import Tables

UNKNOWN = "no row says what its parameter looks like: it is carried without one only"
UNDEFINED = "the standard does not say what its parameter looks like: it is carried without one only"


@dataclass(frozen=True, slots=True)
class Short:
    """A mechanism that is not carried with every parameter, by name or number, and why."""

    name: str
    reason: str


def shortcomings(tables: Tables, numbers: Iterable[int]) -> tuple[Short, ...]:
    """Return those of the mechanisms that are not carried whole."""
    return tuple(short for number in numbers for short in _short(tables, number))


def _short(tables: Tables, number: int) -> tuple[Short, ...]:
    row = tables.mechanism(number)
    if row is None:
        return (Short(f"{number:#x}", UNKNOWN),)
    if row.param == "undefined":
        return (Short(row.name, UNDEFINED),)
    fields = sorted(set(untold(tables, row)))
    if fields:
        return (Short(row.name, f"nothing says how long {', '.join(fields)} is: only NULL is carried there"),)
    return ()
