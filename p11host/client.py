"""A synchronous peer of brokers and helpers, for tools and tests: doors, channels, calls.

Knows sockets, descriptors and deadlines. Must not know what a method means beyond `attach`, whose answer
carries the descriptors of doors.
"""

import array
import contextlib
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from p11host.closing import Closing
from p11host.codes import ckr
from p11host.errors import BrokerError
from p11host.limits import deadlines, limits
from p11host.scan import Frame, call_frame, report_frame
from p11host.wire import (
    PROTOCOL,
    ClosedError,
    Decoder,
    Hello,
    LocalError,
    Message,
    Notification,
    RemoteError,
    Request,
    Response,
    Value,
    encode,
    map_of,
)

#: Width of CK_ULONG here, in bytes.
ULONG = 8 if sys.maxsize > 1 << 32 else 4
_CHUNK = 1 << 16
#: Seconds, as far as a socket is concerned.
_FOR_EVER = 1e6
_DESCRIPTOR_BYTES = array.array("i").itemsize
#: Of Linux, which Python has no name for; as many groups as most processes have, and as any can have.
_SO_PEERGROUPS = 59
_GROUPS = (64, 65536)


@dataclass(frozen=True, slots=True)
class Attached:
    """A module as `attach` and `open` describe it. `door` is its helper's, for the caller to close.

    `short`, `long` and `list` are deadlines in milliseconds; 0 is none.
    """

    name: str
    door: int | None
    error: str | None
    fork: str
    short: int
    long: int
    list: int


class Door(Closing):
    """A descriptor through which channels are opened (section 2). Closes it at the end of a `with`."""

    def __init__(self, sock: socket.socket, frame: Frame) -> None:
        self._socket = sock
        self._frame = frame

    @classmethod
    def of_helper(cls, descriptor: int) -> Self:
        """Take over the door of a helper, as the broker handed it out."""
        return cls(socket.socket(fileno=descriptor), call_frame())

    @classmethod
    def of_broker(cls, path: Path, timeout: float = 10.0) -> Self:
        """Connect to the broker at `path`, if it is our own or root's. Raises OSError or BrokerError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.settimeout(timeout)
            sock.connect(str(path))
            _check_owner(sock, path)
        except BaseException:
            sock.close()
            raise
        return cls(sock, report_frame())

    def open(self, program: str = "p11host", timeout: float | None = None) -> "Channel":
        """Open a channel and wait, at most `timeout` seconds, for the peer's hello.

        For a helper hello means that its provider is ready; without a timeout the start deadline of
        limits.toml holds. RemoteError if the peer says hello with an error, TimeoutError if it says nothing.
        """
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        channel = Channel(mine, self._frame)
        try:
            with theirs:
                self._send(Hello(PROTOCOL, ULONG, tables=0, program=program), theirs.fileno())
            channel.receive_hello(deadlines().start / 1000 if timeout is None else timeout)
        except BaseException:
            channel.close()
            raise
        return channel

    def close(self) -> None:
        """Close the door; channels opened through it go on."""
        self._socket.close()

    def _send(self, hello: Hello, descriptor: int) -> None:
        body = encode(hello.message(), self._frame)
        if len(body) > limits().hello:
            raise LocalError("limit", f"hello of {len(body)} bytes, at most {limits().hello}")
        try:
            socket.send_fds(self._socket, [body], [descriptor], socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ClosedError("nobody is behind the door") from error


class Channel(Closing):
    """One stream to a broker or helper: a call, then its answer. Closes it at the end of a `with`."""

    def __init__(self, sock: socket.socket, frame: Frame) -> None:
        self._socket = sock
        self._frame = frame
        self._decoder = Decoder(frame)
        self._descriptors: list[int] = []
        self._msgid = 0
        self.hello = Hello(PROTOCOL)

    def receive_hello(self, timeout: float) -> None:
        """Wait for the peer's hello and keep it as `hello`."""
        self.hello = Hello.of(self._receive(timeout))
        if self.hello.error is not None:
            raise RemoteError("failed", _with_code(self.hello.error, self.hello.rv))
        if self.hello.protocol != PROTOCOL:
            raise RemoteError("failed", f"the peer speaks protocol {self.hello.protocol}, this is {PROTOCOL}")

    def call(self, method: str, params: Sequence[Value] = (), timeout: float | None = None) -> Value:
        """Return the result of `method`. Without a timeout in seconds the deadline for long calls holds.

        LocalError, RemoteError or RefusedError as section 7 says; TimeoutError when nothing came in time,
        after which the channel is closed: an answer that comes late belongs to nobody.
        """
        result, descriptors = self.call_with_descriptors(method, params, timeout)
        _close_all(descriptors)
        return result

    def call_with_descriptors(
        self, method: str, params: Sequence[Value] = (), timeout: float | None = None
    ) -> tuple[Value, list[int]]:
        """Do as `call`, and return as well the descriptors that came along, for the caller to close."""
        timeout = deadlines().long / 1000 if timeout is None else timeout
        self._msgid += 1
        data = encode(Request(self._msgid, method, list(params)), self._frame)
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(data, socket.MSG_NOSIGNAL)
            response = self._receive(timeout)
        except (OSError, RemoteError) as error:
            self.close()
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise ClosedError from error
            raise
        return self._result_of(response)

    def hear(self, method: str, timeout: float | None) -> Mapping[str, Value] | None:
        """Return the map of the next notification of that name; None if none comes in so many seconds.

        ClosedError when there is nobody who could send one.
        """
        try:
            message = self._receive(_FOR_EVER if timeout is None else timeout)
        except TimeoutError:
            return None
        if not isinstance(message, Notification) or message.method != method:
            raise RemoteError("malformed", f"something else than {method!r}")
        return map_of(message.params)

    def attach(self, timeout: float | None = None) -> list[Attached]:
        """Ask a broker for a helper of every module (section 6). The caller closes the doors."""
        return _modules_of(*self.call_with_descriptors("attach", [{}], timeout))

    def open_module(self, name: str, timeout: float | None = None, *, resume: bool = False) -> Attached:
        """Ask a broker for a new helper of one module (section 6). The caller closes the door.

        To `resume` it gets the user's PIN, if the broker holds one and this process had logged in before.
        """
        params = {"module": name} | ({"resume": True} if resume else {})
        modules = _modules_of(*self.call_with_descriptors("open", [params], timeout))
        if [name] != [module.name for module in modules]:
            _close_all([module.door for module in modules if module.door is not None])
            raise RemoteError("malformed", f"another answer than one about module {name}")
        return modules[0]

    def close(self) -> None:
        """Close the channel, and descriptors nobody took."""
        self._socket.close()
        _close_all(self._descriptors)
        self._descriptors = []

    def _result_of(self, response: Message) -> tuple[Value, list[int]]:
        descriptors, self._descriptors = self._descriptors, []
        if isinstance(response, Response) and response.error is None and response.msgid == self._msgid:
            return response.result, descriptors
        _close_all(descriptors)
        if isinstance(response, Response) and response.error is not None:
            raise response.error.exception()
        raise RemoteError("malformed", "an answer to no question")

    def _receive(self, timeout: float) -> Message:
        end = time.monotonic() + timeout
        while (message := self._decoder.next_message()) is None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer within {timeout:g} s")
            self._socket.settimeout(left)
            self._receive_some()
        return message

    def _receive_some(self) -> None:
        room = socket.CMSG_SPACE(limits().modules * _DESCRIPTOR_BYTES)
        flags = socket.MSG_CMSG_CLOEXEC
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_CHUNK, room, flags)
        except ConnectionResetError as error:
            raise ClosedError from error
        except TimeoutError:
            return  # the caller counts
        self._descriptors += descriptors_of(ancillary)
        if not data:
            raise ClosedError
        self._decoder.feed(data)


def _with_code(error: str, rv: int | None) -> str:
    """Return a helper's error with the name of the return value behind it, which it may say itself."""
    code = "" if rv is None else ckr(rv)
    return error if code in error else f"{error} ({code})"


def descriptors_of(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in what `recvmsg` gave as ancillary data. They are the caller's to close."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
    return list(found)


def _modules_of(result: Value, descriptors: list[int]) -> list[Attached]:
    """Pair the modules of an answer with the doors that came with it; close all if they do not fit."""
    left = list(descriptors)
    try:
        modules = [_attached(module, left.pop(0) if module["door"] else None) for module in result["modules"]]
    except (KeyError, IndexError, TypeError) as error:
        _close_all(descriptors)
        raise RemoteError("malformed", f"no modules with their doors: {error!r}") from error
    if left:
        _close_all(descriptors)
        raise RemoteError("malformed", "more doors than modules")
    return modules


def _attached(module: dict[str, Value], door: int | None) -> Attached:
    error, wait = module.get("error"), module.get("list", deadlines().list)
    return Attached(module["name"], door, error, module["fork"], module["short"], module["long"], wait)


def _check_owner(sock: socket.socket, path: Path) -> None:
    """Refuse a broker of somebody else: it would be given PINs."""
    _, uid, _ = peer_credentials(sock)
    if uid not in (0, os.geteuid()):
        raise BrokerError(
            f"{path}: the broker there runs as uid {uid}, neither yours nor root; set P11HOST_SOCKET"
        )


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the process that connected or listened, as the kernel noted them."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 3 * _DESCRIPTOR_BYTES)
    pid, uid, gid = array.array("i", data)
    return pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF


def peer_groups(sock: socket.socket) -> frozenset[int]:
    """Return all groups of the process that connected, as the kernel noted them."""
    gid = peer_credentials(sock)[2]
    for count in _GROUPS:
        with contextlib.suppress(OSError):
            data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, count * array.array("I").itemsize)
            return frozenset([gid, *array.array("I", data)])
    return frozenset([gid])


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
