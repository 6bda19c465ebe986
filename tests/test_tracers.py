"""Who watches calls, as the broker keeps it: no descriptor more than is his share, and none left behind."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p11host.applications import Caller, Quota
from p11host.lives import Life
from p11host.tracers import Tracers

SHARE = 8


class Living:
    """As much of the lives as tracers look at: helpers that take what they are handed."""

    def __init__(self) -> None:
        self.lives: list[Life] = []

    def all(self) -> list[Life]:
        """Return the helpers that live."""
        return self.lives

    def life(self, spawned: Any) -> Life:
        """Return what is known of one."""
        return next(life for life in self.lives if life.spawned is spawned)

    def start(self) -> Any:
        """Have one more."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = len(self.lives) + 1
        spawned: Any = SimpleNamespace(pid=number, module="one", shared=False, trace=ours, theirs=theirs)
        self.lives.append(Life(spawned, caller(number)))
        return spawned

    def close(self) -> None:
        """Have none more."""
        for life in self.lives:
            life.spawned.trace.close()
            life.spawned.theirs.close()  # type: ignore[attr-defined]


def caller(pid: int = 1) -> Caller:
    """Return an application of a user that is not root."""
    return Caller(door=1, pid=pid, uid=1000, program="test", channel=1)


@pytest.fixture
def living() -> Iterator[Living]:
    """Return a list of helpers."""
    found = Living()
    yield found
    found.close()


def descriptors() -> int:
    """Return how many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_sockets_that_nobody_takes(living: Living) -> None:
    """Who watches and takes no sockets gets as many as his share of descriptors; then no more."""
    quota = Quota(SHARE)
    tracers: Any = Tracers(living, quota)  # type: ignore[arg-type]
    tracer = tracers.open(caller(), 1000, None)
    started = [living.start() for _ in range(SHARE + 5)]
    before = descriptors()
    for spawned in started:
        tracers.started(spawned)

    assert SHARE == descriptors() - before
    assert not quota.take(1000, 1)
    tracers.close(tracer)
    assert quota.take(1000, SHARE)


def test_no_descriptor_left(living: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the broker has no descriptor left nobody watches; whoever comes later can."""

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    tracers: Any = Tracers(living, Quota(SHARE))  # type: ignore[arg-type]
    living.start()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", fail)
        first = tracers.open(caller(), 1000, None)
        second = tracers.open(caller(), 1000, None)
        tracers.close(first)
        tracers.close(second)
    third = tracers.open(caller(), 1000, None)
    taken = asyncio.run(third.take())
    tracers.close(third)
    for each in taken:
        each.socket.close()

    assert 1 == len(taken)
