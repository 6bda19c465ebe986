"""The life of a process that forks: specs/life.toml.

Knows states, events and what a call returns in each. Knows nothing of helpers, channels or how a fork is
noticed. No C is made from it: it is what the shim is tested against, and what docs/fork.md tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .source import Source
from .values import Constant

CALLS = ("C_Initialize", "C_Finalize", "call")
"""Events that are calls, but for those with a handle."""

HANDLES = ("session", "object")
"""What a handle is of. An event with one is called ``session.own``, ``object.past``, …"""

_STEP = re.compile(r"(CKR_\w+)(?: -> (\w+))?")


@dataclass(frozen=True)
class Step:
    """What an event does."""

    rv: str
    """The name of the CK_RV."""
    state: str
    """What the process is then."""


@dataclass(frozen=True)
class Life:
    """The states of a process, what happens to it, and what follows."""

    modes: Mapping[str, bool]
    """By the value of a module's ``fork``: whether a child shares its parent's helper."""
    states: Mapping[str, str]
    """By name, what each means. A program begins as the first."""
    origins: Mapping[str, str]
    """By name, where a handle comes from."""
    steps: Mapping[tuple[str, str, str], Step]
    """By mode, state and event; what is not there cannot happen."""
    forks: Mapping[str, str]
    """By what a process is at a fork, what its child is."""

    @property
    def first(self) -> str:
        """What a program is when it begins."""
        return next(iter(self.states))

    @property
    def events(self) -> tuple[str, ...]:
        """Every event that can happen somewhere, in order."""
        known = [*CALLS, *(f"{handle}.{origin}" for handle in HANDLES for origin in self.origins)]
        found = {event for _, _, event in self.steps}
        return tuple(event for event in known if event in found)

    def step(self, mode: str, state: str, event: str) -> Step | None:
        """Return what an event does; None where it cannot happen."""
        return self.steps.get((mode, state, event))


@dataclass(frozen=True)
class _Reader:
    """Reads the rows of [life]."""

    source: Source
    codes: frozenset[str]
    modes: tuple[str, ...]
    states: tuple[str, ...]
    origins: tuple[str, ...]

    def state(self, name: str) -> Iterator[tuple[tuple[str, str, str], Step]]:
        """Return every step from a state."""
        path = ("life", name)
        row = self.source.row(path, self.source.table(*path), " ".join([*CALLS, "fork"]), " ".join(HANDLES))
        for event in CALLS:
            yield from self.steps((*path, event), name, event, row[event])
        for handle in HANDLES:
            known = " ".join(self.origins)
            for origin, value in self.source.row((*path, handle), row.get(handle, {}), "", known).items():
                yield from self.steps((*path, handle, origin), name, f"{handle}.{origin}", value)

    def fork(self, name: str) -> str:
        """Return what a child is of a process in that state."""
        path = ("life", name, "fork")
        return self.source.choice(path, "child", self.source.table(*path[:2])["fork"], self.states)

    def steps(
        self, path: tuple[str, ...], state: str, event: str, value: object
    ) -> Iterator[tuple[tuple[str, str, str], Step]]:
        """Return what one row says of each mode that it is about."""
        row = value if isinstance(value, dict) else dict.fromkeys(self.modes, value)
        for mode, text in self.source.row(path, row, "", " ".join(self.modes)).items():
            yield (mode, state, event), self.step(path, state, text)

    def step(self, path: tuple[str, ...], state: str, text: object) -> Step:
        """Read what is returned and what the process is then."""
        found = _STEP.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            self.source.fail(path, f"expected 'CKR_NAME [-> STATE]', not {text!r}")
        rv, after = found[1], found[2] or state
        if rv not in self.codes:
            self.source.fail(path, f"{rv} is no return value{self.source.near(rv, self.codes)}")
        return Step(rv, self.source.choice(path, "then", after, self.states))


def _names(source: Source, section: str) -> dict[str, str]:
    """Return a section whose values say what its keys mean."""
    rows = source.table(section)
    for name, text in rows.items():
        if not isinstance(text, str):
            source.fail((section, name), f"expected what it means, not {text!r}")
    return rows


def _modes(source: Source) -> dict[str, bool]:
    rows = {name: source.row(("modes", name), row, "shares") for name, row in source.table("modes").items()}
    return {name: source.flag(("modes", name), row, "shares", default=False) for name, row in rows.items()}


def _check_named(source: Source, states: Mapping[str, str]) -> None:
    lives = source.table("life")
    for name in lives:
        if name not in states:
            source.fail(("life", name), f"no such state{source.near(name, states)}")
    for name in states:
        if name not in lives:
            source.fail(("states", name), f"expected a table [life.{name}]")


def _check_reached(source: Source, life: Life) -> None:
    """Every state is one that some process can be in."""
    reached = {life.first} | {step.state for (_, state, _), step in life.steps.items() if step.state != state}
    reached |= {child for state, child in life.forks.items() if child != state}
    for name in life.states:
        if name not in reached:
            source.fail(("states", name), "no row leads there")


def load_life(source: Source, constants: Mapping[str, Constant]) -> Life:
    """Return the life of a process."""
    source.row((), source.data, "modes states origins life")
    modes, states, origins = _modes(source), _names(source, "states"), _names(source, "origins")
    _check_named(source, states)
    codes = frozenset(each.name for each in constants.values() if each.kind == "ckr")
    reader = _Reader(source, codes, tuple(modes), tuple(states), tuple(origins))
    steps = dict(step for name in states for step in reader.state(name))
    forks = {name: reader.fork(name) for name in states}
    life = Life(modes, states, origins, steps, forks)
    _check_reached(source, life)
    return life
