"""Threads: a provider gets as many calls at once as it can bear, and no more."""

import ctypes
import resource
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import Shim, await_looks, in_threads, start_threads
from brokers import module
from cryptoki import ULONG
from life import Host, Hosting, Workshop
from lone import PATIENCE, lone_helper

from p11host import shim_path
from p11host.sandbox.settings import MEMORY_MIB

pytest_plugins = ["life_fixtures"]

THREADS = 4
#: Channels at once: less than a process has descriptors by default.
MANY = 600
LIVES = "50"
#: Milliseconds that a call waits for company that must not come.
IN_VAIN = "50"

ONE_AT_A_TIME: dict[str, dict[str, Any]] = {
    "threads = 1": {"threads": 1, "env": {"ODD_PARTY": "2", "ODD_PATIENCE": IN_VAIN}},
    "a provider that cannot lock": {
        "env": {"ODD_LOCKING": "none", "ODD_PARTY": "2", "ODD_PATIENCE": IN_VAIN},
    },
}


def test_calls_run_at_the_same_time(party: Host) -> None:
    """Calls of many threads are in the provider at once: each waits there until all the others have come."""
    assert [THREADS] * THREADS == party.play(call_at_once)


@pytest.mark.parametrize("keys", ONE_AT_A_TIME.values(), ids=ONE_AT_A_TIME)
def test_one_at_a_time(hosting: Hosting, odd: Any, keys: dict[str, Any]) -> None:
    """A provider that cannot be used by threads never has more than one call in it, and all are answered."""
    assert [1] * THREADS == hosting(module("odd", odd, **keys)).play(call_at_once)


def test_many_channels(odd: Path) -> None:
    """A helper with as much memory as one has by default serves hundreds of channels, each in its thread."""
    with lone_helper(odd) as lone, ExitStack() as stack:
        resource.prlimit(lone.process.pid, resource.RLIMIT_DATA, (MEMORY_MIB << 20, MEMORY_MIB << 20))
        channels = [stack.enter_context(lone.open()) for _ in range(MANY)]
        answers = [channel.call("C_GetSlotList", [True, [False, 0]], PATIENCE) for channel in channels]

    assert [0] * MANY == [rv for rv, _ in answers]


def call_at_once() -> list[int]:
    """Call with many threads; return how many the provider saw inside at most."""
    shim = Shim()
    session = shim.begin()
    return [seen[0] for seen in in_threads([partial(shim.random, session)] * THREADS)]


@pytest.mark.parametrize("keys", ONE_AT_A_TIME.values(), ids=ONE_AT_A_TIME)
def test_waiting_for_an_event_takes_no_turn(hosting: Hosting, odd: Any, keys: dict[str, Any]) -> None:
    """While one thread waits for a slot event, a provider that gets one call at a time serves the others."""
    found = hosting(module("odd", odd, **keys)).play(call_while_waiting)

    assert [[1], ["CKR_CRYPTOKI_NOT_INITIALIZED"]] == found


def call_while_waiting() -> list[Any]:
    """Call while a thread waits for an event, which never comes; end the wait by C_Finalize."""
    shim = Shim()
    session = shim.begin()
    waiting = start_threads([partial(shim.rv, "C_WaitForSlotEvent", 0, ctypes.byref(ULONG()), None)])
    await_looks(shim, shim.slots()[0], 2)
    seen = list(shim.random(session))
    shim.must("C_Finalize", None)
    return [seen, waiting()]


def test_more_threads_than_a_module_keeps_channels(hosting: Hosting, odd: Any) -> None:
    """A hundred threads at once are served, and what they opened for that serves the next hundred."""
    host = hosting(module("odd", odd, env={"ODD_PARTY": "100"}))

    assert [100] * 100 == host.play(call_with_hundred)


def call_with_hundred() -> list[int]:
    """Call with a hundred threads, twice."""
    shim = Shim()
    session = shim.begin()
    works = [partial(shim.random, session)] * 100
    in_threads(works)
    return [seen[0] for seen in in_threads(works)]


def test_sessions_of_many_threads(plain: Host) -> None:
    """Sessions opened and used by many threads at once are all different and all good."""
    found = plain.play(open_with_threads)

    assert len(found) == len(set(found))


def open_with_threads() -> list[int]:
    """Open and use sessions with many threads."""
    shim = Shim()
    shim.begin()
    slot = shim.slots()[0]

    def live() -> list[int]:
        sessions = [shim.open_session(slot) for _ in range(20)]
        assert {"CKR_OK"} == {shim.use(session) for session in sessions}
        return sessions

    return [session for sessions in in_threads([live] * 8) for session in sessions]


@pytest.mark.parametrize(("name", "slots"), [("plain", "1"), ("two", "4")])
def test_lives_begin_and_end_under_threads(
    request: pytest.FixtureRequest, workshop: Workshop, name: str, slots: str
) -> None:
    """Lives may begin and end while threads call without a pause: all are answered, nothing is left open."""
    host: Host = request.getfixturevalue(name)

    assert "0\n" == host.run(workshop.program("lives"), shim_path(), slots, LIVES)
