"""Readers and cards as the broker watches them: nothing lost, nothing hung, every reader for itself."""

import ast
import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from brokers import PATIENCE, ROOT, module
from elf import Library
from fake_pcsc import FakePcsc
from hypothesis import given, settings
from hypothesis import strategies as st

from p11host import doors
from p11host.cards import codes
from p11host.cards.atr import described, historical
from p11host.cards.board import KEPT, Board, Subscription
from p11host.cards.codes import CardError, error_named, error_of
from p11host.cards.keeper import Cards
from p11host.cards.layer import Layer, Look, Pyscard
from p11host.cards.pace import MOST, PER_SECOND, Pace
from p11host.cards.reader import (
    EMPTY,
    EXCLUSIVE,
    IN_USE,
    MUTE,
    PRESENT,
    UNAVAILABLE,
    Change,
    Reader,
    Scene,
    changes,
)
from p11host.cards.watcher import LONGEST_WAIT, Watcher
from p11host.config import choose, load
from p11host.control import Control
from p11host.errors import P11HostError
from p11host.log import fields_of
from p11host.wire import Request

ATR, OTHER = b"\x3b\x00", b"\x3b\x01\x02"


# ---- codes ----


def test_every_code_is_its_own() -> None:
    """Codes of PC/SC keep number and name; the usual troubles have classes of their own, and a remedy."""
    for name, kind in [
        ("SCARD_E_SHARING_VIOLATION", codes.SharingError),
        ("SCARD_W_RESET_CARD", codes.ResetError),
        ("SCARD_W_REMOVED_CARD", codes.RemovedError),
        ("SCARD_E_PROTO_MISMATCH", codes.ProtocolMismatchError),
        ("SCARD_E_NO_SERVICE", codes.NoServiceError),
        ("SCARD_W_UNRESPONSIVE_CARD", codes.MuteError),
    ]:
        error = error_named(name, "reader")
        assert (name, kind) == (error.name, type(error))
        assert isinstance(error, P11HostError)
        assert f"({name}); " in str(error)
        assert ("reader", f"{error.brief}; {error.do}") == (error.where, str(error))
    assert len(set(codes.NAMES.values())) == len(codes.NAMES)
    assert codes.CLASSES.keys() <= set(codes.NAMES.values())


def test_numbers_may_be_signed_or_unknown() -> None:
    """A code is the same whether C gave it as signed or not; one that nobody knows keeps its number."""
    assert "SCARD_E_SHARING_VIOLATION" == error_of(0x8010000B - (1 << 32)).name
    assert (CardError, 0x80109999) == (type(error_of(0x80109999)), error_of(0x80109999).code)
    assert "0x80109999" in str(error_of(0x80109999))


# ---- what an ATR tells ----


@pytest.mark.parametrize(
    ("atr", "history", "what"),
    [
        ("3bfd1300008131fe158073c021c057597562694b657940", "8073c021c057597562694b6579", "YubiKey"),
        (
            "3b8f8001804f0ca000000306030001000000006a",
            "804f0ca0000003060300010000000" + "0",
            "MIFARE Classic 1K",
        ),
        ("3b00", "", ""),
        ("3bff", "", ""),
        ("", "", ""),
    ],
)
def test_atr(atr: str, history: str, what: str) -> None:
    """Historical bytes are found behind the interface bytes, and what they say is told."""
    assert (history, what) == (historical(bytes.fromhex(atr)).hex(), described(bytes.fromhex(atr)))


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_atr(atr: bytes) -> None:
    """No card's answer is too odd to be looked at."""
    assert described(atr).isprintable()


# ---- between two looks ----


def reader(state: int, atr: bytes = b"", count: int = 0, name: str = "one") -> Reader:
    """Return a reader in that state."""
    return Reader(name, count << 16 | state, atr)


def kinds(before: Reader | None, after: Reader | None) -> list[str]:
    """Return what happened between two looks at a reader."""
    scenes = [Scene({each.name: each} if each else {}) for each in (before, after)]
    return [change.kind for change in changes(*scenes)]


EMPTY_ONE, FULL_ONE = reader(EMPTY), reader(PRESENT, ATR, 1)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, EMPTY_ONE, ["added"]),
        (None, FULL_ONE, ["added", "inserted"]),
        (FULL_ONE, None, ["removed", "gone"]),
        (EMPTY_ONE, FULL_ONE, ["inserted"]),
        (FULL_ONE, reader(EMPTY, count=2), ["removed"]),
        (FULL_ONE, reader(PRESENT, ATR, 3), ["removed", "inserted"]),
        (FULL_ONE, reader(PRESENT, OTHER, 1), ["removed", "inserted"]),
        (EMPTY_ONE, reader(EMPTY, count=2), ["inserted", "removed"]),
        (FULL_ONE, reader(PRESENT | IN_USE, ATR, 1), ["used"]),
        (reader(PRESENT | IN_USE, ATR, 1), reader(PRESENT | EXCLUSIVE | IN_USE, ATR, 1), ["used"]),
        (FULL_ONE, reader(PRESENT | MUTE, ATR, 1), ["fault"]),
        (FULL_ONE, FULL_ONE, []),
        (FULL_ONE, reader(UNAVAILABLE), ["removed"]),
        (reader(EMPTY, count=2), reader(UNAVAILABLE), ["fault"]),
        (reader(UNAVAILABLE), reader(EMPTY, count=3), ["fault"]),
        (reader(UNAVAILABLE), reader(PRESENT, ATR, 3), ["inserted"]),
    ],
)
def test_changes(before: Reader | None, after: Reader | None, expected: list[str]) -> None:
    """A pull and a push between two looks are two events, by PC/SC's counter or the card's ATR."""
    assert expected == kinds(before, after)


def test_missed_cards_are_counted() -> None:
    """Where cards came and went too fast to be seen, it is told how many more there were; counters wrap.

    A reader that does not answer has no counter.
    """
    before, after, failing = reader(EMPTY, count=65535), reader(PRESENT, ATR, 4), reader(UNAVAILABLE)

    def told(before: Reader, after: Reader) -> list[Change]:
        return list(changes(Scene({"one": before}), Scene({"one": after})))

    assert [Change("inserted", after, missed=4)] == told(before, after)
    assert [0, 0] == [change.missed for change in (*told(after, failing), *told(failing, after))]


def test_readers_do_not_mix() -> None:
    """What happens in one reader is told of that one alone."""
    before = {"one": FULL_ONE, "two": reader(EMPTY, name="two")}
    after = {"one": FULL_ONE, "two": reader(PRESENT, ATR, 1, "two")}
    assert ["two"] == [each.reader.name for each in changes(Scene(before), Scene(after)) if each.reader]


def test_service_ends() -> None:
    """When PC/SC ends its readers are gone, and that is told once, whatever it is called next."""
    gone = Scene({}, error_of(0x80100013))

    assert ["removed", "gone", "service"] == [each.kind for each in changes(Scene({"one": FULL_ONE}), gone)]
    assert [] == list(changes(gone, Scene({}, error_of(0x8010001D))))


# ---- flapping ----


def test_pace() -> None:
    """Some changes in a row are seen at once, then one a second, until it has been calm for a while."""
    pace = Pace()
    begins = [pace.change(0.0) for _ in range(int(MOST) + 5)]

    assert 1 == begins.count(True)
    assert 0.0 < pace.until
    assert not pace.is_calm(1.0)
    assert pace.is_calm(MOST / PER_SECOND + 2)


def test_pace_of_people() -> None:
    """Nobody who changes cards by hand is too fast."""
    pace = Pace()
    assert not any(pace.change(number * 0.2) for number in range(1000))


# ---- the thread ----


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


@pytest.mark.parametrize("blind", [False, True])
def test_reader_between_list_and_wait(blind: bool) -> None:  # noqa: FBT001
    """A reader that comes after the list and before the wait is found, by an old pcsc-lite too."""
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
    assert all(seconds <= LONGEST_WAIT for seconds in pcsc.waits)


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


# ---- the board ----


def scene(*names: str, full: str = "") -> Scene:
    """Return a scene with these readers, one of which may have a card."""
    return Scene(
        {name: reader(PRESENT, ATR, 1, name) if name == full else reader(EMPTY, name=name) for name in names}
    )


def test_subscription_follows_its_snapshot() -> None:
    """Whoever subscribes hears exactly of the numbers after his state's, in order, each once."""

    async def run() -> None:
        board = Board(lambda _: None)
        board.see(scene("one"))
        subscription = board.subscribe()
        state = board.snapshot(None)
        for _ in range(5):
            board.see(scene("one", full="one"))
            board.see(scene("one"))
        heard = [await subscription.take() for _ in range(10)]

        assert [state["sequence"] + 1 + n for n in range(10)] == [each.number for each in heard if each]

    asyncio.run(run())


def test_coming_back() -> None:
    """One who comes back with his last number gets all since; with a number too old, the state alone."""

    async def run() -> None:
        board = Board(lambda _: None)
        board.see(scene("one"))
        last = board.snapshot(None)["sequence"]
        board.see(scene("one", full="one"))

        again = board.snapshot(last)
        assert (True, ["inserted"]) == (again["complete"], [each["change"] for each in again["changes"]])
        assert [] == board.snapshot(again["sequence"])["changes"]
        for number in range(KEPT):
            board.see(scene("one", full="one" if number % 2 else ""))
        assert not board.snapshot(last)["complete"]
        assert not board.snapshot(again["sequence"] + KEPT + 1)["complete"]
        assert Board(lambda _: None).snapshot(last)["complete"] is False

    asyncio.run(run())


def test_subscribing_is_one_act() -> None:
    """However fast readers change, whoever asks the broker to be told goes on where the state ends."""

    async def change(board: Board) -> None:
        for number in itertools.count():
            board.see(scene("one", full="one" if number % 2 else ""))
            await asyncio.sleep(0)

    async def run() -> None:
        kept = Cards(lambda: (), lambda _: None, lambda _: None, lambda _: FakePcsc())
        host: Any = SimpleNamespace(cards=kept, config=lambda: SimpleNamespace(enabled=()))
        kept.board.see(scene("one"))
        changing = asyncio.create_task(change(kept.board))
        for _ in range(20):
            control = Control(host, cast("Any", None))
            answer = await control.answer(Request(1, "readers", [{"subscribe": True}]))
            assert control.subscription is not None
            next_one = await control.subscription.take()
            assert next_one is not None
            assert cast("Any", answer.response.result)["sequence"] + 1 == next_one.number
            control.close()
        changing.cancel()
        kept.stop()

    asyncio.run(run())


def test_who_does_not_read_is_let_go() -> None:
    """The broker ends the channel of one who does not take what he is told: he comes back, and asks."""
    sent: list[Any] = []

    class Slow:
        async def send(self, message: Any) -> None:
            sent.append(message)

        def end(self) -> None:
            sent.append("end")

    async def run() -> None:
        board = Board(lambda _: None)
        subscription = board.subscribe()
        for number in range(KEPT + 10):
            board.see(scene("one", full="one" if number % 2 else ""))
        await doors._tell(cast("Any", Slow()), subscription)  # noqa: SLF001

    asyncio.run(run())
    assert (KEPT + 1, "end") == (len(sent), sent[-1])


def test_slow_reader_of_changes() -> None:
    """One who does not take what he is told hears, in the end, that he must come back; memory is bounded."""

    async def run() -> None:
        board = Board(lambda _: None)
        subscription = board.subscribe()
        for number in range(KEPT + 10):
            board.see(scene("one", full="one" if number % 2 else ""))
        heard = [await subscription.take() for _ in range(KEPT + 1)]

        assert heard[-1] is None
        assert None not in heard[:-1]

    asyncio.run(run())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), st.booleans(), st.integers(0, 3)), max_size=30))
def test_changes_lead_from_state_to_state(steps: list[tuple[str, bool, int]]) -> None:
    """Applying what is told to the state before gives the state after, whatever happens."""
    from p11host.cards.subscriber import apply  # noqa: PLC0415

    async def run() -> None:
        board = Board(lambda _: None)
        subscription = board.subscribe()
        readers = {each["name"]: each for each in board.snapshot(None)["readers"]}
        present: dict[str, Reader] = {}
        for name, is_there, moves in steps:
            before = present.pop(name, None)
            if is_there:
                count = (before.count if before else 0) + moves
                present[name] = reader(
                    PRESENT if count % 2 else EMPTY, ATR if count % 2 else b"", count, name
                )
            board.see(Scene(dict(present)))
        while subscription._waiting:  # noqa: SLF001 (what is there already)
            numbered = await subscription.take()
            assert numbered is not None
            apply(readers, numbered.told())

        assert {each["name"]: each for each in board.snapshot(None)["readers"]} == readers

    asyncio.run(run())


# ---- the broker's part ----


async def heard(subscription: Subscription, kind: str) -> None:
    """Return when a change of that kind has been told."""
    while (numbered := await subscription.take()) is not None and numbered.change.kind != kind:
        pass


def test_modules_are_prompted(tmp_path: Path) -> None:
    """When a card moves, helpers of modules that reach PC/SC are to look; not when somebody uses a card.

    When PC/SC has been restarted they are to be others.
    """
    opensc = Library().write(tmp_path / "opensc-pkcs11.so")
    path = tmp_path / "p11host.toml"
    path.write_text(module("opensc", opensc) + module("other", Library().write(tmp_path / "other.so")))
    modules = load(choose(path)).modules
    pcsc = FakePcsc()
    pcsc.add("one")
    prompts: list[frozenset[str]] = []
    renewed: list[frozenset[str]] = []

    async def run() -> None:
        kept = Cards(lambda: modules, prompts.append, renewed.append, lambda _: pcsc)
        subscription = kept.board.subscribe()
        kept.used(modules[1])
        assert not pcsc.established
        kept.used(modules[0])
        async with asyncio.timeout(PATIENCE):
            await heard(subscription, "added")
            pcsc.set("one", PRESENT, ATR)
            await heard(subscription, "inserted")
            await asyncio.sleep(0)
            before = len(prompts)
            pcsc.set("one", PRESENT | IN_USE, ATR, moves=0)
            await heard(subscription, "used")
            used = len(prompts)
            assert not renewed
            pcsc.end()
            await heard(subscription, "service")
            pcsc.begin()
            await heard(subscription, "service")
        await asyncio.sleep(0)
        kept.stop()
        assert {frozenset({"opensc"})} == set(prompts)
        assert used == before
        assert [frozenset({"opensc"})] == renewed

    asyncio.run(run())


def test_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each thing that happens to PC/SC, readers and cards is one event, and who shares a card none."""
    full = FULL_ONE
    mute, used = reader(PRESENT | MUTE, ATR, 1), reader(PRESENT | IN_USE, ATR, 1)
    mad = Reader("one", PRESENT | 1 << 16, ATR, flapping=True)
    none, gone = Scene({}, error_of(0x8010001D)), Scene({}, error_of(0x80100013))
    expected = [
        ("cards.unwatched", {"service": "SCARD_E_NO_SERVICE"}),
        ("cards.watched", {"service": "ok"}),
        ("reader.added", {"reader": "one"}),
        ("card.inserted", {"reader": "one", "atr": ATR.hex()}),
        ("reader.fault", {"reader": "one", "fault": "mute", "error": "SCARD_W_UNRESPONSIVE_CARD"}),
        ("reader.fault", {"reader": "one"}),
        ("reader.flapping", {"reader": "one", "count": 1}),
        ("reader.calm", {"reader": "one"}),
        ("card.removed", {"reader": "one"}),
        ("reader.gone", {"reader": "one"}),
    ]

    async def run() -> None:
        board = Cards(lambda: (), lambda _: None, lambda _: None, lambda _: FakePcsc()).board
        for each in (none, gone):
            board.see(each)
        for readers in ((), (full,), (mute,), (full,), (used,), (full,), (mad,), (full,), ()):
            board.see(Scene({one.name: one for one in readers}))

    with caplog.at_level("INFO", "p11host"):
        asyncio.run(run())
    assert expected == [(record.getMessage(), fields_of(record)) for record in caplog.records]
    assert ["reader.flapping"] == [
        record.getMessage() for record in caplog.records if record.levelname == "WARNING"
    ]


def test_exclusive_use_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """When a program begins to have a card for itself that is a line, and when it ends to; no look is one."""
    kept = Cards(list, lambda _: None, lambda _: None)
    alone = PRESENT | EXCLUSIVE
    states = [EMPTY, PRESENT, alone, alone, alone | IN_USE, PRESENT | IN_USE, alone, EMPTY, PRESENT]

    async def run() -> None:
        for count, state in enumerate(states):
            moves = 2 if state == EMPTY and count else 1
            kept.board.see(Scene({"one": reader(state, ATR if state & PRESENT else b"", moves)}))

    caplog.set_level("INFO", "p11host")
    asyncio.run(run())
    said = [record for record in caplog.records if record.message.startswith(("card.ex", "card.rel"))]

    assert ["card.exclusive", "card.released", "card.exclusive"] == [record.message for record in said]
    assert {"reader": "one", "error": "SCARD_E_SHARING_VIOLATION"} == fields_of(said[0])


# ---- time ----


def test_nothing_depends_on_the_clock_that_is_set() -> None:
    """What waits or measures does so by the monotonic clock: the system's may jump."""
    for path in [*(ROOT / "p11host" / "cards").glob("*.py"), Path(__file__).with_name("fake_pcsc.py")]:
        tree = ast.parse(path.read_text())
        used = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        assert not used & {"time.time", "time.time_ns", "datetime.now", "time.localtime"}, path
