"""A broker's door: messages that each hand over one channel, and everything else that may come instead.

Knows PROTOCOL.md section 2 from the receiver's side. Must not know what happens on a channel.
"""

import array
import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from p11host.client import descriptors_of, peer_groups
from p11host.limits import limits
from p11host.readiness import readable
from p11host.scan import control_frame
from p11host.wire import Hello, Notification, RemoteError, decode, is_name, map_of

Ancillary = Sequence[tuple[int, int, bytes]]

_CREDENTIALS = struct.Struct("iII")
#: One descriptor is right, two are seen to be too many, and of more the kernel closes the rest.
_ROOM = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(2 * array.array("i").itemsize)


@dataclass(frozen=True, slots=True)
class Opened:
    """A channel handed over: our end of it, what the caller said, and which process the kernel saw say it.

    `pid` is 0 for a process of another pid namespace. Whoever takes this owns the socket.
    """

    socket: socket.socket
    hello: Hello
    pid: int


@dataclass(frozen=True, slots=True)
class Hung:
    """A report without a channel: this helper is of no more use. `sender` is as in Opened.

    A call to it has passed its deadline, or has returned `rv`.
    """

    module: str
    pid: int
    sender: int
    rv: int | None = None


class Door:
    """One application's connection. Nothing is ever sent through it. `groups` are of whoever connected."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.groups = peer_groups(sock)

    async def receive(self) -> Opened | Hung | None:
        """Return the next channel or report, None at the end.

        RemoteError if it is neither; the door stays usable.
        """
        # What is there already needs no watching; but others have their turn before it.
        await asyncio.sleep(0)
        while True:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    limits().hello, _ROOM, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await readable(self._socket.fileno())
                continue
            except ConnectionResetError:
                return None
            # A message without bytes has the sender's credentials; the end has nothing.
            return parse(data, ancillary, flags) if data or ancillary else None

    def close(self) -> None:
        """Close the door; what was opened through it goes on."""
        self._socket.close()


def parse(data: bytes, ancillary: Ancillary, flags: int) -> Opened | Hung:
    """Return the channel that a message hands over, or what it reports.

    RemoteError if it is neither, and its descriptors closed.
    """
    descriptors = descriptors_of(ancillary)
    try:
        if flags & socket.MSG_TRUNC:
            raise RemoteError("limit", f"hello longer than {limits().hello} bytes")
        if data and not descriptors and (report := _report(data, _sender(ancillary))):
            return report
        if len(descriptors) != 1 or flags & socket.MSG_CTRUNC:
            raise RemoteError("malformed", f"{len(descriptors) or 'no'} descriptors, not one")
        hello = Hello.of(decode(data, control_frame()))
        return Opened(_stream(descriptors), hello, _sender(ancillary))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _report(data: bytes, sender: int) -> Hung | None:
    """Return what a message without a descriptor reports, None if that is nothing known."""
    message = decode(data, control_frame())
    if not isinstance(message, Notification) or message.method not in ("hung", "broken"):
        return None
    said = map_of(message.params)
    module, pid = said.get("module"), said.get("pid")
    if not is_name(module) or not isinstance(pid, int) or pid <= 0:
        raise RemoteError("malformed", "a report of nobody's helper")
    rv = said.get("rv") if message.method == "broken" else None
    if message.method == "broken" and not isinstance(rv, int):
        raise RemoteError("malformed", "a report without its reason")
    return Hung(str(module), pid, sender, rv)


def _stream(descriptors: list[int]) -> socket.socket:
    """Take the one descriptor out of the list, if it is a connected stream socket of this machine."""
    try:
        sock = socket.socket(fileno=descriptors[0])
    except OSError as error:
        raise RemoteError("malformed", "a descriptor that is no socket") from error
    descriptors.clear()
    if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM and _is_connected(sock):
        return sock
    sock.close()
    raise RemoteError("malformed", "a descriptor that is no connected stream socket")


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _sender(ancillary: Ancillary) -> int:
    """Return the sender's pid as the kernel gave it."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) >= _CREDENTIALS.size:
            pid: int = _CREDENTIALS.unpack_from(data)[0]
            return pid
    return 0
