"""The slate: what the broker makes of a helper's notes, whatever stands there."""

import os
import struct
from collections.abc import Iterator

import pytest
from msgpack import packb, unpackb

from p11host.census import Census, Counted, told
from p11host.obituary import Obituary
from p11host.slate import Notes, Phase, Slate
from p11host.tables import function_names, tables

SIGN, LOGIN, WAIT = (tables().functions[name].index for name in ("C_Sign", "C_Login", "C_WaitForSlotEvent"))


@pytest.fixture
def slate() -> Iterator[Slate]:
    """Return an empty slate."""
    made = Slate.make(above=10)
    yield made
    made.close()


def mark(slate: Slate, place: int, answered: int, index: int, *, busy: bool) -> None:
    """Write what the thread of a channel would."""
    os.pwrite(slate.descriptor, struct.pack("=Q", answered << 16 | (index + 1) << 1 | busy), 64 * (1 + place))


def enter(slate: Slate, phase: int) -> None:
    """Write what the main thread would."""
    os.pwrite(slate.descriptor, struct.pack("=I", phase), 0)


def test_empty(slate: Slate) -> None:
    """A helper that has written nothing was in nothing, and answered nothing."""
    notes = slate.read()

    assert (Phase.BORN, (), 0) == (notes.phase, notes.inside, notes.answered)
    assert [] == slate.pids()


def test_functions_in_progress(slate: Slate) -> None:
    """Each function that had not returned is named once; the answered calls of all channels are added."""
    enter(slate, Phase.SERVING)
    mark(slate, 0, 5, SIGN, busy=True)
    mark(slate, 1, 7, LOGIN, busy=False)
    mark(slate, 2, 1, SIGN, busy=True)
    mark(slate, 1023, 1, LOGIN, busy=True)
    notes = slate.read()

    assert (("C_Sign", "C_Login"), 14) == (notes.inside, notes.answered)


def test_the_watch_is_told_apart(slate: Slate) -> None:
    """What the watch is in is nobody's call: it is not named among these, nor counted as answered."""
    enter(slate, Phase.SERVING)
    mark(slate, 0, 5, LOGIN, busy=True)
    for place, index in enumerate((SIGN, WAIT)):
        at = 64 * (1 + 1024) + 4 * 1024 + 64 * place
        os.pwrite(slate.descriptor, struct.pack("=Q", 9 << 16 | (index + 1) << 1 | 1), at)
    notes = slate.read()

    assert (("C_Login",), 5) == (notes.inside, notes.answered)
    assert ("C_Sign", "C_WaitForSlotEvent") == notes.watching
    assert {"function": "C_Login", "watch": "C_Sign,C_WaitForSlotEvent"} == notes.where
    assert {"C_Login"} == set(slate.counts())


@pytest.mark.parametrize(
    ("inside", "watching", "cause"),
    [
        (("C_Sign",), ("C_WaitForSlotEvent",), "SIGSEGV in C_Sign"),
        ((), ("C_GetTokenInfo",), "SIGSEGV in the watch's C_GetTokenInfo"),
        ((), (), "SIGSEGV"),
    ],
)
def test_cause(inside: tuple[str, ...], watching: tuple[str, ...], cause: str) -> None:
    """A death is a call's, if there was one, else the watch's."""
    notes = Notes(Phase.SERVING, inside, 1, watching=watching)

    assert cause == Obituary("SIGSEGV", None, notes, 1.0).cause


def test_names_are_in_the_order_of_the_tables() -> None:
    """What a number means is the same for both ends."""
    assert list(function_names()) == [each.name for each in tables().functions.values()]
    assert all(each.index == place for place, each in enumerate(tables().functions.values()))


@pytest.mark.parametrize(
    ("phase", "inside"), [(Phase.LOADING, "dlopen"), (Phase.INITIALIZING, "C_Initialize")]
)
def test_before_it_serves(slate: Slate, phase: Phase, inside: str) -> None:
    """While it is loaded nothing else counts."""
    enter(slate, phase)
    mark(slate, 0, 5, SIGN, busy=True)
    notes = slate.read()

    assert ((inside,), 0) == (notes.inside, notes.answered)


@pytest.mark.parametrize("byte", [b"\xff", b"\x80", b"\x01", b"C"])
def test_nonsense(slate: Slate, byte: bytes) -> None:
    """Whatever a provider writes there names known functions, or none."""
    size = os.fstat(slate.descriptor).st_size
    os.pwrite(slate.descriptor, byte * size, 0)
    notes = slate.read()

    assert set(notes.inside) <= set(function_names()) | {"dlopen"}
    assert 1024 >= len(slate.pids())


def tally(slate: Slate, place: int, index: int, calls: int, errors: int) -> None:
    """Write what the thread of a channel has counted."""
    at = 139264 + 4096 * place + 32 * index
    os.pwrite(slate.descriptor, struct.pack("=QQQQ", calls, errors, 0, 0), at)


def test_counts(slate: Slate) -> None:
    """The calls of all channels are added, function by function, with those in progress and their times."""
    enter(slate, Phase.SERVING)
    for place in (0, 5):
        mark(slate, place, 7, SIGN, busy=place == 5)
        tally(slate, place, SIGN, 4, 1)
        tally(slate, place, LOGIN, 3, 0)
    os.pwrite(slate.descriptor, struct.pack("=QQQQ", 900, 8, 0, 8), 73728 + 512 * SIGN)
    counts = slate.counts()

    assert {"C_Sign", "C_Login"} == set(counts)
    assert (8, 2, 1, 900) == tuple(
        getattr(counts["C_Sign"], key) for key in ("calls", "errors", "inside", "nanoseconds")
    )
    assert (0, 8) == counts["C_Sign"].buckets[:2]
    assert (6, 0, 0) == (counts["C_Login"].calls, counts["C_Login"].errors, counts["C_Login"].inside)


def test_nothing_is_counted_before_it_serves(slate: Slate) -> None:
    """A helper that is not ready has answered no call, whatever stands there."""
    mark(slate, 0, 7, SIGN, busy=True)
    tally(slate, 0, SIGN, 4, 1)

    assert {} == slate.counts()


@pytest.mark.parametrize("byte", [b"\xff", b"\x80", b"\x01", b"C"])
def test_nonsense_counts(slate: Slate, byte: bytes) -> None:
    """Whatever a provider writes there can be told and is about known functions."""
    os.pwrite(slate.descriptor, byte * os.fstat(slate.descriptor).st_size, 0)
    answer = Census.of(
        unpackb(packb(told([Counted("soft", 1, 2, "", slate.counts())], {})), strict_map_key=False)
    )

    assert set(answer.helpers[0].functions) <= set(function_names())
    assert all(count.percentile(99) is not None for count in answer.helpers[0].functions.values())


def test_keeps_its_size(slate: Slate) -> None:
    """Nobody can make it smaller, which would kill who maps it, or larger, which would take memory."""
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(slate.descriptor, size)
