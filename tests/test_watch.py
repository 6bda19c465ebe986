"""A helper's watch: what is in the slots, and every change after that (section 4.10 of PROTOCOL.md)."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from board import FIRST_SLOT, Board
from brokers import PATIENCE, through
from life import Host, Hosting, Workshop

from p11host import helper_path
from p11host.client import Channel, Door
from p11host.config import choose, load
from p11host.helper import Confined, spawn
from p11host.wire import Request, Response, WireError, encode

pytest_plugins = ["life_fixtures"]

#: Milliseconds: longer than anything takes, and so short that nothing is waited for by chance.
LONG, NEVER = 15_000, 3_600_000
FACE = [b"card".ljust(32), b"readers".ljust(32), b"card".ljust(16)]
FLAGS = 0x400  # CKF_TOKEN_INITIALIZED


@pytest.fixture(scope="session")
def readers(workshop: Workshop) -> Path:
    """Return the provider whose slots are on a board."""
    return workshop.provider("readers")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Return a board with three slots, none with a token."""
    return Board(tmp_path / "board", 3)


def token(number: int) -> list[Any]:
    """Return the state of a slot with this token."""
    return [*FACE, str(number).encode().ljust(16), FLAGS]


@contextmanager
def watching(host: Host) -> Iterator[Channel]:
    """Open a channel to a helper of the only module, in an application of its own."""
    with ExitStack() as stack:
        broker = stack.enter_context(Door.of_broker(Path(host.env["P11HOST_SOCKET"])))
        (attached,) = stack.enter_context(broker.open()).attach()
        yield stack.enter_context(through(attached))


def ask(channel: Channel, after: int | None = None, wait: int = 0) -> dict[str, Any]:
    """Ask for what has happened after an event."""
    answer: dict[str, Any] = channel.call("watch", [{"after": after, "wait": wait}], LONG / 1000)
    return answer


def changes(answer: dict[str, Any]) -> list[list[Any]]:
    """Return slots and states of events, which are numbered one after the other."""
    assert "events" == answer["kind"]
    numbers = [number for number, _, _ in answer["events"]]
    assert list(range(answer["number"] - len(numbers) + 1, answer["number"] + 1)) == numbers
    return [[slot - FIRST_SLOT, state] for _, slot, state in answer["events"]]


def test_state_and_then_every_change(hosting: Hosting, readers: Path, board: Board) -> None:
    """Who knows nothing gets the state and its number; who names that gets what came after it, once."""
    board.put(1, 11)
    with watching(hosting(board.module("readers", readers))) as channel:
        first = ask(channel)
        assert "state" == first["kind"]
        assert [[100, False], [101, token(11)], [102, False]] == first["slots"]
        board.put(0, 7)
        board.put(1, 0)
        second = ask(channel, first["number"])
        assert [[0, token(7)], [1, False]] == sorted(changes(second))
        assert [] == changes(ask(channel, second["number"]))
        assert changes(second) == changes(ask(channel, first["number"]))


def test_another_token_is_two_events(hosting: Hosting, readers: Path, board: Board) -> None:
    """A token pulled and another pushed between two looks is a slot that was empty, then the new token."""
    board.put(0, 1)
    with watching(hosting(board.module("readers", readers))) as channel:
        number = ask(channel)["number"]
        board.put(0, 2)

        assert [[0, False], [0, token(2)]] == changes(ask(channel, number))


def test_slots_come_and_go(hosting: Hosting, readers: Path, board: Board) -> None:
    """A slot that was not there is an event, and so is one that is there no more."""
    with watching(hosting(board.module("readers", readers))) as channel:
        number = ask(channel)["number"]
        board.resize(4)
        more = ask(channel, number)
        board.resize(3)

        assert [[3, False]] == changes(more)
        assert [[3, None]] == changes(ask(channel, more["number"]))


@pytest.mark.parametrize("wait", ["none", "good", "never", "at-once", "wrong", "nowhere", "null"])
def test_any_wait_of_its_own(hosting: Hosting, readers: Path, board: Board, wait: str) -> None:
    """Whatever the provider's own wait does, a change is told, and slots that are none are not."""
    keys: dict[str, Any] = {"event-interval": 50}
    with watching(hosting(board.module("readers", readers, wait, **keys))) as channel:
        number = ask(channel)["number"]
        for each in (1, 0, 2, 3):
            board.put(2, each)
            told = []
            while [2, token(each) if each else False] not in told:
                answer = ask(channel, number, LONG)
                number = answer["number"]
                told = changes(answer)
                assert {slot for slot, _ in told} <= {0, 1, 2}


def await_waits(board: Board, count: int) -> None:
    """Return once the provider's own wait has been called so many times."""
    end = time.monotonic() + PATIENCE
    while board.waits < count:
        assert time.monotonic() < end, f"{board.waits} waits"
        time.sleep(0.01)


def test_own_wait_needs_no_looks(hosting: Hosting, readers: Path, board: Board) -> None:
    """With a good wait of the provider's own a change is told at once; so is one that left no trace."""
    keys: dict[str, Any] = {"event-interval": NEVER}
    with watching(hosting(board.module("readers", readers, "good", **keys))) as channel:
        number = ask(channel)["number"]
        await_waits(board, 2)  # it is asked what it had to say before, and then waits
        board.put(0, 5)
        first = ask(channel, number, LONG)
        await_waits(board, 3)  # two changes before it waits again may be one event
        board.touch(0)
        second = ask(channel, first["number"], LONG)

        assert [[0, token(5)]] == changes(first)
        assert [[0, token(5)]] == changes(second)


def test_a_useless_wait_is_not_used(hosting: Hosting, readers: Path, board: Board) -> None:
    """A wait that returns at once again and again is given up after a few times."""
    keys: dict[str, Any] = {"event-interval": 10}
    with watching(hosting(board.module("readers", readers, "at-once", **keys))) as channel:
        ask(channel)
        while board.looks < 40:
            ask(channel, None, 1)

        assert board.waits < 10


def test_configured_without_wait(hosting: Hosting, readers: Path, board: Board) -> None:
    """With event-wait = false the provider's own wait is never called."""
    keys: dict[str, Any] = {"event-interval": 10, "event-wait": False}
    with watching(hosting(board.module("readers", readers, "good", **keys))) as channel:
        number = ask(channel)["number"]
        board.put(0, 1)

        assert [[0, token(1)]] == changes(ask(channel, number, LONG))
        assert 0 == board.waits


def test_wait_ends_with_the_next_request(hosting: Hosting, readers: Path, board: Board) -> None:
    """Who has asked and does not want to wait any more sends what it wants next."""
    with watching(hosting(board.module("readers", readers))) as channel:
        number = ask(channel)["number"]
        answers = pipelined(channel, [number, LONG], [number, 0])

        assert [[], []] == [changes(answer) for answer in answers]


#: What is no request, and what is one that can be understood.
WRONG: list[list[Any]] = [
    *([], [1], [{}, {}], ["wait"], [{1: 2}], [{"x" * 65: 1}]),
    *([{"wait": "x"}], [{"wait": None}], [{"wait": [1] * 3}], [{"wait": -2}]),
]
ODD: list[list[Any]] = [
    *([{}], [{"after": "x"}], [{"after": [[[{}]]]}], [{"after": -5}], [{"x": {"y": [None] * 9}}]),
    *([{"wait": 0, "after": None}], [{"after": (1 << 64) - 1, "wait": (1 << 64) - 1}]),
]


def test_lies_told_to_a_watch(hosting: Hosting, readers: Path, board: Board) -> None:
    """What is no request ends its channel; what is odd gets the state; who asks beside them is answered."""
    with ExitStack() as stack:
        host = hosting(board.module("readers", readers))
        broker = stack.enter_context(Door.of_broker(Path(host.env["P11HOST_SOCKET"])))
        (attached,) = stack.enter_context(broker.open()).attach()
        assert attached.door is not None
        door = stack.enter_context(Door.of_helper(attached.door))
        good = stack.enter_context(door.open())
        number = ask(good)["number"]
        for params in WRONG:
            with door.open() as bad, pytest.raises(WireError, match=r"fit the tables|over a limit"):
                bad.call("watch", params, LONG / 1000)
        for params in ODD:
            with door.open() as odd:
                assert "state" == odd.call("watch", params, LONG / 1000)["kind"]

        board.put(0, 4)
        assert [[0, token(4)]] == changes(ask(good, number, LONG))


def pipelined(channel: Channel, *requests: list[int]) -> list[dict[str, Any]]:
    """Send requests one after the other, then read the answers."""
    sock, frame = channel._socket, channel._frame  # noqa: SLF001 (client.py waits for each answer)
    for msgid, (after, wait) in enumerate(requests, 100):
        sock.sendall(encode(Request(msgid, "watch", [{"after": after, "wait": wait}]), frame))
    found = []
    for msgid, _ in enumerate(requests, 100):
        answer = channel._receive(LONG / 1000)  # noqa: SLF001
        assert isinstance(answer, Response)
        assert msgid == answer.msgid
        found.append(answer.result)
    return found


def test_the_broker_prompts(readers: Path, board: Board, tmp_path: Path) -> None:
    """A broker that knows of a change has a helper look at once; one that nobody asked pays nothing."""
    config = tmp_path / "p11host.toml"
    keys: dict[str, Any] = {"event-interval": NEVER}
    config.write_text(board.module("readers", readers, **keys))
    (configured,) = load(choose(config)).modules
    spawned = spawn(helper_path(), configured, (1024, 1024), Confined())
    try:
        with Door.of_helper(spawned.door.detach()) as door, door.open("test", LONG / 1000) as channel:
            spawned.look()
            channel.call("C_GetInfo", [True])
            assert 0 == board.looks
            number = ask(channel)["number"]
            assert [[], []] == [changes(each) for each in pipelined(channel, [number, LONG], [number, 0])]
            board.put(0, 1)
            spawned.look()
            assert [[0, token(1)]] == changes(ask(channel, number, LONG))
    finally:
        os.kill(spawned.pid, signal.SIGKILL)
        os.waitpid(spawned.pid, 0)
        for descriptor in (spawned.pidfd, spawned.stderr):
            os.close(descriptor)
        spawned.slate.close()
        spawned.trace.close()


@pytest.mark.parametrize("after", [0, 1 << 63])
def test_a_number_of_nobody(hosting: Hosting, readers: Path, board: Board, after: int) -> None:
    """A number of another life, or that was never given, is answered by the state, at once."""
    with watching(hosting(board.module("readers", readers))) as channel:
        assert "state" == ask(channel, after, LONG)["kind"]


def test_too_much_to_tell(hosting: Hosting, readers: Path, board: Board) -> None:
    """Who comes when more has happened than is remembered gets the state."""
    board.resize(300)
    with watching(hosting(board.module("readers", readers))) as channel:
        first = ask(channel)
        for slot in range(300):
            board.put(slot, 1)
        second = ask(channel, first["number"])

        assert "state" == second["kind"]
        assert first["number"] + 300 == second["number"]
        assert all(state == token(1) for _, state in second["slots"])


def test_flapping(hosting: Hosting, readers: Path, board: Board) -> None:
    """A slot that changes all the time is told of now and then; others as ever; its last state always."""
    with watching(hosting(board.module("readers", readers, "good"))) as channel:
        number, told = ask(channel)["number"], []
        for each in range(1, 201):
            board.put(0, each)
            told += changes(answer := ask(channel, number))
            number = answer["number"]
        board.put(1, 1)
        while [0, token(200)] not in told or [1, token(1)] not in told:
            told += changes(answer := ask(channel, number, LONG))
            number = answer["number"]

        assert len(told) < 200


def test_numbers_of_the_next_life_are_higher(hosting: Hosting, readers: Path, board: Board) -> None:
    """No number of one helper is ever one of another's: who comes with one gets the state."""
    host = hosting(board.module("readers", readers))
    with watching(host) as channel:
        before = ask(channel)["number"]
        board.put(0, 1)
        last = ask(channel, before)["number"]
    with watching(host) as channel:
        assert last < ask(channel)["number"]
        assert "state" == ask(channel, last, LONG)["kind"]


def test_a_provider_that_stands_still(hosting: Hosting, readers: Path, board: Board) -> None:
    """Who does not want to wait gets what is known, if that is nothing too, whatever the provider does."""
    with watching(hosting(board.module("readers", readers))) as channel:
        board.stick(stuck=True)
        assert {"kind": "none"} == ask(channel)
        board.stick(stuck=False)
        while ask(channel)["kind"] == "none":
            pass
        number = ask(channel)["number"]
        board.stick(stuck=True)
        assert [] == changes(ask(channel, number))
        board.stick(stuck=False)
