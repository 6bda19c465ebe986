"""The counts of all helpers that somebody may know of, as the broker tells them: `counts` of section 6.

Knows that method's answer, both ways. Must not know how it travels, nor what is made of it.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from p11host.counts import Count, Counts
from p11host.wire import RemoteError


@dataclass(frozen=True, slots=True)
class Counted:
    """A helper that lives, whose it is, and what it has counted."""

    module: str
    pid: int
    application: int
    program: str
    functions: Counts


@dataclass(frozen=True, slots=True)
class Census:
    """What was counted until a time of the monotonic clock: by each helper, and by those that have ended."""

    at: float
    helpers: tuple[Counted, ...]
    ended: Mapping[str, Counts]

    @classmethod
    def of(cls, answer: Any) -> "Census":
        """Return what an answer says. Raises RemoteError if it is none."""
        try:
            ended = {each["module"]: _counts(each["functions"]) for each in answer["ended"]}
            return cls(answer["time"] / 1e9, tuple(_counted(each) for each in answer["helpers"]), ended)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RemoteError("malformed", f"no counts: {error!r}") from error


def told(helpers: Iterable[Counted], ended: Mapping[str, Counts]) -> dict[str, Any]:
    """Return the answer that tells them."""
    return {
        "time": time.monotonic_ns(),
        "helpers": [
            {
                "module": each.module,
                "pid": each.pid,
                "application": each.application,
                "program": each.program,
                "functions": _told(each.functions),
            }
            for each in helpers
        ],
        "ended": [{"module": module, "functions": _told(counts)} for module, counts in ended.items()],
    }


def _told(counts: Counts) -> dict[str, list[Any]]:
    return {
        name: [
            count.calls,
            count.errors,
            count.inside,
            count.nanoseconds,
            [[at, weight] for at, weight in enumerate(count.buckets) if weight],
        ]
        for name, count in counts.items()
    }


def _counted(said: Any) -> Counted:
    functions = _counts(said["functions"])
    return Counted(
        str(said["module"]), int(said["pid"]), int(said["application"]), str(said["program"]), functions
    )


def _counts(functions: Any) -> dict[str, Count]:
    return {str(name): _count(*said) for name, said in functions.items()}


def _count(calls: int, errors: int, inside: int, nanoseconds: int, weights: list[list[int]]) -> Count:
    buckets = [0] * (max((at for at, _ in weights), default=-1) + 1)
    for at, weight in weights:
        buckets[at] = weight
    return Count(int(calls), int(errors), int(inside), int(nanoseconds), tuple(buckets))
