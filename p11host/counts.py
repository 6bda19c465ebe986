"""How many calls of each function there were, how many failed and how long they took.

Knows buckets of time, sums, differences and percentiles. Must not know where the numbers come from; they may
be a hostile helper's, and need not fit one another.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, zip_longest

#: The first bucket holds times of less than so many nanoseconds; two more double that.
FIRST = 128
BUCKETS = 62
#: The upper bounds of the buckets in nanoseconds, but for the last, which has none.
BOUNDS = (FIRST, *(bound << bits for bits in range(30) for bound in (FIRST * 3 // 2, FIRST * 2)))


@dataclass(frozen=True, slots=True)
class Count:
    """Calls of one function. `inside` have not returned yet, and are not in `calls`.

    `buckets` and `nanoseconds` are of those that were timed, each weighted by the calls it stands for.
    """

    calls: int = 0
    errors: int = 0
    inside: int = 0
    nanoseconds: int = 0
    buckets: tuple[int, ...] = ()

    def __add__(self, other: "Count") -> "Count":
        """Return the calls of both."""
        return Count(
            self.calls + other.calls,
            self.errors + other.errors,
            self.inside + other.inside,
            self.nanoseconds + other.nanoseconds,
            tuple(map(sum, zip_longest(self.buckets, other.buckets, fillvalue=0))),
        )

    def since(self, before: "Count") -> "Count":
        """Return what has come since; nothing where a number has become smaller."""
        pairs = zip_longest(self.buckets, before.buckets, fillvalue=0)
        return Count(
            max(0, self.calls - before.calls),
            max(0, self.errors - before.errors),
            self.inside,
            max(0, self.nanoseconds - before.nanoseconds),
            tuple(max(0, now - then) for now, then in pairs),
        )

    def percentile(self, percent: float) -> float | None:
        """Return in seconds what that share of the calls took less than; None if none was timed.

        Within a bucket the calls are taken to be spread evenly.
        """
        sums = list(accumulate(self.buckets))
        if not sums or not sums[-1]:
            return None
        rank = sums[-1] * percent / 100
        at = next(at for at, total in enumerate(sums) if total >= rank and self.buckets[at])
        low = BOUNDS[at - 1] if at else 0
        high = BOUNDS[at] if at < len(BOUNDS) else low
        share = (rank - (sums[at] - self.buckets[at])) / self.buckets[at]
        return (low + (high - low) * share) / 1e9


#: By the function's name.
Counts = Mapping[str, Count]


def total(parts: Iterable[Counts]) -> dict[str, Count]:
    """Return the sums of all, function by function."""
    sums: dict[str, Count] = defaultdict(Count)
    for part in parts:
        for name, count in part.items():
            sums[name] += count
    return dict(sums)


def since(now: Counts, before: Counts) -> dict[str, Count]:
    """Return what has come since, function by function."""
    return {name: count.since(before.get(name, Count())) for name, count in now.items()}


class Ended:
    """The calls of helpers that are no more, by user and module: what was counted once stays counted."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str], Counts] = {}

    def add(self, uid: int, module: str, counts: Counts) -> None:
        """Note what a helper had counted when it ended."""
        done = {name: Count(c.calls, c.errors, 0, c.nanoseconds, c.buckets) for name, c in counts.items()}
        self._sums[uid, module] = total([self._sums.get((uid, module), {}), done])

    def of(self, uid: int | None) -> dict[str, Counts]:
        """Return them by module: a user's, or all for None."""
        modules = {module for _, module in self._sums}
        return {
            module: total(
                sums for key, sums in self._sums.items() if key[1] == module and uid in (None, key[0])
            )
            for module in sorted(modules)
        }
