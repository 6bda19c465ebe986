"""Who watches the calls of which helpers: `trace` of section 6, as the broker keeps it.

Knows lives and the sockets it hands to helpers and to those who watch. Sees no call: what a helper tells goes
to whoever watches, directly.
"""

import array
import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from p11host import log
from p11host.applications import Caller, Quota
from p11host.helper import Spawned
from p11host.limits import limits
from p11host.lives import Life, Lives
from p11host.wire import RefusedError

#: Seconds until somebody who waits for helpers to come is told that none has.
PATIENCE = 0.25
#: Descriptors that a socket costs the broker until somebody takes it.
SOCKET_COST = 1
#: Bytes of messages that may wait for who watches, where the kernel lets us have so many.
ROOM = 1 << 22
_SNDBUFFORCE = 32  # Linux's number; Python has no name for it


@dataclass(frozen=True, slots=True)
class Traced:
    """A helper, whose it is, and the socket on which it tells its calls, which is the holder's to close."""

    module: str
    pid: int
    application: int
    program: str
    socket: socket.socket


class Tracer:
    """One who watches, with the helpers that nobody has told him of yet.

    Owns their sockets, each of which is a descriptor of his share. `uid` None: all users' helpers are meant.
    """

    def __init__(self, caller: Caller, quota: Quota, uid: int | None, pid: int | None) -> None:
        self._payer = caller.uid
        self._quota = quota
        self._uid = uid
        self._pid = pid
        self._new: deque[Traced] = deque()
        self._some = asyncio.Event()

    def wants(self, life: Life) -> bool:
        """Tell whether a helper's calls are meant: a process's, or all that the user may know of."""
        caller, spawned = life.caller, life.spawned
        if caller is None or self._uid not in (None, caller.uid):
            return False
        return self._pid in (None, caller.pid, spawned.pid, *(spawned.slate.pids() if spawned.shared else ()))

    def has_room(self) -> bool:
        """Take a descriptor for one more helper; False if his share is used up."""
        return self._quota.take(self._payer, SOCKET_COST)

    def give_room(self, count: int = 1) -> None:
        """Give descriptors back."""
        self._quota.give(self._payer, count * SOCKET_COST)

    def add(self, traced: Traced) -> None:
        """Note a helper that tells its calls from now on."""
        self._new.append(traced)
        self._some.set()

    async def take(self) -> list[Traced]:
        """Return helpers that are new, if any come soon. Their sockets are the caller's."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._some.wait()
        taken = [self._new.popleft() for _ in range(min(limits().traced, len(self._new)))]
        if not self._new:
            self._some.clear()
        self.give_room(len(taken))
        return taken

    def close(self) -> None:
        """Close the sockets that nobody has taken."""
        for traced in self._new:
            traced.socket.close()
        self.give_room(len(self._new))
        self._new.clear()


class Tracers:
    """All who watch. A helper's calls are told to one at a time."""

    def __init__(self, lives: Lives, quota: Quota) -> None:
        self._lives = lives
        self._quota = quota
        self._tracers: dict[Tracer, set[int]] = {}

    def open(self, caller: Caller, uid: int | None, pid: int | None) -> Tracer:
        """Begin to watch the helpers that are there, and those that come. RefusedError if another does."""
        tracer = Tracer(caller, self._quota, uid, pid)
        lives = [life for life in self._lives.all() if tracer.wants(life)]
        busy = {number for numbers in self._tracers.values() for number in numbers}
        for life in lives:
            if life.spawned.pid in busy:
                raise RefusedError("refused", f"helper {life.spawned.pid} is being traced already")
        self._tracers[tracer] = set()
        for life in lives:
            self._begin(tracer, life)
        return tracer

    def started(self, spawned: Spawned) -> None:
        """Watch a helper that somebody has got, if it is meant. Before anybody can call it."""
        life = self._lives.life(spawned)
        for tracer in self._tracers:
            if tracer.wants(life):
                self._begin(tracer, life)
                return

    def ended(self, spawned: Spawned) -> None:
        """Forget a helper that has ended."""
        for numbers in self._tracers.values():
            numbers.discard(spawned.pid)

    def close(self, tracer: Tracer) -> None:
        """End a tracer's watch. Helpers notice that themselves."""
        del self._tracers[tracer]
        tracer.close()

    def _begin(self, tracer: Tracer, life: Life) -> None:
        """Watch a helper, if that can be: whoever asked for the helper gets it all the same."""
        pid = life.spawned.pid
        if not tracer.has_room():
            log.warning("trace.refused", pid=pid, error="the share of whoever watches is used up")
            return
        try:
            ours = _socket_to(life.spawned)
        except OSError as error:
            log.warning("trace.refused", pid=pid, error=error)
            tracer.give_room()
            return
        self._tracers[tracer].add(pid)
        tracer.add(_traced(life, ours))


def _socket_to(spawned: Spawned) -> socket.socket:
    """Return our end of what a helper tells its calls on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            for option in (socket.SO_SNDBUF, _SNDBUFFORCE):  # as much as we may
                with contextlib.suppress(PermissionError):
                    theirs.setsockopt(socket.SOL_SOCKET, option, ROOM)
            _hand_over(spawned, theirs)
    except BaseException:
        ours.close()
        raise
    return ours


def _hand_over(spawned: Spawned, end: socket.socket) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))]
    spawned.trace.sendmsg([b"\0"], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _traced(life: Life, ours: socket.socket) -> Traced:
    pid, program = (life.caller.pid, life.caller.program) if life.caller else (0, "")
    return Traced(life.spawned.module, life.spawned.pid, pid, program, ours)


def told(traced: list[Traced]) -> Iterator[dict[str, object]]:
    """Yield what the broker says of helpers that tell their calls, in the order of their sockets."""
    for each in traced:
        application = {"application": each.application, "program": each.program}
        yield {"module": each.module, "pid": each.pid} | application
