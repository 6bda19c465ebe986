"""A reader as PC/SC tells of it, and what changed between two looks.

Knows the bits of dwEventState. Must not know where a look comes from, nor who wants to hear of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from p11host.cards.codes import CardError

#: Of dwCurrentState and dwEventState.
UNAWARE, CHANGED, UNKNOWN, UNAVAILABLE = 0x00, 0x02, 0x04, 0x08
EMPTY, PRESENT, EXCLUSIVE, IN_USE, MUTE = 0x10, 0x20, 0x80, 0x100, 0x200
_COUNT_SHIFT, _COUNT_MASK = 16, 0xFFFF
_FAULTS = {UNAVAILABLE: "unavailable", MUTE: "mute"}
#: What PC/SC answers to one more who wants the card, by the state it has told.
_ERRORS = {
    UNAVAILABLE: "SCARD_E_READER_UNAVAILABLE",
    MUTE: "SCARD_W_UNRESPONSIVE_CARD",
    EXCLUSIVE: "SCARD_E_SHARING_VIOLATION",
}

Kind = Literal["added", "gone", "inserted", "removed", "used", "fault", "flapping", "calm", "service"]
#: What may make a token come, go or be another. Who uses a card is none of it: looking at a card uses it.
MOVES: frozenset[Kind] = frozenset({"added", "gone", "inserted", "removed", "fault", "service"})


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader at one look. `count` is how many times a card has come or gone in it, by PC/SC's counter."""

    name: str
    state: int = EMPTY
    atr: bytes = b""
    flapping: bool = False

    @property
    def present(self) -> bool:
        """Whether there is a card."""
        return bool(self.state & PRESENT)

    @property
    def count(self) -> int:
        """How many cards have come or gone, modulo 65536."""
        return self.state >> _COUNT_SHIFT & _COUNT_MASK

    @property
    def counts(self) -> bool:
        """Whether the count is one: PC/SC gives none of a reader that it gets no answer from."""
        return not self.state & (UNKNOWN | UNAVAILABLE)

    @property
    def use(self) -> str | None:
        """Who has the card: one program for itself, some that share it, or nobody."""
        if not self.present:
            return None
        return "exclusive" if self.state & EXCLUSIVE else "shared" if self.state & IN_USE else None

    @property
    def fault(self) -> str | None:
        """What is wrong with reader or card, None if nothing is known to be."""
        return next((fault for bit, fault in _FAULTS.items() if self.state & bit), None)

    @property
    def error(self) -> str | None:
        """PC/SC's name of what keeps others from reader or card, None if nothing is known to."""
        return next((name for bit, name in _ERRORS.items() if self.state & bit), None)

    def emptied(self) -> "Reader":
        """Return it without its card."""
        return replace(self, state=self.state & ~(PRESENT | EXCLUSIVE | IN_USE | MUTE) | EMPTY, atr=b"")

    def told(self) -> dict[str, Any]:
        """Return it as a control channel carries it."""
        name = self.name.encode(errors="surrogateescape")
        said: dict[str, Any] = {"name": name, "card": self.present, "atr": self.atr, "count": self.count}
        said |= {"use": self.use, "fault": self.fault, "error": self.error, "flapping": self.flapping}
        return {key: value for key, value in said.items() if value not in (None, False, b"") or key == "card"}


@dataclass(frozen=True, slots=True)
class Scene:
    """All that one look shows. `error` is why there is nothing to see."""

    readers: Mapping[str, Reader]
    error: CardError | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened. `reader` is as it was afterwards, None where it is about the service.

    `missed` cards came or went besides, too fast to be seen one by one.
    """

    kind: Kind
    reader: Reader | None = None
    error: CardError | None = None
    missed: int = 0


def changes(before: Scene, after: Scene) -> Iterator[Change]:
    """Yield what happened between two looks, in an order in which it may have happened."""
    for name in before.readers.keys() - after.readers.keys():
        yield from _gone(before.readers[name])
    if type(before.error) is not type(after.error):
        yield Change("service", error=after.error)
    for name, reader in after.readers.items():
        earlier = before.readers.get(name)
        yield from _came(reader) if earlier is None else _between(earlier, reader)


def _gone(reader: Reader) -> Iterator[Change]:
    if reader.present:
        yield Change("removed", reader.emptied())
    yield Change("gone", reader.emptied())


def _came(reader: Reader) -> Iterator[Change]:
    yield Change("added", reader if not reader.present else reader.emptied())
    if reader.present:
        yield Change("inserted", reader)


def _between(before: Reader, after: Reader) -> Iterator[Change]:
    """Yield what happened in a reader: a counter that went on by two is a card that was away in between."""
    counted = after.count - before.count & _COUNT_MASK if before.counts and after.counts else 0
    moves = list(_moves(before, after, moved=counted > 0))
    missed = max(counted - len(moves), 0)
    for place, change in enumerate(moves):
        yield replace(change, missed=missed) if place == len(moves) - 1 else change
    if not moves and before.fault != after.fault:
        yield Change("fault", after)
    elif not moves and before.use != after.use:
        yield Change("used", after)
    if before.flapping != after.flapping:
        yield Change("flapping" if after.flapping else "calm", after)


def _moves(before: Reader, after: Reader, *, moved: bool) -> Iterator[Change]:
    if before.present and (not after.present or moved or before.atr != after.atr):
        yield Change("removed", after.emptied())
    if not before.present and not after.present and moved:
        yield Change("inserted", replace(after, state=after.state & ~EMPTY | PRESENT))
        yield Change("removed", after)
    if after.present and (not before.present or moved or before.atr != after.atr):
        yield Change("inserted", after)
