"""Doors of the broker: what opens a channel, and what does not."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import (
    HELLO,
    PATIENCE,
    Broker,
    Starter,
    module,
    raw_channel,
    raw_door,
    read_all,
    through,
)

from p11host.limits import limits
from p11host.scan import control_frame
from p11host.wire import ClosedError, Hello, encode

pytest_plugins = ["broker_fixtures"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


class TestDoor:
    """PROTOCOL.md section 2: what is no channel is dropped with its descriptors; the door stays usable."""

    @pytest.mark.parametrize(
        ("body", "descriptors", "why"),
        [
            pytest.param(HELLO + b"\xc0", 1, "bytes after", id="bytes after the hello"),
            pytest.param(HELLO[:-1], 1, "cut short", id="truncated hello"),
            pytest.param(b"", 1, "cut short", id="no body"),
            pytest.param(b"\x91" * 1000 + b"\xc0", 1, "nesting", id="nested"),
            pytest.param(b"\xdd\xff\xff\xff\xff", 1, "array of 4294967295", id="a claimed array"),
            pytest.param(b"\xc6\xff\xff\xff\xff", 1, "byte string of 4294967295", id="claimed bytes"),
            pytest.param(HELLO.replace(b"\x01", b"\xcf" + b"\x80" + bytes(7)), 1, "", id="protocol 2^63"),
            pytest.param(HELLO.ljust(1025, b"\xc0"), 1, "longer than 1024", id="oversized hello"),
            pytest.param(HELLO, 0, "no descriptors", id="no descriptor"),
            pytest.param(HELLO, 2, "2 descriptors", id="two descriptors"),
            pytest.param(HELLO, 200, "2 descriptors", id="200 descriptors"),
            pytest.param(b"", 0, "no descriptors", id="nothing at all"),
            pytest.param(b"\x93\x02\xa4hung\x91\x80", 0, "nobody's helper", id="a report of nothing"),
            pytest.param(b"\x93\x02\xa4hung\x91\x80", 1, "no hello", id="a report with a channel"),
            pytest.param(b"\x93\x02\xa4hung\x91", 0, "cut short", id="half a report"),
            pytest.param(b"\x93\x02\xa3bye\x91\x80", 1, "no hello", id="another notification"),
            pytest.param(b"\x94\x00\x01\xa5hello\x91\x80", 1, "no hello", id="a request"),
            pytest.param(b"\x93\x02\xa5hello\x91\x80", 1, "without protocol", id="hello without protocol"),
            pytest.param(b"\x93\x02\xa5hello\x90", 1, "one map", id="hello without a map"),
        ],
    )
    def test_is_dropped(self, broker: Broker, body: bytes, descriptors: int, why: str) -> None:
        """A message that is no hello with one descriptor changes nothing for the next."""
        with raw_door(broker) as door:
            ends = [socket.socketpair() for _ in range(descriptors)]
            socket.send_fds(door, [body], [theirs.fileno() for _, theirs in ends])
            for _, theirs in ends:
                theirs.close()
            for mine, _ in ends:
                mine.settimeout(PATIENCE)
                with mine:
                    assert (why == "") == (b"hello" in read_all(mine))
            if why:
                assert why in broker.wait_event("door.dropped")["error"]

            _assert_usable(door)
        assert broker.is_alive()

    @pytest.mark.parametrize("kind", ["file", "datagram", "listening", "inet", "door"])
    def test_other_descriptors_are_dropped(self, broker: Broker, kind: str) -> None:
        """A descriptor that is no connected stream socket of this machine opens nothing."""
        with raw_door(broker) as door:
            for descriptor in _descriptors(kind):
                socket.send_fds(door, [HELLO], [descriptor])

            assert "a descriptor that is no" in broker.wait_event("door.dropped")["error"]
            _assert_usable(door)

    def test_a_flood_is_no_flood_in_the_log(self, broker: Broker) -> None:
        """Of a thousand bad messages some are logged, and the door still works."""
        with raw_door(broker) as door:
            for _ in range(1000):
                door.send(b"x")
            _assert_usable(door)
        counts = [broker.wait_event("door.dropped")["count"] for _ in range(10)]

        assert [1 << exponent for exponent in range(10)] == counts

    def test_channels_of_one_door_are_limited(self, broker: Broker) -> None:
        """Channels beyond the limit are closed; others' doors and this one's earlier channels go on."""
        most = limits().channels
        with raw_door(broker) as door, contextlib.ExitStack() as stack, _many_descriptors(2 * most):
            kept = [stack.enter_context(raw_channel(door)) for _ in range(most)]
            mine, theirs = socket.socketpair()
            with theirs:
                socket.send_fds(door, [HELLO], [theirs.fileno()])

            with mine:
                assert b"" == read_all(mine)
            assert "too many channels" in broker.wait_event("door.dropped")["error"]
            kept[0].sendall(b"\x94\x00\x01\xa6status\x91\x80")
            assert kept[0].recv(4).startswith(b"\x94\x01\x01\xc0")
            assert broker.is_alive()

    def test_descriptors_are_limited(self, starter: Starter, provider: Path) -> None:
        """Connections beyond a user's share are closed; earlier ones go on, and later ones come in again."""
        broker = starter.start(module("one", provider), limits="ulimit -n 64")
        with broker.channel() as channel, contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(raw_door(broker))

            assert "share is used up" == broker.wait_event("door.refused")["reason"]
            assert channel.call("status", [{}], PATIENCE)
        assert _alive_in_time(broker)

    def test_another_protocol_is_told(self, broker: Broker) -> None:
        """A caller of another protocol gets a hello that says so, and then the end."""
        mine, theirs = socket.socketpair()
        with raw_door(broker) as door, mine:
            with theirs:
                body = encode(Hello(2, 8, 0).message(), control_frame())
                socket.send_fds(door, [body], [theirs.fileno()])
            mine.settimeout(PATIENCE)

            assert b"the broker speaks protocol 1, the caller 2" in read_all(mine)

    @needs_root
    def test_another_user_is_refused(self, broker: Broker) -> None:
        """A broker serves its own user and root, whatever the mode of its socket."""
        broker.socket.chmod(0o666)
        with _reachable(broker) as path:
            assert b"" == _as_nobody(path)
        assert "another user" == broker.wait_event("door.refused")["reason"]

    @needs_root
    def test_a_system_broker_serves_all(self, starter: Starter, provider: Path) -> None:
        """A system broker's socket is open to everybody, and shows nobody the applications of another."""
        broker = starter.start(module("one", provider), everybody=True)
        with through(broker.attach()[0]), _reachable(broker) as path:
            answer = _as_nobody(path)

        assert b"applications\x90" in answer
        assert 0o666 == broker.socket.stat().st_mode & 0o777
        assert 1 == len(answer.split(b"\xa3one")) - 1


# Becomes another user, who can import nothing of ours, says hello, asks for the status and prints all.
_STRANGER = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
mine, theirs = socket.socketpair()
try:
    socket.send_fds(sock, [bytes.fromhex(sys.argv[2])], [theirs.fileno()])
except BrokenPipeError:
    pass
theirs.close()
mine.sendall(b"\\x94\\x00\\x01\\xa6status\\x91\\x80") if mine.recv(1, socket.MSG_PEEK) else None
mine.shutdown(socket.SHUT_WR)
while data := mine.recv(4096):
    print(data.hex())
"""


def _as_nobody(path: Path) -> bytes:
    """Return what the broker at `path` says to another user's hello and status."""
    command = [sys.executable, "-c", _STRANGER, str(path), HELLO.hex()]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True, cwd="/")
    return bytes.fromhex(done.stdout.decode())


@contextlib.contextmanager
def _reachable(broker: Broker) -> Iterator[Path]:
    """Give the broker's socket a name in a directory that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        os.link(broker.socket, directory / "sock")
        yield directory / "sock"


@contextlib.contextmanager
def _many_descriptors(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < count:
        pytest.skip(f"needs {count} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], count), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _alive_in_time(broker: Broker) -> bool:
    """Tell whether a broker serves again once it has seen what was closed."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(ClosedError):
            return broker.is_alive()
    return False


def _assert_usable(door: socket.socket) -> None:
    with raw_channel(door):
        pass


def _descriptors(kind: str) -> Iterator[int]:
    """Yield a descriptor of a kind that is no channel, and close it."""
    if kind == "file":
        with tempfile.TemporaryFile() as file:
            yield file.fileno()
        return
    family, of = {
        "datagram": (socket.AF_UNIX, socket.SOCK_DGRAM),
        "listening": (socket.AF_UNIX, socket.SOCK_STREAM),
        "door": (socket.AF_UNIX, socket.SOCK_SEQPACKET),
        "inet": (socket.AF_INET, socket.SOCK_STREAM),
    }[kind]
    with socket.socket(family, of) as sock:
        if kind == "listening":
            sock.bind("")
            sock.listen()
        yield sock.fileno()
