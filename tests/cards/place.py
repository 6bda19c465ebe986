"""A pcscd, a broker whose OpenSC reaches it, and one who hears from the broker what happens to cards."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from brokers import PATIENCE, module

from cards.vpcd import Rack, rack
from p11host.cards.subscriber import Subscriber, apply
from p11host.client import Channel, Door
from p11host.start import PrivateBroker, private_broker

OPENSC = next(Path("/").glob("usr/lib/*/opensc-pkcs11.so"), Path("opensc-pkcs11.so"))
#: Milliseconds in which a signature is made: OpenSC may wait for itself when a card is pulled.
LONG = 20000
CONF = "app default { framework pkcs15 { use_file_caching = no; } }\n"


@dataclass
class Place:
    """A pcscd and a broker with OpenSC that reaches it."""

    rack: Rack
    broker: PrivateBroker
    opensc: Mapping[str, str]  # the environment in which OpenSC itself finds them

    def open(self) -> Channel:
        """Open a channel to the broker."""
        with Door.of_broker(self.broker.socket, PATIENCE) as door:
            return door.open("test", PATIENCE)

    def helpers(self) -> list[int]:
        """Return the helpers that applications have."""
        with self.open() as channel:
            status = channel.call("status", [{}], PATIENCE)
        return [helper["pid"] for each in status["applications"] for helper in each["helpers"]]

    @contextmanager
    def running(self, *words: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
        """Run the command line; it is ended at the end, and earlier if it takes too long."""
        process = subprocess.Popen(
            [sys.executable, "-m", "p11host", *words],
            env=os.environ | dict(self.broker.env),
            cwd="/",  # what is installed, not what lies here
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        with limited(process, PATIENCE):
            yield process

    def run(self, *words: str) -> tuple[int, str]:
        """Run the command line to its end; return its exit code and what it printed."""
        with self.running(*words) as process:
            said, errors = process.communicate()
            return process.returncode, said + errors


@contextmanager
def limited(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """End a program at the end, and earlier if it takes too long."""
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    with process:
        try:
            yield
        finally:
            watchdog.cancel()
            process.kill()


def line_of(process: subprocess.Popen[str]) -> Mapping[str, Any]:
    """Return the next object that a program prints."""
    assert process.stdout is not None
    said: Mapping[str, Any] = json.loads(process.stdout.readline())
    return said


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Interrupt a program; return its exit code and what it says of that."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    return process.returncode, errors


def configured(directory: Path, env: Mapping[str, str]) -> Path:
    """Write a configuration with OpenSC, which is to find pcscd by that environment."""
    conf, path = directory / "opensc.conf", directory / "p11host.toml"
    conf.write_text(CONF)
    path.write_text(module("opensc", OPENSC, env={**env, "OPENSC_CONF": str(conf)}, deadlines={"long": LONG}))
    return path


@contextmanager
def placed(directory: Path, name: str | bytes, *modules: str) -> Iterator[Place]:
    """Run both, with readers of that name and other modules besides."""
    with rack(directory, name) as made, served(made, *modules) as place:
        yield place


@contextmanager
def served(made: Rack, *modules: str) -> Iterator[Place]:
    """Run a broker whose OpenSC reaches that pcscd, with other modules besides."""
    config = configured(made.directory, made.env)
    config.write_text(config.read_text() + "".join(modules))
    with private_broker(config) as broker:
        yield Place(made, broker, made.env | {"OPENSC_CONF": str(made.directory / "opensc.conf")})


class Hearing:
    """One subscriber, and the readers as he knows them."""

    def __init__(self, place: Place) -> None:
        self.subscriber = Subscriber(place.open)
        self.readers: dict[bytes, Mapping[str, Any]] = {}
        self.state = self.subscriber.begin()
        apply(self.readers, self.state)
        self.numbers = [self.state["sequence"]]

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hear no more."""
        self.subscriber.close()

    def next(self, wanted: object) -> Mapping[str, Any]:
        """Return the next change."""
        said = self.subscriber.hear(PATIENCE)
        assert said is not None, f"no {wanted}; {self.readers}"
        apply(self.readers, said)
        self.numbers.append(said["sequence"])
        return said

    def until(self, kind: str, slot: int | None = None) -> Mapping[str, Any]:
        """Return the next change of that kind, in that slot."""
        while True:
            said = self.next(kind)
            if said.get("change") == kind and slot in (None, slot_of(said)):
                return said

    def until_full(self, *slots: int) -> None:
        """Return when there are cards in these slots, and in no other."""
        while {int(name[-2:], 16) for name, reader in self.readers.items() if reader["card"]} != {*slots}:
            self.next(slots)


def slot_of(said: Mapping[str, Any]) -> int | None:
    """Return which slot a change is about."""
    name: bytes = said.get("reader", {}).get("name", b"")
    return int(name[-2:], 16) if name else None
