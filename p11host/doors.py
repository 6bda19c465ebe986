"""Everybody who has connected: each has a door, and each channel that comes through it is served.

Knows who may connect and how much of the broker's descriptors each user has. Must not know helpers.
"""

import asyncio
import errno
import itertools
import os
import socket
from contextlib import ExitStack
from typing import Protocol

from p11host import control, log
from p11host.applications import Caller, Quota
from p11host.cards.board import Subscription
from p11host.channel import Channel
from p11host.client import ULONG, peer_credentials
from p11host.contained import contained
from p11host.control import Control
from p11host.door import Door, Hung, Opened
from p11host.limits import limits
from p11host.listen import Listener
from p11host.readiness import readable
from p11host.wire import PROTOCOL, Fault, Hello, Notification, RemoteError, Request, Response, short_text

#: Descriptors that a door and a channel cost the broker.
DOOR_COST, CHANNEL_COST = 1, 1
#: Seconds to wait with the next accept when descriptors or memory ran out.
ACCEPT_PAUSE = 0.1
ACCEPT_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Host(control.Host, Protocol):
    """What serving a door needs of the broker. A door's number is never another's."""

    def note(self) -> None:
        """Hear that a door was opened or closed."""

    def hung(self, door: int, report: Hung) -> None:
        """Hear that a helper is said to be of no use."""

    def forget(self, door: int) -> None:
        """Hear that nothing comes through a door any more."""


class Doors:
    """The doors of a broker. `everybody`: of any user, not only of the broker's own and of root."""

    def __init__(self, host: Host, listener: Listener, quota: Quota, *, everybody: bool) -> None:
        self._host = host
        self._listener = listener
        self._quota = quota
        self._everybody = everybody
        self._numbers = itertools.count(1)
        self._open = 0

    def __len__(self) -> int:
        """Return how many are open."""
        return self._open

    async def accept(self, owner: asyncio.TaskGroup) -> None:
        """Accept whoever connects; `owner` has the tasks."""
        while True:
            await readable(self._listener.socket.fileno())
            if not self.accept_ready(owner):
                await asyncio.sleep(ACCEPT_PAUSE)

    def accept_ready(self, owner: asyncio.TaskGroup) -> bool:
        """Accept who waits; False if descriptors or memory ran out."""
        try:
            while True:
                self._admit(self._listener.socket.accept()[0], owner)
        except BlockingIOError:
            return True
        except OSError as error:
            log.warning("broker.accept.failed", error=error)
            return error.errno not in ACCEPT_ERRNOS

    def _admit(self, sock: socket.socket, owner: asyncio.TaskGroup) -> None:
        """Give a connection its task, if its user may have one."""
        pid, uid, _ = peer_credentials(sock)
        allowed = self._everybody or uid in (0, os.geteuid())
        if not allowed or not self._quota.take(uid, DOOR_COST):
            reason = "share is used up" if allowed else "another user"
            log.warning("door.refused", pid=pid, uid=uid, reason=reason)
            sock.close()
            return
        self._open += 1
        self._host.note()
        owner.create_task(self._own_door(Door(sock), uid))

    async def _own_door(self, door: Door, uid: int) -> None:
        try:
            await contained("door", self._serve_door(door, uid))
        finally:
            door.close()
            self._quota.give(uid, DOOR_COST)
            self._open -= 1
            self._host.note()

    async def _serve_door(self, door: Door, uid: int) -> None:
        """Serve every channel opened through a door; the door is done when the last of them is."""
        number = next(self._numbers)
        try:
            async with asyncio.TaskGroup() as channels:
                await self._serve_opened(door, uid, number, channels)
        finally:
            self._host.forget(number)

    async def _serve_opened(self, door: Door, uid: int, number: int, channels: asyncio.TaskGroup) -> None:
        """Give each channel its task, until no more can come."""
        dropped, room = 0, asyncio.Semaphore(limits().channels)
        while True:
            try:
                opened = await door.receive()
            except RemoteError as error:
                dropped += 1
                _log_dropped(number, uid, dropped, error)
                continue
            if opened is None:
                return
            if isinstance(opened, Hung):
                self._host.hung(number, opened)
                continue
            program = opened.hello.program or ""
            caller = Caller(number, opened.pid, uid, program, next(self._numbers), door.groups)
            if room.locked() or not self._quota.take(uid, CHANNEL_COST):
                opened.socket.close()
                dropped += 1
                _log_dropped(number, uid, dropped, RemoteError("limit", "too many channels"))
                continue
            await room.acquire()
            channels.create_task(self._own_channel(opened, caller, room))

    async def _own_channel(self, opened: Opened, caller: Caller, room: asyncio.Semaphore) -> None:
        channel = Channel(opened.socket)
        try:
            await contained("channel", _serve(channel, opened.hello, Control(self._host, caller), caller))
        finally:
            channel.close()
            room.release()
            self._quota.give(caller.uid, CHANNEL_COST)


async def _serve(channel: Channel, hello: Hello, methods: Control, caller: Caller) -> None:
    """Answer one request after the other until the peer has no more, or sends what is none."""
    telling: asyncio.Task[None] | None = None
    try:
        await _greet(channel, hello)
        while (message := await channel.receive()) is not None:
            # A notification wants no answer, and none that a broker knows asks for anything.
            if not isinstance(message, Notification):
                await _answer(channel, methods, message)
            if telling is None and methods.subscription is not None:
                telling = asyncio.create_task(contained("subscription", _tell(channel, methods.subscription)))
    except RemoteError as error:
        log.warning("channel.refused", pid=caller.pid, program=caller.program, error=error)
        await channel.send(Response(0, Fault(error.code, short_text(error.text)), None))
    finally:
        methods.close()
        if telling is not None:
            telling.cancel()
            await asyncio.wait([telling])


async def _tell(channel: Channel, subscription: Subscription) -> None:
    """Tell of readers and cards; whoever does not read fast enough is let go, and comes back."""
    try:
        while (numbered := await subscription.take()) is not None:
            await channel.send(Notification("readers", [numbered.told()]))
    finally:
        channel.end()


async def _greet(channel: Channel, hello: Hello) -> None:
    """Say hello back, with an error if the caller speaks another protocol."""
    mine = Hello(PROTOCOL, ULONG, tables=0, pid=os.getpid())
    if hello.protocol == PROTOCOL:
        await channel.send(mine.message())
        return
    error = f"the broker speaks protocol {PROTOCOL}, the caller {hello.protocol}"
    await channel.send(Hello(PROTOCOL, ULONG, tables=0, pid=os.getpid(), error=error).message())
    raise ConnectionAbortedError(error)


async def _answer(channel: Channel, methods: Control, request: Request | Response) -> None:
    if isinstance(request, Response):
        raise RemoteError("malformed", "an answer to no question")
    with ExitStack() as doors:
        answer = await methods.answer(request)
        doors.callback(answer.close)
        await channel.send(answer.response, [door.fileno() for door in answer.doors])


def _log_dropped(door: int, uid: int, count: int, error: RemoteError) -> None:
    """Log the first drop, the second, the fourth, the eighth: a flood of them must not flood the log."""
    if count & (count - 1) == 0:
        log.warning("door.dropped", door=door, uid=uid, count=count, error=error)
