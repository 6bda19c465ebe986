"""How often something may change before it is called flapping, and looked at once in a while only.

Knows numbers and a clock that is never set. Must not know what changes.
"""

from dataclasses import dataclass

#: Changes in a row that are each seen at once, how many more there may be a second, and seconds of a rest.
MOST, PER_SECOND, REST = 64.0, 10.0, 1.0


@dataclass
class Pace:
    """Of one reader. `now` is always a time of the monotonic clock."""

    left: float = MOST
    at: float = 0.0
    until: float = 0.0
    flapping: bool = False

    def change(self, now: float) -> bool:
        """Note a change; return whether flapping begins with it."""
        self._fill(now)
        self.left -= 1
        if self.left >= 1:
            return False
        self.until = now + REST
        begins, self.flapping = not self.flapping, True
        return begins

    def is_calm(self, now: float) -> bool:
        """Return whether flapping ends: nothing has changed for long enough."""
        self._fill(now)
        if not self.flapping or self.left < MOST:
            return False
        self.flapping = False
        return True

    def calm_at(self, now: float) -> float | None:
        """Return when flapping ends if nothing changes until then; None if there is none."""
        return now + (MOST - self.left) / PER_SECOND if self.flapping else None

    def _fill(self, now: float) -> None:
        self.left = min(MOST, self.left + max(0.0, now - self.at) * PER_SECOND)
        self.at = now
