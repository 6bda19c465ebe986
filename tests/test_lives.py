"""Which helpers live, and whose they are, also where the kernel gives a number a second time."""

from types import SimpleNamespace
from typing import Any

from p11host.applications import Applications, Caller
from p11host.circuit import Circuits
from p11host.lives import Lives


def spawned(pid: int) -> Any:
    """Return a helper, as far as lives look at it."""
    return SimpleNamespace(module="one", pid=pid, born=0.0, shared=False)


def test_a_pid_of_one_that_is_still_read_to_its_end() -> None:
    """A helper whose last words are being read has been reaped: the next one may have its pid."""
    lives = Lives(Applications(), Circuits())
    old, new = spawned(10), spawned(10)
    caller = Caller(door=1, pid=1, uid=0, program="test", channel=1)
    lives.begin(old)
    lives.begin(new)
    lives.assign(caller, new)

    assert lives.remove(old) is None
    assert caller == lives.remove(new)
