"""What is told of readers and cards, to each who asks: the state, and every change after it."""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, cast

from fake_pcsc import ATR, FakePcsc, reader, scene
from hypothesis import given, settings
from hypothesis import strategies as st

from p11host import doors
from p11host.cards.board import KEPT, Board, Numbered
from p11host.cards.codes import error_named
from p11host.cards.keeper import Cards
from p11host.cards.reader import EMPTY, IN_USE, MUTE, PRESENT, Change, Reader, Scene
from p11host.cli.events import line
from p11host.cli.readers import change_data, change_line
from p11host.control import Control
from p11host.wire import Request


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


# ---- in words ----


def said(change: Change) -> str:
    """Return the line that `p11host events` prints of a change."""
    told = Numbered(1, change).told()
    moment = {"time": "2026-01-31T12:00:00.000Z", "source": "reader", "text": change_line(told)}
    return line(moment | change_data(told)).partition("  ")[2]


def test_lines_of_events() -> None:
    """Each change is a line that names the reader, without anything in it that would steer a terminal."""
    full, mute = reader(PRESENT, ATR, 1), reader(PRESENT | MUTE, ATR, 1)
    odd = reader(EMPTY, name="\x1b[2J\udcff\n")

    assert "one  card inserted  3b00" == said(Change("inserted", full))
    assert "one  card inserted  3b00  and 3 changes before that" == said(Change("inserted", full, missed=3))
    assert "one  card  3b00  used: shared" == said(Change("used", reader(PRESENT | IN_USE, ATR, 1)))
    assert "does not answer" in said(Change("fault", mute))
    assert "PC/SC answers" == said(Change("service"))
    assert "PC/SC: SCARD_E_NO_SERVICE" == said(Change("service", error=error_named("SCARD_E_NO_SERVICE")))
    assert "\\x1b[2J\\udcff\\n  reader is gone" == said(Change("gone", odd))


def test_lines_of_slots() -> None:
    """A slot's event names slot, module, reader and token, or says why there is none to name."""
    slot: dict[str, Any] = {"time": "2026-01-31T12:00:00.000Z", "source": "slot", "slot": 3, "module": "one"}
    slot |= {"description": "Reader", "token": "key\x07", "serial": "1", "error": None}

    def words(**other: Any) -> str:
        return line(slot | other).partition("  ")[2]

    assert "slot 3 (one, Reader)  token 'key\\x07'" == words()
    assert "slot 3 (Reader)  no token" == words(module=None, token=None)
    assert "slot 3 (one, Reader)  CKR_DEVICE_ERROR" == words(token=None, error="CKR_DEVICE_ERROR")
    assert "slots cannot be waited for: it" == words(source="slots", error="it")
