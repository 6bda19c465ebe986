"""What follows from counts: sums, differences and percentiles, also where the numbers are nonsense."""

import pytest

from p11host.census import Census, Counted, told
from p11host.counts import BOUNDS, BUCKETS, Count, Ended, since, total
from p11host.wire import RemoteError

SIGNED = Count(10, 2, 1, 5000, (0, 4, 6))


def test_buckets() -> None:
    """There is a bound for each bucket but the last, each larger than the one before."""
    assert BUCKETS - 1 == len(BOUNDS) == len(set(BOUNDS))
    assert sorted(BOUNDS) == list(BOUNDS)


@pytest.mark.parametrize(
    ("buckets", "percent", "expected"),
    [
        ((), 50, None),
        ((0, 0), 50, None),
        ((100,), 50, 64),
        ((0, 100), 50, 160),
        ((50, 50), 99, 190.72),
        ((1, 0, 0, 1), 50, 128),
        ((*[0] * (BUCKETS - 1), 7), 99, BOUNDS[-1]),
    ],
)
def test_percentiles(buckets: tuple[int, ...], percent: float, expected: float | None) -> None:
    """A percentile lies in the bucket that holds it, as far in as there are calls below it."""
    seconds = Count(buckets=buckets).percentile(percent)

    assert expected == (None if seconds is None else pytest.approx(seconds * 1e9))


def test_since() -> None:
    """A difference holds what has come, and nothing where a number has become smaller."""
    later = Count(13, 2, 0, 6000, (0, 4, 6, 3))

    assert Count(3, 0, 0, 1000, (0, 0, 0, 3)) == later.since(SIGNED)
    assert Count(0, 0, 1, 0, (0, 0, 0, 0)) == SIGNED.since(later)
    assert {"C_Sign": SIGNED} == since({"C_Sign": SIGNED}, {})


def test_total() -> None:
    """A sum holds the calls of all."""
    assert {"C_Sign": Count(20, 4, 2, 10000, (0, 8, 12)), "C_Login": SIGNED} == total(
        [{"C_Sign": SIGNED}, {"C_Sign": SIGNED, "C_Login": SIGNED}]
    )


def test_ended() -> None:
    """What helpers counted that have ended is kept, for each user its own; nothing is in progress there."""
    ended = Ended()
    for uid in (1, 1, 2):
        ended.add(uid, "soft", {"C_Sign": SIGNED})
    ended.add(2, "card", {"C_Sign": SIGNED})

    assert {"soft": {"C_Sign": Count(20, 4, 0, 10000, (0, 8, 12))}} == {
        module: counts for module, counts in ended.of(1).items() if counts
    }
    assert (30, 10) == (ended.of(None)["soft"]["C_Sign"].calls, ended.of(None)["card"]["C_Sign"].calls)


def test_census() -> None:
    """What the broker tells is what a tool reads."""
    helpers = (Counted("soft", 7, 8, "nginx", {"C_Sign": SIGNED}),)
    census = Census.of(told(helpers, {"card": {"C_Login": SIGNED}}))

    assert (helpers, {"card": {"C_Login": SIGNED}}) == (census.helpers, census.ended)


@pytest.mark.parametrize(
    "answer", [None, {}, {"time": 1, "helpers": [{}], "ended": []}, {"time": 1, "helpers": 3}]
)
def test_no_census(answer: object) -> None:
    """What is no answer is refused."""
    with pytest.raises(RemoteError, match="no counts"):
        Census.of(answer)
