"""The thread that watches readers and cards: nothing lost, nothing hung, every reader for itself."""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from brokers import PATIENCE
from fake_pcsc import ATR, FakePcsc

from p11host.cards import codes
from p11host.cards.codes import error_of
from p11host.cards.layer import Layer, Look, Pyscard
from p11host.cards.pace import Pace
from p11host.cards.reader import EMPTY, PRESENT, Scene, changes
from p11host.cards.watcher import Watcher


@pytest.fixture
def no_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no wait for PC/SC end by itself: what is seen, is seen because PC/SC told of it."""
    monkeypatch.setattr("p11host.cards.watcher.FIRST_WAIT", 3600.0)
    monkeypatch.setattr("p11host.cards.watcher.LONGEST_WAIT", 3600.0)


@contextmanager
def watching(layer: Layer) -> Iterator[list[Scene]]:
    """Watch; yield the scenes that there have been."""
    scenes: list[Scene] = []
    watcher = Watcher(lambda: layer, scenes.append)
    watcher.start()
    yield scenes
    assert watcher.stop()


def until(condition: Callable[[], bool]) -> None:
    """Wait until that is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def cards(scenes: list[Scene]) -> dict[str, bytes]:
    """Return the last scene's cards by their readers."""
    return {name: each.atr for name, each in scenes[-1].readers.items()} if scenes else {}


@pytest.mark.usefixtures("no_time_out")
def test_watch() -> None:
    """Readers and cards come and go, and each scene shows it."""
    pcsc = FakePcsc()
    with watching(pcsc) as scenes:
        pcsc.add("one", "two")
        until(lambda: cards(scenes) == {"one": b"", "two": b""})
        pcsc.insert("two", ATR)
        until(lambda: cards(scenes) == {"one": b"", "two": ATR})
        pcsc.unplug("one")
        until(lambda: cards(scenes) == {"two": ATR})


def test_a_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody has thought of is told, and readers are watched again after it."""
    pcsc, faults = FakePcsc(), iter([ValueError("odd"), ValueError("odd")])
    names = pcsc.names

    def fail(context: int) -> list[str]:
        for fault in faults:
            raise fault
        return names(context)

    pcsc.names = fail  # type: ignore[method-assign]
    pcsc.add("one")
    with watching(pcsc) as scenes:
        until(lambda: cards(scenes) == {"one": b""})

    assert ["cards.fault", "cards.fault"] == [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("blind", [False, True])
def test_reader_between_list_and_wait(blind: bool, request: pytest.FixtureRequest) -> None:  # noqa: FBT001
    """A reader that comes after the list and before the wait is found, by an old pcsc-lite too."""
    if not blind:
        request.getfixturevalue("no_time_out")
    pcsc = FakePcsc(blind=blind)
    names = pcsc.names

    def late(context: int) -> list[str]:
        found = names(context)
        if "late" not in found:
            pcsc.add("late")
        return found

    pcsc.names = late  # type: ignore[method-assign]
    with watching(pcsc) as scenes:
        until(lambda: cards(scenes) == {"late": b""})


class Racing(FakePcsc):
    """A PC/SC in which a card moves after each look and before the next wait, so many times."""

    left = 10000

    def wait(self, context: int, seconds: float, known: Sequence[tuple[str, int]]) -> list[Look]:
        """Move the card, and wait then; not before the first look."""
        if self.left and dict(known).get("one"):
            self.left -= 1
            self.set("one", PRESENT if self.left % 2 else EMPTY, ATR if self.left % 2 else b"")
        return super().wait(context, seconds, known)


def test_change_between_look_and_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10,000 moves between a look and the next wait each is told, and none slept through."""
    monkeypatch.setattr(Pace, "change", lambda *_: False)
    pcsc = Racing()
    pcsc.add("one")
    with watching(pcsc) as scenes:
        until(
            lambda: (
                not pcsc.left and bool(scenes) and scenes[-1].readers["one"].state == pcsc.readers["one"][0]
            )
        )
        slept = pcsc.slept
    found = [change for pair in itertools.pairwise([Scene({}), *scenes]) for change in changes(*pair)]
    moves = [change for change in found if change.kind in ("inserted", "removed")]

    assert 10000 == len(moves) + sum(change.missed for change in moves)
    assert slept <= 1  # when all was over


def test_service_comes_late_and_goes() -> None:
    """PC/SC absent, started, killed and started again: each time what there is to see is seen."""
    pcsc = FakePcsc(runs=False)
    with watching(pcsc) as scenes:
        until(lambda: bool(scenes) and scenes[-1].error is not None)
        pcsc.add("one")
        pcsc.begin()
        until(lambda: "one" in cards(scenes))
        pcsc.end()
        until(lambda: scenes[-1].error is not None)
        pcsc.begin()
        pcsc.add("one")
        until(lambda: "one" in cards(scenes))


def test_tries_become_rare() -> None:
    """Where there is no PC/SC it is tried a few times a minute, not in a loop."""
    pcsc, pauses = FakePcsc(runs=False), Pauses()
    watcher = Watcher(lambda: pcsc, lambda _: None)
    watcher._stop = pauses  # noqa: SLF001 (on which it sleeps)
    watcher.start()
    until(lambda: len(pauses.slept) >= 9)
    assert watcher.stop()
    assert [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0] == pauses.slept[:9]


class Pauses(threading.Event):
    """Takes no time to sleep on, and knows for how long that was meant to be."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Note it."""
        self.slept.append(timeout)
        return self.is_set()


def test_stop_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of PC/SC that do not return, also that which is to end another, hold nobody up."""
    monkeypatch.setattr("p11host.cards.watcher.END", 0.2)
    pcsc, inside, over = FakePcsc(), threading.Event(), threading.Event()

    def hang(context: int) -> list[str]:
        inside.set()
        over.wait()
        raise error_of(0x80100013, str(context))

    pcsc.names = hang  # type: ignore[method-assign]
    pcsc.cancel = hang  # type: ignore[assignment, method-assign]
    watcher = Watcher(lambda: pcsc, lambda _: None)
    watcher.start()
    assert inside.wait(PATIENCE)
    assert not watcher.stop()
    over.set()
    until(watcher.stop)


def test_no_context_stays() -> None:
    """What was begun with PC/SC is ended."""
    pcsc = FakePcsc()
    with watching(pcsc) as scenes:
        pcsc.add("one")
        until(lambda: "one" in cards(scenes))
    assert set() == pcsc.contexts


def test_no_thread_where_pyscard_is_missing() -> None:
    """Without pyscard that is told once, and there is no thread."""
    scenes: list[Scene] = []

    def none() -> Layer:
        raise error_of(codes.NO_PYSCARD)

    watcher = Watcher(none, scenes.append)
    watcher.start()
    until(lambda: bool(scenes))
    assert watcher.stop()
    assert isinstance(scenes[0].error, codes.NoPyscardError)


def test_pyscard_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pyscard cannot be imported PC/SC's layer says so, and what to install."""
    monkeypatch.setenv("PCSCLITE_CSOCK_NAME", "/nowhere")
    monkeypatch.setitem(sys.modules, "smartcard.scard", None)

    with pytest.raises(codes.NoPyscardError, match="pip install pyscard"):
        Pyscard("/nowhere")


@pytest.mark.usefixtures("no_time_out")
def test_hundred_readers() -> None:
    """A hundred readers are watched, and a card in the last is seen at once."""
    pcsc = FakePcsc()
    pcsc.add(*(f"reader {number}" for number in range(100)))
    with watching(pcsc) as scenes:
        until(lambda: len(cards(scenes)) == 100)
        pcsc.insert("reader 99", ATR)
        until(lambda: cards(scenes)["reader 99"] == ATR)


@pytest.mark.usefixtures("no_time_out")
def test_names_of_any_bytes() -> None:
    """A reader is watched whatever bytes its name is made of, and told by these."""
    pcsc = FakePcsc()
    odd = b"\xff\x01 caf\xc3\xa9".decode(errors="surrogateescape")
    pcsc.add("plain", odd)
    with watching(pcsc) as scenes:
        until(lambda: odd in cards(scenes))
        pcsc.insert(odd, ATR)
        until(lambda: cards(scenes)[odd] == ATR)
    assert b"\xff\x01 caf\xc3\xa9" == scenes[-1].readers[odd].told()["name"]


@pytest.mark.usefixtures("no_time_out")
def test_renamed_reader() -> None:
    """A reader that has another name after it was plugged in again is gone, and a new one is there."""
    pcsc = FakePcsc()
    with watching(pcsc) as scenes:
        pcsc.add("reader 00 00")
        until(lambda: "reader 00 00" in cards(scenes))
        pcsc.unplug("reader 00 00")
        pcsc.add("reader 01 00")
        until(lambda: list(cards(scenes)) == ["reader 01 00"])


def test_flapping_reader_keeps_nobody_awake() -> None:
    """A reader that changes without end is looked at now and then and reported; another is seen at once."""
    pcsc = FakePcsc()
    pcsc.add("mad", "good")
    over, done = threading.Event(), 0

    def flap() -> None:
        nonlocal done
        while not over.wait(0.001):
            pcsc.set("mad", PRESENT, ATR, moves=2)
            done += 1

    mad = threading.Thread(target=flap)
    with watching(pcsc) as scenes:
        until(lambda: "mad" in cards(scenes))
        mad.start()
        try:
            until(lambda: scenes[-1].readers["mad"].flapping)
            looks, begun = len(pcsc.waits), done
            pcsc.insert("good", ATR)
            until(lambda: cards(scenes)["good"] == ATR)
            until(lambda: done >= begun + 500)
            assert len(pcsc.waits) - looks <= 100
        finally:
            over.set()
            mad.join()
