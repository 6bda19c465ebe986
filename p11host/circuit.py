"""When a module may have its next helper: at once, after a moment, or not for a while.

Knows what became of the helpers before, and the clock. Must not know processes.

Three things are held back. A module whose helpers die at once, again and again: its circuit opens, and there
are none for a while. An application whose helpers of a module die soon after one another: its next one
begins a little later. And one whose helpers of a module hang again has none of it for a while: it would wait
for each hang, and whoever looks at all slots waits often.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from p11host.errors import P11HostError
from p11host.obituary import Obituary

#: So many deaths at once in a row open the circuit.
OPENS_AFTER = 5
#: Seconds until the next start after the first death at once, which double with each more.
FIRST_PAUSE = 0.05
#: The same from when the circuit is open on, and the longest of these.
FIRST_REST, LONGEST_REST = 5.0, 300.0
#: A life of so many seconds is none that ended soon.
STEADY = 10.0
#: So many deaths soon after one another cost an application nothing; then a pause that doubles.
FREE_DEATHS, SHORT_PAUSE, LONGEST_PAUSE = 2, 0.01, 0.5

#: So many hangs, each within so many seconds of the last, cost an application no more than their own time.
FREE_HANGS, HANGS_TOGETHER = 1, 1200.0

#: So many applications are remembered; more, if all of them have had helpers that died just now.
MOST_APPLICATIONS = 1000

Key = tuple[int, str]


@dataclass(slots=True)
class Line:
    """Deaths in a row, what the last was, and when the next life may begin."""

    deaths: int = 0
    last: str = ""
    not_before: float = 0.0
    starts: int = 0
    touched: float = 0.0
    hangs: int = 0
    hung_at: float = 0.0
    rests_until: float = 0.0

    @property
    def is_open(self) -> bool:
        """Tell whether the circuit is open: after one more try that fails it rests longer."""
        return self.deaths >= OPENS_AFTER


@dataclass(frozen=True, slots=True)
class State:
    """A circuit for people: how many died at once, what the last died of, and seconds to the next try."""

    is_open: bool
    deaths: int
    last: str
    retry: float


class Circuits:
    """The circuits of a broker's modules, for each user its own: nobody opens another's."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._modules: dict[Key, Line] = {}
        self._applications: dict[tuple[int, int, str], Line] = {}

    def check(self, key: Key, application: tuple[int, int]) -> None:
        """Raise P11HostError, saying what to do, if the circuit is open or the module hung here just now."""
        self._check_hangs(key[1], self._applications.get((*application, key[1])))
        line, left = self._modules.get(key), self._left(self._modules.get(key))
        if line is not None and line.is_open and left > 0:
            raise P11HostError(
                f"{line.deaths} helpers of module {key[1]} died at once, the last by {line.last}; "
                f"the next try is in {left:.0f} s, or after: p11host restart {key[1]}"
            )

    def pause(self, key: Key, application: tuple[int, int]) -> float:
        """Return how many seconds the next helper of a module for this application is held back."""
        return max(
            self._left(self._modules.get(key)), self._left(self._applications.get((*application, key[1])))
        )

    def started(self, key: Key, application: tuple[int, int]) -> int:
        """Note that a life begins; return which it is in a row. One that tries an open circuit is alone."""
        line = self._modules.get(key)
        if line is not None and line.is_open:
            line.not_before = self._clock() + _rest(line.deaths)
        mine = self._line_of((*application, key[1]))
        mine.starts += 1
        return mine.starts

    def over(self, key: Key, application: tuple[int, int]) -> None:
        """Note that a helper has ended in order: its application has no more use for that module."""
        self._applications.pop((*application, key[1]), None)

    def died(self, key: Key, application: tuple[int, int], obituary: Obituary) -> bool:
        """Note a death; return whether the circuit has opened by it."""
        self._died_soon((*application, key[1]), obituary)
        if not obituary.at_once:
            self._modules.pop(key, None)
            return False
        line = self._modules.setdefault(key, Line())
        line.deaths += 1
        line.last = obituary.cause
        pause = _rest(line.deaths) if line.is_open else FIRST_PAUSE * 2.0 ** (line.deaths - 1)
        line.not_before = self._clock() + self._jittered(pause)
        return line.is_open

    def hung(self, key: Key, application: tuple[int, int]) -> float:
        """Note a hang; return how many seconds the module rests for this application, 0 if it does not."""
        line, now = self._line_of((*application, key[1])), self._clock()
        line.hangs = line.hangs + 1 if now - line.hung_at <= HANGS_TOGETHER else 1
        line.hung_at = now
        if line.hangs <= FREE_HANGS:
            return 0.0
        rest = self._jittered(_rest(OPENS_AFTER + line.hangs - FREE_HANGS - 1))
        line.rests_until = now + rest
        return rest

    def close(self, module: str, uid: int | None = None) -> None:
        """Forget all deaths of a module's helpers: those of one user, or of all."""
        for key in [key for key in self._modules if key[1] == module and uid in (None, key[0])]:
            del self._modules[key]
        for line in (line for key, line in self._applications.items() if key[2] == module):
            line.deaths, line.not_before = 0, 0.0
            line.hangs, line.rests_until = 0, 0.0

    def served(self, key: Key) -> None:
        """Note that a helper has answered calls: what was before it counts no more."""
        self._modules.pop(key, None)

    def forget(self, door: int) -> None:
        """Forget the applications behind a door that has been closed."""
        for key in [key for key in self._applications if key[0] == door]:
            del self._applications[key]

    def state(self, module: str, uid: int | None = None) -> State | None:
        """Return the state of a module's circuit, for `uid` None the worst of all; None if all is well."""
        lines = [line for key, line in self._modules.items() if key[1] == module and uid in (None, key[0])]
        if not lines:
            return None
        worst = max(lines, key=lambda line: line.deaths)
        return State(worst.is_open, worst.deaths, worst.last, self._left(worst))

    def _check_hangs(self, module: str, line: Line | None) -> None:
        left = line.rests_until - self._clock() if line is not None else 0.0
        if line is not None and left > 0:
            raise P11HostError(
                f"module {module} hung {line.hangs} times in this application; "
                f"the next try is in {left:.0f} s, or after: p11host restart {module}"
            )

    def _died_soon(self, key: tuple[int, int, str], obituary: Obituary) -> None:
        line = self._line_of(key)
        if obituary.life >= STEADY:
            line.deaths, line.starts = 0, 0
            return
        line.deaths += 1
        excess = line.deaths - FREE_DEATHS
        if excess > 0:
            pause = min(LONGEST_PAUSE, SHORT_PAUSE * 2.0 ** min(excess - 1, 16))
            line.not_before = self._clock() + self._jittered(pause)

    def _line_of(self, key: tuple[int, int, str]) -> Line:
        """Return an application's line. Of many that come and go through a door the oldest are forgotten."""
        now = self._clock()
        if key not in self._applications and len(self._applications) >= MOST_APPLICATIONS:
            old = [known for known, line in self._applications.items() if line.touched <= now - STEADY]
            for known in old:
                del self._applications[known]
        line = self._applications.setdefault(key, Line())
        line.touched = now
        return line

    def _left(self, line: Line | None) -> float:
        return max(0.0, line.not_before - self._clock()) if line is not None else 0.0

    def _jittered(self, pause: float) -> float:
        """Return half of it to all of it: those who wait for the same do not come back at the same time."""
        return pause * (0.5 + 0.5 * self._chance())


def _rest(deaths: int) -> float:
    return min(LONGEST_REST, FIRST_REST * 2.0 ** min(deaths - OPENS_AFTER, 16))
