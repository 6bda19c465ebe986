"""The synchronous peer: what it makes of answers, of none, and of wrong ones."""

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import PATIENCE, Broker

from p11host.client import Attached, Channel, Door, peer_credentials
from p11host.errors import BrokerError
from p11host.listen import listen
from p11host.scan import call_frame, report_frame
from p11host.wire import (
    PROTOCOL,
    ClosedError,
    Decoder,
    Hello,
    LocalError,
    Notification,
    RefusedError,
    RemoteError,
    Request,
    Response,
    encode,
)

pytest_plugins = ["broker_fixtures"]

HELLO = Hello(PROTOCOL, 8, 0, pid=1)
MODULE = {"name": "one", "door": True, "fork": "reinit", "short": 1, "long": 2}

Answer = Callable[[socket.socket, Request], None]


class Peer:
    """The other end of one channel, which answers each request as a test says."""

    def __init__(self, answer: Answer) -> None:
        mine, theirs = socket.socketpair()
        self.channel = Channel(mine, report_frame())
        self.requests: list[Request] = []
        self._socket = theirs
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def end(self) -> None:
        """Close both ends."""
        self.channel.close()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        decoder = Decoder(report_frame())
        while data := self._socket.recv(4096):
            decoder.feed(data)
            for message in decoder:
                assert isinstance(message, Request)
                self.requests.append(message)
                self._answer(self._socket, message)


@pytest.fixture
def peer() -> Iterator[Callable[[Answer], Peer]]:
    """Return what makes peers."""
    peers = []

    def make(answer: Answer) -> Peer:
        peers.append(Peer(answer))
        return peers[-1]

    yield make
    for each in peers:
        each.end()


def bytes_of(data: bytes) -> Answer:
    """Answer with these bytes whatever is asked."""
    return lambda sock, _: sock.sendall(data)


class Result:
    """Answers with a result, and at its first byte with the writing ends of pipes."""

    def __init__(self, result: object, descriptors: int = 0) -> None:
        self._result = result
        self._count = descriptors
        self._readers: list[int] = []

    def __call__(self, sock: socket.socket, request: Request) -> None:
        """Send the answer, and keep nothing of it but the reading ends."""
        pipes = [os.pipe() for _ in range(self._count)]
        self._readers += [reader for reader, _ in pipes]
        data = encode(Response(request.msgid, None, self._result), report_frame())
        socket.send_fds(sock, [data], [writer for _, writer in pipes])
        for _, writer in pipes:
            os.close(writer)

    def assert_closed(self) -> None:
        """See that nobody holds a descriptor that was sent."""
        for reader in self._readers:
            assert [reader] == select.select([reader], [], [], PATIENCE)[0]
            assert b"" == os.read(reader, 1)
            os.close(reader)
        self._readers.clear()


class TestCall:
    """A call has an answer, or an error that says whose fault it is."""

    def test_result(self, peer: Callable[[Answer], Peer]) -> None:
        """What was asked arrives, and its result comes back."""
        one = peer(Result([0, b"x"]))

        assert [0, b"x"] == one.channel.call("C_Any", [1, None], PATIENCE)
        assert [0, b"x"] == one.channel.call("C_Any", [], PATIENCE)
        assert [("C_Any", [1, None]), ("C_Any", [])] == [(each.method, each.params) for each in one.requests]

    def test_descriptors_nobody_wants(self, peer: Callable[[Answer], Peer]) -> None:
        """Descriptors that come with an answer are closed unless they were asked for."""
        result = Result(0, descriptors=3)
        one = peer(result)
        one.channel.call("m", [], PATIENCE)

        result.assert_closed()
        _, descriptors = one.channel.call_with_descriptors("m", [], PATIENCE)
        assert [False] * 3 == [os.get_inheritable(each) for each in descriptors]
        for each in descriptors:
            os.close(each)
        result.assert_closed()

    @pytest.mark.parametrize(
        ("data", "kind", "why"),
        [
            (b"\x94\x01\x01\x92\xa7refused\xa2no\xc0", RefusedError, "refused: no"),
            (b"\x94\x01\x01\x92\xa6failed\xa2no\xc0", RemoteError, "failed: no"),
            (b"\x94\x01\x01\x92\xa5limit\xa2no\xc0", LocalError, "limit: no"),
            (b"\x94\x01\x02\xc0\xc0", RemoteError, "an answer to no question"),
            (b"\x93\x02\xa1m\x90", RemoteError, "an answer to no question"),
            (b"\x94\x00\x01\xa1m\x90", RemoteError, "an answer to no question"),
            (b"\xc1", RemoteError, "never uses"),
            (b"\x94\x01\x01\xc0\xdd\xff\xff\xff\xff", RemoteError, "array of 4294967295"),
            (b"\x91" * 100, RemoteError, "nesting"),
        ],
    )
    def test_errors(
        self, peer: Callable[[Answer], Peer], data: bytes, kind: type[Exception], why: str
    ) -> None:
        """An error is of the class of whoever is to blame."""
        with pytest.raises(kind, match=why):
            peer(bytes_of(data)).channel.call("m", [], PATIENCE)

    def test_no_answer(self, peer: Callable[[Answer], Peer]) -> None:
        """A peer that is silent, or stops in the middle, ends the wait; a late answer is nobody's."""
        for part in (b"", b"\x94\x01\x01"):
            one = peer(bytes_of(part))
            with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
                one.channel.call("m", [], 0.05)
            with pytest.raises(OSError, match="Bad file descriptor"):
                one.channel.call("m", [], PATIENCE)

    def test_the_peer_is_gone(self, peer: Callable[[Answer], Peer]) -> None:
        """A peer that closes before or after it was asked is told as such, without a signal."""
        one = peer(lambda sock, _: sock.shutdown(socket.SHUT_RDWR))
        with pytest.raises(ClosedError, match="the peer closed the channel"):
            one.channel.call("m", [], PATIENCE)
        mine, theirs = socket.socketpair()
        theirs.close()
        with pytest.raises(ClosedError), Channel(mine, report_frame()) as channel:
            channel.call("m", [], PATIENCE)

    def test_our_own_fault(self, peer: Callable[[Answer], Peer]) -> None:
        """What must not be sent is not, and the channel goes on."""
        one = peer(Result(5))
        with pytest.raises(LocalError, match="floating point"):
            one.channel.call("m", [1.5], PATIENCE)

        assert 5 == one.channel.call("m", [], PATIENCE)


class TestAttach:
    """Doors and modules belong together."""

    def test_pairs(self, peer: Callable[[Answer], Peer]) -> None:
        """A door goes to the module that has one, in order."""
        said = {"error": "no", "fork": "strict", "short": 0, "long": 0, "list": 3}
        without = {"name": "two", "door": False} | said
        answer = Result({"modules": [MODULE, without, MODULE]}, 2)
        one, two, three = peer(answer).channel.attach(PATIENCE)

        assert Attached("two", None, "no", "strict", 0, 0, 3) == two
        assert one.door is not None
        assert three.door is not None
        assert ("one", "reinit", 1, 2) == (one.name, one.fork, one.short, one.long)
        os.close(one.door)
        os.close(three.door)
        answer.assert_closed()

    @pytest.mark.parametrize(
        ("result", "descriptors"),
        [
            ({"modules": [MODULE]}, 0),
            ({"modules": [MODULE]}, 2),
            ({"modules": []}, 1),
            ({"modules": [{"name": "x"}]}, 1),
            ({"modules": 5}, 1),
            ({}, 1),
            (None, 1),
        ],
    )
    def test_does_not_fit(self, peer: Callable[[Answer], Peer], result: object, descriptors: int) -> None:
        """Modules and doors that do not fit are the broker's fault, and no descriptor is left."""
        answer = Result(result, descriptors)
        with pytest.raises(RemoteError):
            peer(answer).channel.attach(PATIENCE)

        answer.assert_closed()

    @pytest.mark.parametrize("modules", [[], [MODULE | {"name": "two"}], [MODULE, MODULE]])
    def test_another_module(self, peer: Callable[[Answer], Peer], modules: list[dict[str, object]]) -> None:
        """An answer that is not about the one module asked for is the broker's fault as well."""
        answer = Result({"modules": modules}, len(modules))
        with pytest.raises(RemoteError, match="another answer than one about module one"):
            peer(answer).channel.open_module("one", PATIENCE)

        answer.assert_closed()


class TestDoor:
    """A door opens channels, to whoever is allowed to be behind it."""

    @pytest.mark.parametrize(
        ("greeting", "why"),
        [
            (encode(Hello(2, 8).message(), call_frame()), "the peer speaks protocol 2, this is 1"),
            (
                encode(Hello(1, 8, error="no card", rv=5).message(), call_frame()),
                r"no card \(CKR_GENERAL_ERROR\)",
            ),
            (encode(Notification("bye", []), call_frame()), "no hello"),
            (b"\xc1", "never uses"),
            (b"", "closed"),
        ],
    )
    def test_a_bad_greeting(self, greeting: bytes, why: str) -> None:
        """A peer that greets otherwise is not spoken to: the channel is closed."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ended = []

        def greet() -> None:
            _, descriptors, _, _ = socket.recv_fds(far, 1024, 1)
            with socket.socket(fileno=descriptors[0]) as channel:
                channel.sendall(greeting)
                channel.shutdown(socket.SHUT_WR)
                ended.append(channel.recv(1))

        thread = threading.Thread(target=greet)
        thread.start()
        with far, Door(near, call_frame()) as door, pytest.raises(RemoteError, match=why):
            door.open("test", PATIENCE)
        thread.join()
        assert [b""] == ended

    def test_nobody_answers(self) -> None:
        """A door that nobody serves does not keep its caller."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far, Door(near, call_frame()) as door, pytest.raises(TimeoutError):
            door.open("test", 0.05)

    def test_a_dead_broker(self, broker: Broker) -> None:
        """A broker that was killed is an error at once, on an open channel and at the socket it left."""
        with broker.channel() as channel, broker.door() as door:
            broker.process.kill()
            broker.process.wait(PATIENCE)

            with pytest.raises(ClosedError):
                channel.call("status", [{}], PATIENCE)
            with pytest.raises(ClosedError, match="nobody is behind the door"):
                door.open("test", PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            broker.door()

    def test_a_broker_of_somebody_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A socket in our place that another user listens on is not spoken to: it would be given PINs."""
        listener = listen(tmp_path / "run" / "broker.sock")
        monkeypatch.setattr("p11host.client.peer_credentials", lambda _: (1, 65535, 65535))
        with pytest.raises(BrokerError, match="the broker there runs as uid 65535, neither yours nor root"):
            Door.of_broker(tmp_path / "run" / "broker.sock")
        listener.close()

    def test_credentials(self) -> None:
        """The kernel says who is at the other end."""
        near, far = socket.socketpair()
        with near, far:
            assert (os.getpid(), os.getuid(), os.getgid()) == peer_credentials(near)
