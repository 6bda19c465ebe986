"""What a small call costs the kernel, counted by strace in both processes."""

from operator import attrgetter
from pathlib import Path

import pytest
from brokers import module
from life import Hosting, Workshop
from strace import SystemCall, traced, tracing

from p11host import helper_path, shim_path

pytest_plugins = ["life_fixtures"]

CALLS = 500
MARKER = "C_GetSlotInfo"


@pytest.fixture
def traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workshop: Workshop, odd: Path, hosting: Hosting
) -> tuple[Path, Path]:
    """Return the traces of an application that made small calls between two markers, and of its helper."""
    ours, theirs = tmp_path / "application", tmp_path / "helper"
    # -D: the helper keeps the pid the broker gave it, and strace is its child.
    words = [*tracing(theirs, "-D"), str(helper_path())]
    wrapper = tmp_path / "traced-helper"
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("P11HOST_HELPER", str(wrapper))
    program = workshop.program("small_calls")
    hosting(module("odd", odd)).run(*tracing(ours), program, shim_path(), str(CALLS))
    return ours, theirs


def test_a_small_call_is_two_system_calls_on_each_side(traces: tuple[Path, Path]) -> None:
    """In steady state a small call sends once and receives once, here and in the helper, and does nothing else."""
    application, helper = map(window, traces)

    assert ["send", "receive"] * CALLS == application
    assert ["receive", "send"] * CALLS == helper


def window(log: Path) -> list[str]:
    """Return what all threads of a process called between the two markers, without the first marker's answer.

    A marker is seen once in each process, where it is sent or received: a request carries its function's name.
    """
    threads = traced(log).values()
    first, last = sorted(call.at for calls in threads for call in calls if MARKER in call.rest)
    inside = [call for calls in threads for call in calls if first < call.at < last]
    answer, *others = map(kind, sorted(inside, key=attrgetter("at")))
    assert answer in ("send", "receive")
    return others


def kind(call: SystemCall) -> str:
    """Return what a call does, by whatever name."""
    return {"sendto": "send", "sendmsg": "send", "recvfrom": "receive", "recvmsg": "receive"}.get(call.name, call.name)
