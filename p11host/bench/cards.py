"""How long it takes until somebody who waits hears of a card: PC/SC itself, the broker, an application.

Knows a reader in software, moves a card in and out of it, and compares clocks. Must not know how any waits
but by the one call that it makes.
"""

import contextlib
import os
import queue
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from p11host import shim_path
from p11host.bench.rack import Rack, rack
from p11host.cards.layer import Pyscard
from p11host.cards.reader import PRESENT
from p11host.cards.slots import Slots
from p11host.cards.subscriber import Subscriber
from p11host.client import Channel, Door
from p11host.errors import P11HostError
from p11host.start import private_broker

PCSC, BROKER, SHIM = "SCardGetStatusChange", "readers of the broker", "C_WaitForSlotEvent, p11host"
#: At most so many times what PC/SC itself takes.
LIMIT = 1.3
MOVES, QUICK_MOVES = 40, 4
#: Seconds in which a move must have been heard of, and after which the next follows, at least and at most.
PATIENCE, LEAST_PAUSE, MOST_PAUSE = 30.0, 0.3, 0.8
_READER = "Virtual PCD 00 00"
_PROVIDER = "opensc-pkcs11.so"

Heard = queue.SimpleQueue[float]


@dataclass(frozen=True, slots=True)
class Way:
    """How long each move took to be heard of by one who waits, in seconds."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """What half of them took less than."""
        return median(self.seconds)

    def ratio(self, other: "Way") -> float:
        """Return how many times the other's median this one's is."""
        return self.median / other.median

    def later(self, other: "Way") -> float:
        """Return by how much it was later than the other, move by move, in half of them at most."""
        return median(own - its for own, its in zip(self.seconds, other.seconds, strict=True))


class Blank:
    """A PIV card without keys (NIST SP 800-73-4): as little as a provider needs to call it a token."""

    atr = bytes.fromhex("3b951381018073ff01000b")
    _SELECT, _GET_DATA, _OK = 0xA4, 0xCB, bytes.fromhex("9000")
    _APPLICATION = bytes.fromhex("a000000308")
    _SELECTED = bytes.fromhex("61114f0600001000010079074f05a000000308")
    _CHUID = bytes.fromhex("5fc102")
    _ITS_CHUID = bytes.fromhex(
        "533b3019d4e739da739ced39ce739da1685a1082108ce73984108e73fe34"
        "1030313233343536373839616263646566350832303434303130313e00fe00"
    )

    def reset(self) -> None:
        """Forget nothing: it has nothing to forget."""

    def answer(self, command: bytes) -> bytes:
        """Answer what it is selected by, and who it is."""
        instruction, data = command[1], command[5:]
        if instruction == self._SELECT and data.startswith(self._APPLICATION):
            return self._SELECTED + self._OK
        if instruction == self._GET_DATA and self._CHUID in data:
            return self._ITS_CHUID + self._OK
        return b"\x6a\x82"


def run(*, quick: bool, console: Console) -> list[Way]:
    """Return how long everybody took; PC/SC itself stands first."""
    with tempfile.TemporaryDirectory(prefix="p11host-bench-") as name, contextlib.ExitStack() as stack:
        made = stack.enter_context(rack(Path(name)))
        broker = stack.enter_context(private_broker(_configured(Path(name), made)))
        os.environ.update(broker.env)
        waiters = {
            PCSC: stack.enter_context(_waiting(lambda tell: _pcsc(made, tell))),
            BROKER: stack.enter_context(_waiting(lambda tell: _broker(broker.socket, tell))),
            SHIM: stack.enter_context(_waiting(_shim)),
        }
        time.sleep(LEAST_PAUSE)
        times: dict[str, list[float]] = {each: [] for each in waiters}
        with Progress(console=console, transient=True) as progress:
            for move in progress.track(range(QUICK_MOVES if quick else MOVES), description="moving a card"):
                _move(made, waiters, times, inserts=move % 2 == 0)
    return [Way(name, tuple(seconds)) for name, seconds in times.items()]


def _configured(directory: Path, made: Rack) -> Path:
    provider = next(Path("/").glob(f"usr/lib/**/{_PROVIDER}"), None)
    if provider is None:
        raise P11HostError("OpenSC is not installed; run: apt-get install opensc-pkcs11")
    path = directory / "p11host.toml"
    where = made.env["PCSCLITE_CSOCK_NAME"]
    path.write_text(f'[module.opensc]\npath = "{provider}"\nenv = {{ PCSCLITE_CSOCK_NAME = "{where}" }}\n')
    path.chmod(0o600)
    return path


def _move(made: Rack, waiters: dict[str, Heard], times: dict[str, list[float]], *, inserts: bool) -> None:
    """Move the card once, and note when each has heard of it. At any phase of pcscd's own looks."""
    time.sleep(random.uniform(LEAST_PAUSE, MOST_PAUSE))  # noqa: S311 (no secret)
    for heard in waiters.values():
        while not heard.empty():
            heard.get()
    slot = made.slots[0]
    began = time.monotonic()
    slot.insert(Blank()) if inserts else slot.remove()
    for name, heard in waiters.items():
        try:
            times[name].append(heard.get(timeout=PATIENCE) - began)
        except queue.Empty as error:
            raise P11HostError(f"{name} has not heard of a card within {PATIENCE:g} s") from error


@contextlib.contextmanager
def _waiting(wait: Callable[[Callable[[], None]], Any]) -> Iterator[Heard]:
    """Have a thread that waits, and tells when; yield its times. It ends with what it waits for."""
    heard: Heard = queue.SimpleQueue()
    ready = threading.Event()

    def tell() -> None:
        heard.put(time.monotonic())

    def work() -> None:
        with wait(tell) as waiting:
            ready.set()
            with contextlib.suppress(P11HostError, OSError):
                waiting()

    threading.Thread(target=work, daemon=True).start()
    if not ready.wait(PATIENCE):
        raise P11HostError("who is to wait for a card is not ready")
    yield heard


@contextlib.contextmanager
def _pcsc(made: Rack, tell: Callable[[], None]) -> Iterator[Callable[[], None]]:
    layer = Pyscard(made.env["PCSCLITE_CSOCK_NAME"])
    context = layer.establish()

    def wait() -> None:
        state = 0
        while True:
            ((_, now, _),) = layer.wait(context, PATIENCE, [(_READER, state)])
            if (now ^ state) & PRESENT:
                tell()
            state = now

    yield wait


@contextlib.contextmanager
def _broker(socket: Path, tell: Callable[[], None]) -> Iterator[Callable[[], None]]:
    def connect() -> Channel:
        with Door.of_broker(socket) as door:
            return door.open("p11host bench")

    with Subscriber(connect) as subscriber:
        subscriber.begin()

        def wait() -> None:
            while (said := subscriber.hear(None)) is not None:
                if said.get("change") in ("inserted", "removed"):
                    tell()

        yield wait


@contextlib.contextmanager
def _shim(tell: Callable[[], None]) -> Iterator[Callable[[], None]]:
    with Slots(shim_path()) as slots:
        slots.numbers()

        def wait() -> None:
            while True:
                slots.event()
                tell()

        yield wait


# ---- what is told ----


def as_json(ways: Sequence[Way]) -> dict[str, Any]:
    """Return all as one JSON-able object, times in seconds."""
    first = ways[0]
    return {
        "moves": len(first.seconds),
        "ways": {
            way.name: {
                "median": way.median,
                "worst": max(way.seconds),
                "ratio": way.ratio(first),
                "later": way.later(first),
            }
            for way in ways
        },
        "target": {"ratio": LIMIT, "met": all(way.ratio(first) <= LIMIT for way in ways)},
    }


def show(console: Console, ways: Sequence[Way]) -> None:
    """Print the results as a table."""
    first = ways[0]
    table = Table(title=f"From a card's move to who waits: {len(first.seconds)} moves")
    table.add_column("")
    for title in ("median", "worst", "× PC/SC", "later"):
        table.add_column(title, justify="right")
    for way in ways:
        times = [f"{value * 1000:.0f} ms" for value in (way.median, max(way.seconds))]
        table.add_row(way.name, *times, f"{way.ratio(first):.3f}", f"{way.later(first) * 1000:.1f} ms")
    console.print(table)
    met = all(way.ratio(first) <= LIMIT for way in ways)
    console.print(f"At most {LIMIT} × PC/SC itself: {'met' if met else 'not met'}")
