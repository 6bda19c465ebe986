"""The slate: what the broker makes of a helper's notes, whatever stands there."""

import os
import struct
from collections.abc import Iterator

import pytest

from p11host.slate import Phase, Slate
from p11host.tables import function_names, tables

SIGN, LOGIN = (tables().functions[name].index for name in ("C_Sign", "C_Login"))


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


def test_keeps_its_size(slate: Slate) -> None:
    """Nobody can make it smaller, which would kill who maps it, or larger, which would take memory."""
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(slate.descriptor, size)
