"""Who is served: applications, and the helpers that run for them.

Knows pids and names. Must not know sockets or tasks; it only keeps the list.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from p11host.errors import P11HostError
from p11host.limits import limits


@dataclass(frozen=True, slots=True)
class Caller:
    """A process that opened a channel. `door` tells it from a later one with its pid; pid 0 is unknown.

    `uid` and `groups` are of whoever connected, which a process forked from it may no longer have.
    """

    door: int
    pid: int
    uid: int
    program: str
    channel: int
    groups: frozenset[int] = frozenset()

    @property
    def key(self) -> tuple[int, int]:
        """Return what all channels of a process share. Of an unknown process each channel stands alone."""
        return self.door, self.pid or -self.channel


@dataclass(frozen=True, slots=True)
class Running:
    """A helper that has not ended. `served` tells the pids of those who share it, if it is shared.

    `generation`: which of that module's it is for its application, from 1. `born` is a time of the
    monotonic clock; `answered` tells how many calls it has answered.
    """

    module: str
    pid: int
    served: Callable[[], list[int]] | None = None
    generation: int = 1
    born: float = 0.0
    answered: Callable[[], int] | None = None


@dataclass(slots=True)
class Application:
    """A process that asked for helpers and has some, or may ask again."""

    caller: Caller
    helpers: list[Running] = field(default_factory=list)


class Applications:
    """The applications that have helpers."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Application] = {}

    def __bool__(self) -> bool:
        """Tell whether any helper runs."""
        return bool(self._known)

    def check_room(self, caller: Caller, module: str) -> None:
        """Raise P11HostError if the caller has as many helpers of `module` alive as one application may."""
        application = self._known.get(caller.key)
        alive = Counter(helper.module for helper in application.helpers)[module] if application else 0
        if alive >= limits().generations:
            raise P11HostError(
                f"{alive} helpers of module {module} still run for process {caller.pid}; end some of them"
            )

    def add(self, caller: Caller, helper: Running) -> None:
        """Note that `helper` was started for `caller`."""
        self._known.setdefault(caller.key, Application(caller)).helpers.append(helper)

    def remove(self, caller: Caller, helper: Running) -> None:
        """Note that `helper` has ended."""
        application = self._known[caller.key]
        application.helpers.remove(helper)
        if not application.helpers:
            del self._known[caller.key]

    def seen_by(self, uid: int, *, privileged: bool) -> Iterator[Application]:
        """Yield the applications that a caller of `uid` may know of: its own, all for who is `privileged`."""
        for application in self._known.values():
            if privileged or application.caller.uid == uid:
                yield application


class Quota:
    """What each user may hold of the broker's descriptors, so that none takes those of the others."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._held: Counter[int] = Counter()

    def take(self, uid: int, count: int) -> bool:
        """Take `count` descriptors for `uid`; False, and nothing taken, if that is more than its share."""
        if self._held[uid] + count > self._share:
            return False
        self._held[uid] += count
        return True

    def give(self, uid: int, count: int) -> None:
        """Give back what was taken."""
        self._held[uid] -= count
        if not self._held[uid]:
            del self._held[uid]
