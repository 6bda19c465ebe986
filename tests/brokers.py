"""A broker of a test's own, in a process of its own, and what is done to it."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from p11host.client import Attached, Channel, Door
from p11host.scan import control_frame
from p11host.wire import PROTOCOL, Hello, encode

ROOT = Path(__file__).parent.parent
#: What a caller says through a door.
HELLO = encode(Hello(PROTOCOL, 8, 0, program="test").message(), control_frame())
#: Seconds after which something that must happen will not.
PATIENCE = 30.0

Event = Mapping[str, Any]


@dataclass
class Broker:
    """A broker in a process of its own, and the events it has logged."""

    process: subprocess.Popen[bytes]
    socket: Path
    config: Path
    events: list[Event] = field(default_factory=list)
    _rest: bytes = b""

    def door(self) -> Door:
        """Connect to it."""
        return Door.of_broker(self.socket, PATIENCE)

    def channel(self) -> Channel:
        """Open a channel through a door of its own, which is closed."""
        with self.door() as door:
            return door.open("test", PATIENCE)

    def attach(self) -> list[Attached]:
        """Attach through a channel of its own, which is closed. The doors are the caller's."""
        with self.channel() as channel:
            return channel.attach(PATIENCE)

    def status(self) -> dict[str, Any]:
        """Ask for its status."""
        with self.channel() as channel:
            status: dict[str, Any] = channel.call("status", [{}], PATIENCE)
        return status

    def wait_event(self, name: str, **fields: object) -> Event:
        """Return the next event of that name and with these fields, and forget it and those before it."""
        end = time.monotonic() + PATIENCE
        while True:
            for number, event in enumerate(self.events):
                if event["event"] == name and fields.items() <= event.items():
                    del self.events[: number + 1]
                    return event
            self._read_events(end, f"{name} {fields}")

    def end(self) -> int:
        """Tell it to end and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def is_alive(self) -> bool:
        """Tell whether it still serves, by asking it."""
        return bool(self.status()["pid"] == self.process.pid) and self.process.poll() is None

    def _read_events(self, end: float, wanted: str) -> None:
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        data = os.read(descriptor, 1 << 16) if ready else b""
        if not data:
            pytest.fail(f"no event {wanted}; known are {self.events}")
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.events += [json.loads(line) for line in lines if line.startswith(b"{")]


@dataclass
class Starter:
    """Starts brokers, and ends those a test leaves behind."""

    directory: Path
    helper: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self,
        config: str,
        *options: str,
        environ: Mapping[str, str] | None = None,
        helper: Path | None = None,
        everybody: bool = False,
        limits: str = "true",
    ) -> Broker:
        """Start a broker with a configuration of that text and return it once it listens.

        `limits` is what its shell says of limits before it becomes the broker.
        """
        path = self.directory / "p11host.toml"
        path.write_text(config)
        where = self.directory / "run" / "broker.sock"
        env = {"P11HOST_HELPER": str(helper or self.helper)} | dict(environ or {})
        words = [*options, *(["--system"] if everybody else [])]
        process = self.popen(["--config", str(path), "--socket", str(where), *words], env, limits)
        broker = Broker(process, where, path)
        broker.wait_event("broker.listening")
        return broker

    def popen(
        self, words: Sequence[str], environ: Mapping[str, str], limits: str = "true"
    ) -> subprocess.Popen[bytes]:
        """Start `p11host serve` and return at once."""
        shell = ["/bin/sh", "-c", f'{limits}; exec "$@"', "sh"]
        command = [*shell, sys.executable, "-m", "p11host", "serve", "--log-format", "json", *words]
        env = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environ)
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def end_all(self) -> None:
        """End what still runs."""
        for process in self.started:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


def module(name: str, provider: Path, **keys: object) -> str:
    """Return a module's table as TOML; JSON's strings, numbers and booleans are TOML's."""
    lines = [f"[module.{name}]", f'path = "{provider}"']
    lines += [f"{key} = {inline(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def inline(value: object) -> str:
    """Return a value as TOML in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def through(module: Attached) -> Channel:
    """Open a channel through the door of an attached module's helper, which is closed."""
    assert module.door is not None, module.error
    with Door.of_helper(module.door) as door:
        return door.open("test", PATIENCE)


def raw_door(broker: Broker) -> socket.socket:
    """Connect to a broker without anything in between."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(PATIENCE)
    sock.connect(str(broker.socket))
    return sock


@contextlib.contextmanager
def raw_channel(door: socket.socket) -> Iterator[socket.socket]:
    """Open a channel through a door and read its hello."""
    mine, theirs = socket.socketpair()
    with mine:
        with theirs:
            socket.send_fds(door, [HELLO], [theirs.fileno()])
        mine.settimeout(PATIENCE)
        assert b"hello" in mine.recv(4096)
        yield mine


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the end, which must come."""
    data = b""
    with contextlib.suppress(ConnectionResetError):  # the peer closed before it had read all of ours
        while more := sock.recv(65536):
            data += more
    return data


_ATTACH_AND_WAIT = """
import sys
from pathlib import Path
from p11host.client import Door
with Door.of_broker(Path(sys.argv[1])) as door, door.open() as channel:
    channels = [Door.of_helper(module.door).open() for module in channel.attach()]
    print("attached", flush=True)
    sys.stdin.read()
"""


def start_application(broker: Broker) -> subprocess.Popen[bytes]:
    """Start a process that attaches, opens a channel to each helper, says so, and waits to be stopped."""
    return subprocess.Popen(
        [sys.executable, "-c", _ATTACH_AND_WAIT, str(broker.socket)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def stop_application(application: subprocess.Popen[bytes]) -> None:
    """End it."""
    application.communicate(timeout=PATIENCE)
    assert 0 == application.returncode
