"""When a module may have its next helper: the clock and chance are the test's, nothing dies."""

from itertools import pairwise

import pytest

from p11host.circuit import (
    FIRST_REST,
    HANGS_TOGETHER,
    LONGEST_PAUSE,
    LONGEST_REST,
    MOST_APPLICATIONS,
    OPENS_AFTER,
    STEADY,
    Circuits,
)
from p11host.errors import P11HostError
from p11host.obituary import Obituary
from p11host.slate import Notes, Phase

ME, OTHER = (1000, "soft"), (1001, "soft")
APPLICATION, NEIGHBOUR = (1, 4711), (2, 4712)


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return the clock of the circuits."""
    return Clock()


@pytest.fixture
def circuits(clock: Clock) -> Circuits:
    """Return circuits whose pauses are as long as can be."""
    return Circuits(clock, lambda: 1.0)


def died(answered: int = 0, life: float = 0.1, inside: str = "C_Sign", *, wanted: bool = False) -> Obituary:
    """Return what is said of a helper that crashed."""
    return Obituary("SIGSEGV", None, Notes(Phase.SERVING, (inside,), answered), life, wanted)


def open_circuit(circuits: Circuits) -> None:
    """Have helpers die at once until the circuit is open."""
    opened = [circuits.died(ME, APPLICATION, died()) for _ in range(OPENS_AFTER)]
    assert [False] * (OPENS_AFTER - 1) + [True] == opened


# ---- helpers that die at once ----


def test_opens_after_deaths_at_once(circuits: Circuits) -> None:
    """A module whose helpers die at once again and again has none for a while; the reason says what to do."""
    open_circuit(circuits)

    with pytest.raises(
        P11HostError, match=r"5 helpers of module soft died at once, the last by SIGSEGV in C_Sign"
    ):
        circuits.check(ME, APPLICATION)
    with pytest.raises(P11HostError, match="the next try is in 5 s, or after: p11host restart soft"):
        circuits.check(ME, APPLICATION)


def test_a_life_that_served_is_no_death_at_once(circuits: Circuits) -> None:
    """Deaths count in a row: a helper that answered a call ends it."""
    for _ in range(OPENS_AFTER):
        circuits.died(ME, APPLICATION, died())
        circuits.died(ME, APPLICATION, died(answered=1))

    circuits.check(ME, APPLICATION)
    assert circuits.state("soft") is None


def test_what_was_wanted_does_not_count(circuits: Circuits) -> None:
    """Nor does a helper that was told to end, or that ended when its work was done."""
    leaving = Obituary(None, 0, Notes(Phase.LEAVING, (), 0), 0.1)
    for obituary in (died(wanted=True), leaving) * OPENS_AFTER:
        circuits.died(ME, APPLICATION, obituary)

    circuits.check(ME, APPLICATION)


def test_each_user_has_a_circuit(circuits: Circuits) -> None:
    """Nobody can take a module from another user by killing its helpers."""
    open_circuit(circuits)

    circuits.check(OTHER, NEIGHBOUR)
    assert 0 == circuits.pause(OTHER, NEIGHBOUR)


def test_is_tried_again_by_one(circuits: Circuits, clock: Clock) -> None:
    """When it has rested one helper may try; others wait for what becomes of that."""
    open_circuit(circuits)
    clock.now += FIRST_REST

    circuits.check(ME, APPLICATION)
    circuits.started(ME, APPLICATION)
    with pytest.raises(P11HostError):
        circuits.check(ME, APPLICATION)


def test_rests_longer_each_time(circuits: Circuits, clock: Clock) -> None:
    """A try that fails doubles the rest, up to a limit; each try is made."""
    open_circuit(circuits)
    rests = []
    for _ in range(10):
        state = circuits.state("soft")
        assert state is not None
        rests.append(state.retry)
        clock.now += state.retry
        circuits.check(ME, APPLICATION)
        circuits.died(ME, APPLICATION, died())

    assert [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST] == rests[:3]
    assert LONGEST_REST == max(rests) == rests[-1]


def test_closes_when_a_helper_serves(circuits: Circuits, clock: Clock) -> None:
    """The helper that tries answers a call: nothing is held against the module any more."""
    open_circuit(circuits)
    clock.now += FIRST_REST
    circuits.served(ME)

    circuits.check(ME, APPLICATION)
    assert 0 == circuits.pause(ME, NEIGHBOUR)
    assert circuits.state("soft") is None


def test_is_closed_by_hand(circuits: Circuits) -> None:
    """`restart` closes it, for one user or for all, and forgets pauses."""
    open_circuit(circuits)
    for _ in range(OPENS_AFTER):
        circuits.died(OTHER, NEIGHBOUR, died())

    circuits.close("soft", ME[0])
    circuits.check(ME, APPLICATION)
    assert 0 == circuits.pause(ME, APPLICATION)
    with pytest.raises(P11HostError):
        circuits.check(OTHER, NEIGHBOUR)
    circuits.close("soft")
    circuits.check(OTHER, NEIGHBOUR)


def test_worst_is_shown(circuits: Circuits) -> None:
    """Whoever sees all users' circuits is shown the worst; a user sees its own."""
    open_circuit(circuits)
    circuits.died(OTHER, NEIGHBOUR, died())

    state, other = circuits.state("soft"), circuits.state("soft", OTHER[0])

    assert state is not None
    assert (True, OPENS_AFTER, "SIGSEGV in C_Sign", FIRST_REST) == (
        state.is_open,
        state.deaths,
        state.last,
        state.retry,
    )
    assert other is not None
    assert (False, 1) == (other.is_open, other.deaths)
    assert circuits.state("hard") is None


# ---- helpers that die soon ----


def test_soon_after_one_another(circuits: Circuits) -> None:
    """An application whose helpers die soon waits longer for each; the first deaths cost nothing."""
    pauses = []
    for _ in range(12):
        circuits.died(ME, APPLICATION, died(answered=9))
        pauses.append(circuits.pause(ME, APPLICATION))

    assert [0, 0] == pauses[:2]
    assert all(later >= sooner for sooner, later in pairwise(pauses))
    assert LONGEST_PAUSE == pauses[-1]
    assert 0 == circuits.pause(ME, NEIGHBOUR), "another application's next helper is not held back"
    circuits.check(ME, APPLICATION)


# ---- helpers that hang ----


def test_hangs_again(circuits: Circuits, clock: Clock) -> None:
    """Who has had a module hang again has none of it for a while, longer each time; others have."""
    rests = []
    for _ in range(10):
        circuits.check(ME, APPLICATION)
        rests.append(circuits.hung(ME, APPLICATION))
        circuits.check(ME, NEIGHBOUR)
        if rests[-1]:
            with pytest.raises(P11HostError, match=r"module soft hung \d+ times.*p11host restart soft"):
                circuits.check(ME, APPLICATION)
        clock.now += rests[-1]

    assert [0, FIRST_REST, 2 * FIRST_REST] == rests[:3]
    assert LONGEST_REST == rests[-1]


def test_hangs_long_apart(circuits: Circuits, clock: Clock) -> None:
    """A hang now and then costs no more than its own time."""
    for _ in range(5):
        assert 0 == circuits.hung(ME, APPLICATION)
        clock.now += HANGS_TOGETHER + 1


def test_a_rest_is_ended_by_hand(circuits: Circuits) -> None:
    """`restart` ends it, and what was before counts no more."""
    for _ in range(3):
        circuits.hung(ME, APPLICATION)

    circuits.close("soft")

    circuits.check(ME, APPLICATION)
    assert 0 == circuits.hung(ME, APPLICATION)


def test_jitter() -> None:
    """Those who wait for the same do not all come back at the same moment."""
    pauses = set()
    for chance in (0.0, 0.5, 1.0):
        circuits = Circuits(Clock(), lambda chance=chance: chance)  # type: ignore[misc]
        for _ in range(12):
            circuits.died(ME, APPLICATION, died(answered=9))
        pauses.add(round(circuits.pause(ME, APPLICATION), 6))

    assert 3 == len(pauses)
    assert LONGEST_PAUSE / 2 <= min(pauses) < max(pauses) <= LONGEST_PAUSE


def test_a_long_life_ends_the_row(circuits: Circuits) -> None:
    """A helper that lived for long enough dies as the first one; attempts are counted anew."""
    for attempt in (1, 2, 3):
        assert attempt == circuits.started(ME, APPLICATION)
        circuits.died(ME, APPLICATION, died(answered=9))
    circuits.died(ME, APPLICATION, died(answered=9, life=STEADY))

    assert 1 == circuits.started(ME, APPLICATION)


def test_many_applications_are_forgotten(circuits: Circuits, clock: Clock) -> None:
    """Of a server whose children come and go through one door no list grows without end."""
    for child in range(3 * MOST_APPLICATIONS):
        assert 1 == circuits.started(ME, (1, child))
        clock.now += 1
    circuits.started(ME, APPLICATION)

    assert 2 == circuits.started(ME, APPLICATION), "who came just now is remembered"
    assert 1 == circuits.started(ME, (1, 0)), "who came long ago is not"


def test_an_end_in_order_is_forgotten(circuits: Circuits) -> None:
    """A helper that ended with its work leaves nothing behind."""
    circuits.started(ME, APPLICATION)
    circuits.over(ME, APPLICATION)

    assert 1 == circuits.started(ME, APPLICATION)


def test_applications_are_forgotten(circuits: Circuits) -> None:
    """Nothing stays of an application whose door has been closed."""
    circuits.started(ME, APPLICATION)
    circuits.died(ME, APPLICATION, died(answered=9))
    circuits.forget(APPLICATION[0])

    assert 1 == circuits.started(ME, APPLICATION)
