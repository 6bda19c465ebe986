"""What a call costs the application: system calls, counted by strace in both processes, and memory."""

import os
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest
from brokers import module
from life import Hosting, Workshop
from strace import SystemCall, traced, tracing

from p11host import helper_path, shim_path

pytest_plugins = ["life_fixtures"]

CALLS = 500
#: The helper may begin to wait for the first call before the beginning, and for one more before the end.
EDGE = 1
KINDS = {"sendto": "send", "sendmsg": "send", "recvfrom": "receive", "recvmsg": "receive"}
FUTEX = {"FUTEX_WAKE": "send", "FUTEX_WAIT": "receive"}


@pytest.fixture
def traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workshop: Workshop, odd: Path, hosting: Hosting
) -> tuple[list[str], list[str]]:
    """Return what an application and its helper called while the application made its small calls."""
    ours, theirs = tmp_path / "application", tmp_path / "helper"
    # -D: the helper keeps the pid the broker gave it, and strace is its child.
    words = [*tracing(theirs, "-D"), str(helper_path())]
    wrapper = tmp_path / "traced-helper"
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("P11HOST_HELPER", str(wrapper))
    program = workshop.program("small_calls")
    hosting(module("odd", odd, spare=False)).run(*tracing(ours), program, shim_path(), str(CALLS))
    calls = in_order(ours)
    begin, end = (call.at for call in calls if call.rest.startswith("-1,"))
    return between(calls, begin, end), between(in_order(theirs), begin, end)


def in_order(log: Path) -> list[SystemCall]:
    """Return the calls of all threads of a process."""
    return sorted((call for calls in traced(log).values() for call in calls), key=attrgetter("at"))


def between(calls: list[SystemCall], begin: float, end: float) -> list[str]:
    """Return the kinds of the calls that began in between.

    Whoever has waited on a futex for 20 ms goes on waiting elsewhere: on a busy machine for small calls too.
    """
    return [kind_of(call) for call in calls if begin < call.at < end and "ETIMEDOUT" not in call.rest]


def kind_of(call: SystemCall) -> str:
    """Return "send" or "receive" where a call wakes the peer or waits for it, else its name."""
    if call.name == "futex":
        return next((kind for word, kind in FUTEX.items() if word in call.rest), call.name)
    return KINDS.get(call.name, call.name)


def expect_two_at_most(calls: list[str]) -> None:
    """Fail unless these are one of each kind for each small call, or fewer."""
    assert {"send", "receive"} >= set(calls)
    assert CALLS + EDGE >= calls.count("send")
    assert CALLS + EDGE >= calls.count("receive")


def test_a_small_call_is_at_most_two_system_calls_on_each_side(traces: tuple[list[str], list[str]]) -> None:
    """In steady state a small call wakes the peer at most once and waits at most once, on either side."""
    for calls in traces:
        expect_two_at_most(calls)


def test_calls_take_nothing_from_the_heap(workshop: Workshop, mirror: Path, hosting: Hosting) -> None:
    """Whatever a call carries, in the common case the shim asks the application's malloc for nothing."""
    host = hosting(module("mirror", mirror))

    assert "0\n" == host.run(workshop.program("no_heap"), shim_path())


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Have all that a test starts share one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_processor")
def test_on_one_processor_too(request: pytest.FixtureRequest) -> None:
    """Where both share a processor, so that both must sleep to change places, it is no more."""
    for calls in request.getfixturevalue("traces"):
        expect_two_at_most(calls)
        assert calls
