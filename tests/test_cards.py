"""What PC/SC says of readers and cards, what changes between two looks, and what the broker makes of it."""

import asyncio
from pathlib import Path

import pytest
from brokers import PATIENCE, module
from elf import Library
from fake_pcsc import ATR, FakePcsc, reader
from hypothesis import given, settings
from hypothesis import strategies as st

from p11host.cards import codes
from p11host.cards.atr import described, historical
from p11host.cards.board import Subscription
from p11host.cards.codes import CardError, error_named, error_of
from p11host.cards.keeper import Cards
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
from p11host.config import choose, load
from p11host.errors import P11HostError
from p11host.log import fields_of

OTHER = b"\x3b\x01\x02"


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
