"""What is known of readers and cards, numbered change by change, and those who hear of each.

Knows scenes and numbers. Must not know threads, nor how anybody is told. Whoever subscribes has the state as
it was after one number, and then hears of every number that follows.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from p11host.cards.codes import CardError
from p11host.cards.reader import Change, Scene, changes

#: Changes that are kept for those who come back, and that may wait for one who is slow.
KEPT = 1024


@dataclass(frozen=True, slots=True)
class Numbered:
    """A change and its number."""

    number: int
    change: Change

    def told(self) -> dict[str, Any]:
        """Return it as a control channel carries it."""
        change = self.change
        said: dict[str, Any] = {"sequence": self.number, "change": change.kind}
        if change.reader is not None:
            said["reader"] = change.reader.told()
        if change.kind == "service":
            said["service"] = service(change.error)
        if change.missed:
            said["missed"] = change.missed
        return said


class Subscription:
    """One who hears of changes. `overrun`: of too many to wait for him; he must come back."""

    def __init__(self) -> None:
        self._waiting: deque[Numbered] = deque()
        self._some = asyncio.Event()
        self.overrun = False

    def put(self, numbered: Numbered) -> None:
        """Note a change for him."""
        self.overrun = self.overrun or len(self._waiting) >= KEPT
        if not self.overrun:
            self._waiting.append(numbered)
        self._some.set()

    async def take(self) -> Numbered | None:
        """Return the next change once there is one; None after an overrun."""
        while not self._waiting and not self.overrun:
            self._some.clear()
            await self._some.wait()
        return self._waiting.popleft() if self._waiting else None


class Board:
    """The state after the last number. `heard` is called with every change."""

    def __init__(self, heard: Callable[[Change], None]) -> None:
        self._heard = heard
        self._scene = Scene({}, None)
        #: Above any number of a broker before this one: nobody counts faster than microseconds go by.
        self._number = time.monotonic_ns() // 1000
        self._history: deque[Numbered] = deque(maxlen=KEPT)
        self._subscriptions: set[Subscription] = set()
        self._seen = asyncio.Event()

    def see(self, scene: Scene) -> None:
        """Take over what a look has shown."""
        before, self._scene = self._scene, scene
        self._seen.set()
        for change in changes(before, scene):
            self._number += 1
            numbered = Numbered(self._number, change)
            self._history.append(numbered)
            for subscription in self._subscriptions:
                subscription.put(numbered)
            self._heard(change)

    async def seen(self, seconds: float) -> bool:
        """Return whether anything has been seen, at once or within some seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._seen.wait()
        except TimeoutError:
            return False
        return True

    def snapshot(self, since: int | None) -> dict[str, Any]:
        """Return the state and its number; with `since`, the changes after that too, if all are known."""
        said: dict[str, Any] = {
            "sequence": self._number,
            "service": service(self._scene.error) if self._seen.is_set() else "unknown",
            "readers": [reader.told() for reader in self._scene.readers.values()],
        }
        if since is None:
            return said
        missing = self._since(since)
        if missing is None:
            return said | {"complete": False}
        return said | {"complete": True, "changes": [numbered.told() for numbered in missing]}

    def subscribe(self) -> Subscription:
        """Let somebody hear of every change from now on."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell him no more."""
        self._subscriptions.discard(subscription)

    def _since(self, number: int) -> Iterable[Numbered] | None:
        """Return the changes after a number, None if some of them are forgotten or were another broker's."""
        kept = self._history[0].number if self._history else self._number + 1
        if not kept - 1 <= number <= self._number:
            return None
        return [numbered for numbered in self._history if numbered.number > number]


def service(error: CardError | None) -> str:
    """Return in a word how PC/SC does: "ok", or its name of what is wrong."""
    return "ok" if error is None else error.name
