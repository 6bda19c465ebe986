"""Choices: one builder makes many cases, by what it chooses at each point where it can.

Knows nothing of what is chosen. A builder calls `choose` with a name and what there is to choose from, the
usual first; `variants` runs it again and again until every alternative, and every pair of them, was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar

T = TypeVar("T")
Made = TypeVar("Made")
Picks = Mapping[str, int]


@dataclass
class Choices:
    """What to take where it is not the usual, and what there was to choose from."""

    picks: Picks = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)

    def choose(self, name: str, options: Sequence[T]) -> T:
        """Return one of the options, the first unless the picks say otherwise."""
        self.points[name] = len(options)
        return options[min(self.picks.get(name, 0), len(options) - 1)]

    def flag(self, name: str) -> bool:
        """Return True, or False where the picks say so."""
        return self.choose(name, (True, False))


def pairs(points: Mapping[str, int]) -> Iterator[Picks]:
    """Return picks in which every two alternatives meet at least once."""
    alternatives = [(name, i) for name, count in points.items() for i in range(1, count)]
    todo = [(a, b) for a, b in combinations(alternatives, 2) if a[0] != b[0]]
    while todo:
        picks: dict[str, int] = {}
        left = []
        for pair in todo:
            if all(picks.get(name, i) == i for name, i in pair):
                picks.update(pair)
            else:
                left.append(pair)
        todo = left
        yield picks


def variants(make: Callable[[Choices], Made], *, paired: bool = True) -> Iterator[Made]:
    """Return what a builder makes: the usual, with each alternative alone, and with every pair of them."""
    usual = Choices()
    yield make(usual)
    seen = dict(usual.points)
    for name, count in usual.points.items():
        for i in range(1, count):
            single = Choices({name: i})
            yield make(single)
            # Behind some alternatives stand other choices.
            inner = {key: many for key, many in single.points.items() if key not in seen}
            seen |= inner
            for key, many in inner.items():
                yield from (make(Choices({name: i, key: j})) for j in range(1, many))
    if paired:
        yield from (make(Choices(picks)) for picks in pairs(usual.points))
