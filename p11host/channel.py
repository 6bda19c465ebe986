"""A control channel as the broker holds it: messages in, messages and descriptors out, each within a time.

Knows one stream socket, whose other end is somebody else's. Must not know methods.
"""

import array
import asyncio
import contextlib
import socket
from collections.abc import Sequence

from p11host.readiness import readable, writable
from p11host.scan import control_frame, report_frame
from p11host.wire import Decoder, Message, encode

#: Seconds a peer may take to read an answer.
PATIENCE = 10.0
_CHUNK = 4096


class Channel:
    """Owns the socket. Holds at most one unfinished message of the peer's and one of ours."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = Decoder(control_frame())
        self._sending = asyncio.Lock()

    async def receive(self) -> Message | None:
        """Return the peer's next message, None at its end. RemoteError if it sent something else."""
        while (message := self._decoder.next_message()) is None:
            data = await self._receive_some()
            if not data:
                return None
            self._decoder.feed(data)
        return message

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send `message`, with `descriptors` at its first byte. TimeoutError if the peer does not read."""
        left = memoryview(encode(message, report_frame()))
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        async with asyncio.timeout(PATIENCE), self._sending:
            while left:
                try:
                    sent = self._socket.sendmsg([left], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    await writable(self._socket.fileno())
                else:
                    left, rights = left[sent:], []

    def end(self) -> None:
        """Have `receive` return that there is no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close our end."""
        self._socket.close()

    async def _receive_some(self) -> bytes:
        # What is there already needs no watching; but others have their turn before it.
        await asyncio.sleep(0)
        while True:
            try:
                return self._socket.recv(_CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await readable(self._socket.fileno())
