"""A helper that dies: what the broker says of it, what is held back, and that nothing is left."""

import ctypes
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import PATIENCE, Shim, helpers, in_child, report, start_threads
from brokers import Starter, module
from containment import Watched, children, watch
from cryptoki import struct
from life import Host, has_ended

from p11host import shim_path
from p11host.circuit import OPENS_AFTER
from p11host.client import Door
from p11host.paths import socket_path
from p11host.wire import RefusedError

pytest_plugins = ["broker_fixtures", "life_fixtures"]

REMOVED, GONE = "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"
THREADS = 4


# ---- what is said ----


@pytest.mark.parametrize(
    ("way", "said"),
    [("abort", {"signal": "SIGABRT"}), ("segv", {"signal": "SIGSEGV"}), ("exit", {"status": 0})],
)
def test_says_how_and_where(starter: Starter, odd: Path, way: str, said: Mapping[str, object]) -> None:
    """The log has signal or status, the function that was being called, whose helper, which attempt."""
    host = watch(starter, module("bad", odd, spare=False, env={"ODD_DIES": f"C_Sign {way}"}))

    pid, rvs = host.play(die_twice)

    assert [REMOVED, REMOVED] == rvs
    for attempt in (1, 2):
        ended = host.event("helper.ended", module="bad", application=pid, attempt=attempt)
        assert said.items() <= ended.items()
        assert ("warning", "C_Sign") == (ended["level"], ended["function"])


def die_twice() -> tuple[int, list[str]]:
    """Call what ends the helper, in two lives."""
    shim = Shim()
    rvs = [shim.sign(shim.begin()), shim.sign(shim.open_session(1))]
    return os.getpid(), rvs


@pytest.mark.parametrize(("where", "said"), [("constructor", "dlopen"), ("C_Initialize", "C_Initialize")])
def test_says_that_it_was_loading(starter: Starter, odd: Path, where: str, said: str) -> None:
    """A provider that dies before it is ready is said to have died in the loader or in C_Initialize."""
    host = watch(starter, module("bad", odd, spare=False, env={"ODD_DIES": f"{where} abort"}))

    assert "CKR_GENERAL_ERROR" == host.play(initialize)
    ended = host.event("helper.ended", module="bad")
    assert ("SIGABRT", said, 0) == (ended["signal"], ended["function"], ended["answered"])


def initialize() -> str:
    """Call C_Initialize."""
    return Shim().rv("C_Initialize", None)


def test_an_end_in_order_is_no_death(starter: Starter, odd: Path) -> None:
    """A helper whose application has gone ends without a warning, and holds nothing back."""
    host = watch(starter, module("good", odd, spare=False))
    for _ in range(OPENS_AFTER + 1):
        assert "CKR_OK" == host.play(initialize)
        ended = host.event("helper.ended", module="good")
        assert ("info", 0, 1) == (ended["level"], ended["status"], ended["attempt"])

    assert "circuit" not in host.module("good")


# ---- a module that dies at once, again and again ----


def test_circuit(starter: Starter, odd: Path, tmp_path: Path) -> None:
    """It has no helper for a while, `status` says why, others are as before; `restart` closes the circuit."""
    bad = tmp_path / "bad.so"
    shutil.copy(odd, bad)
    host = watch(
        starter,
        module("bad", bad, spare=False, env={"ODD_DIES": "constructor segv"}),
        module("good", odd, spare=False),
    )
    with host.playing(list_slots_until_told) as application:
        assert "CKR_OK" == application.report()
        opened = host.event("circuit.opened", module="bad")
        circuit = host.module("bad")["circuit"]
        shown = host.command("status")
        said = host.watched.attach()[0].error
        os.kill(application.process.pid, signal.SIGUSR1)
        assert [["CKR_OK"], [1]] == application.report()

        assert "module bad: 0 helpers told to end\n" == host.command("restart", "bad")
        assert "circuit" not in host.module("bad")
        os.close(host.watched.attach()[0].door or -1)

    assert (OPENS_AFTER, "SIGSEGV in dlopen") == (opened["deaths"], opened["last"])
    assert (True, OPENS_AFTER, "SIGSEGV in dlopen") == (circuit["open"], circuit["deaths"], circuit["last"])
    assert "circuit open: 5 helpers died at once, the last by SIGSEGV in dlopen; next try " in shown
    assert "p11host restart bad" in shown
    assert "p11host restart bad" in str(said)
    assert "circuit" not in host.module("good")


def list_slots_until_told() -> tuple[list[str], list[int]]:
    """List slots, for which a bad module is started, until a signal comes; use a good one meanwhile."""
    told = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: told.set())
    shim = Shim()
    session = shim.begin()
    report(shim.use(session))
    slots: list[int] = []
    rvs = set()
    while not told.is_set():
        slots = shim.slots()
        rvs.add(shim.use(session))
    return sorted(rvs), slots


def test_a_new_provider_closes_the_circuit(starter: Starter, odd: Path, tmp_path: Path) -> None:
    """What is installed in place of a provider that dies at once is tried at once, and that is logged."""
    provider = tmp_path / "provider.so"
    shutil.copy(odd, provider)
    host = watch(starter, module("one", provider, spare=False, env={"ODD_DIES": "constructor abort"}))
    while "died at once" not in str(host.watched.attach()[0].error):
        continue
    put_in_place(shim_path().parent / "p11host-sleepy.so", provider)

    assert "CKR_OK" == host.play(initialize)
    assert str(provider) == host.event("provider.replaced", module="one")["path"]
    assert "circuit" not in host.module("one")


def put_in_place(new: Path, old: Path) -> None:
    """Replace a file as an installer does: whoever has the old one open keeps it."""
    fresh = old.with_suffix(".new")
    shutil.copy(new, fresh)
    fresh.replace(old)


def test_a_replaced_file_is_for_the_next_life(starter: Starter, odd: Path, tmp_path: Path) -> None:
    """A provider replaced while it runs changes nothing for its helper; the next one has the new file."""
    provider = tmp_path / "provider.so"
    shutil.copy(odd, provider)
    host = watch(starter, module("one", provider))

    before, between, after = host.play(
        replace_provider, str(shim_path().parent / "p11host-sleepy.so"), str(provider)
    )

    assert ("odd", "odd", "sleepy") == (before, between, after)
    assert str(provider) == host.event("provider.replaced", module="one")["path"]


def replace_provider(new: str, old: str) -> list[str]:
    """Ask the provider what it is: before and after the file is replaced, and after its helper was killed."""
    shim = Shim()
    shim.begin()
    said = [describe(shim)]
    put_in_place(Path(new), Path(old))
    said.append(describe(shim))
    kill(helpers()["one"])
    return [*said, describe(shim)]


def describe(shim: Shim) -> str:
    """Return the description of the library."""
    info = struct("CK_INFO")()
    shim.must("C_GetInfo", ctypes.byref(info))
    return bytes(info.libraryDescription).decode().strip()


def kill(pid: int) -> None:
    """Kill a process and wait until it has ended."""
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)


# ---- by hand ----


def test_restart(starter: Starter, odd: Path) -> None:
    """`restart` ends the helpers of a module, and of no other; the next are not held back."""
    host = watch(starter, module("one", odd, spare=False), module("two", odd, spare=False))
    with host.playing(be_restarted) as application:
        first, second = application.report()
        assert "module one: 1 helper told to end\n" == host.command("restart", "one")
        assert "SIGTERM" == host.event("helper.ended", pid=first)["signal"]
        os.kill(application.process.pid, signal.SIGUSR1)
        found = application.report()

    assert REMOVED == found["its session"]
    assert "CKR_OK" == found["the other's session"] == found["its new session"]
    assert second == found["helpers"]["two"]
    assert first != found["helpers"]["one"]
    assert "circuit" not in host.module("one")


def be_restarted() -> dict[str, Any]:
    """Open a session with each module; when told, use them."""
    told = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: told.set())
    shim = Shim()
    one, two = shim.begin(), shim.open_session(2)
    ours = helpers()
    report([ours["one"], ours["two"]])
    while not told.is_set():
        signal.pause()
    found = {"its session": shim.use(one), "the other's session": shim.use(two)}
    return found | {"its new session": shim.use(shim.open_session(1)), "helpers": helpers()}


def test_restart_of_nothing(starter: Starter, odd: Path) -> None:
    """A name that is not configured is refused with those that are."""
    broker = watch(starter, module("one", odd)).watched
    with broker.channel() as channel, pytest.raises(RefusedError, match=r"no \[module.nope\].*one"):
        channel.call("restart", [{"module": "nope"}])


# ---- nothing is left ----


def test_children_of_a_helper_end_with_it(starter: Starter, odd: Path) -> None:
    """What a provider forked dies with its helper, and keeps no call waiting for an end."""
    host = watch(starter, module("odd", odd, sandbox="off", spare=False, env={"ODD_FORKS": "1"}))

    child, rv = host.play(leave_a_child)

    assert REMOVED == rv
    assert has_ended(child)


def leave_a_child() -> tuple[int, str]:
    """Return the child of the provider, and what a call returns when the helper is killed in it."""
    shim = Shim()
    session = shim.begin()
    pid = helpers()["odd"]
    (child,) = children(pid)
    results = start_threads([partial(shim.sign, session)])
    while shim.session_info(session).ulDeviceError < 1:
        continue
    os.kill(pid, signal.SIGKILL)
    return child, results()[0]


def test_the_broker_keeps_nothing(starter: Starter, odd: Path) -> None:
    """However many helpers have died, the broker has no zombie and no more descriptors than before."""
    host = watch(starter, module("one", odd, spare=False))
    host.play(live_and_die, 1)
    host.event("helper.ended", attempt=1)
    before = settled(host)
    host.play(live_and_die, 6)

    after = settled(host)
    assert before[1:] == after[1:]
    assert before[0] >= after[0]  # the first application's door may have been closed only meanwhile


def settled(host: Watched) -> tuple[int, list[int], list[Any]]:
    """Return how many descriptors the broker has, its children, and its applications, once it has none."""
    pid = host.watched.process.pid
    end = time.monotonic() + PATIENCE
    while host.watched.status()["applications"] or children(pid):
        assert time.monotonic() < end
    while True:
        found = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        host.watched.status()
        if found == len(os.listdir(f"/proc/{pid}/fd")):  # noqa: PTH208
            return found, children(pid), host.watched.status()["applications"]


def live_and_die(times: int) -> None:
    """Have the helper killed that often."""
    shim = Shim()
    session = shim.begin()
    for _ in range(times):
        kill(helpers()["one"])
        shim.use(session)
        session = shim.open_session(1)


# ---- a broker that dies ----


def test_the_broker_dies_under_load(on_demand: Mapping[str, str]) -> None:
    """Calls of many threads go on as if nothing had happened; a new broker serves who needs one then."""
    found = Host(on_demand).play(lose_broker_under_load)

    assert ["CKR_OK"] == found["calls"]
    assert found["brokers"][0] != found["brokers"][1]
    assert {} == found["helpers the new broker knows"]
    assert REMOVED == found["session of the dead helper"]
    assert "CKR_OK" == found["new session"]
    assert found["slots"] == found["slots in the end"]
    assert ["odd"] == list(found["helpers in the end"])


def lose_broker_under_load() -> dict[str, Any]:
    """Kill the broker while threads call; then start another, lose the helper, and go on."""
    shim = Shim()
    session = shim.begin()
    slots, first, helper = shim.slots(), broker_pid(), helpers()["odd"]
    done = threading.Event()
    made = [0] * THREADS

    def call_on(thread: int) -> set[str]:
        rvs = set()
        room = (ctypes.c_ubyte * 16)()
        while not done.is_set():
            rvs.add(shim.rv("C_GenerateRandom", session, room, 16))
            made[thread] += 1
        return rvs

    results = start_threads([partial(call_on, thread) for thread in range(THREADS)])
    await_more(made)
    kill(first)
    await_more(made)
    second = start_broker()
    known = helpers()
    await_more(made)
    done.set()
    rvs = set().union(*results())
    kill(helper)
    told = shim.use(session)
    again = shim.slots()
    return {
        "calls": sorted(rvs),
        "brokers": [first, second],
        "helpers the new broker knows": known,
        "session of the dead helper": told,
        "slots": slots,
        "slots in the end": again,
        "new session": shim.use(shim.open_session(again[0])),
        "helpers in the end": helpers(),
    }


def await_more(made: list[int]) -> None:
    """Return once every thread has made more calls."""
    before, end = list(made), time.monotonic() + PATIENCE
    while any(now <= then for now, then in zip(made, before, strict=True)):
        assert time.monotonic() < end


def broker_pid() -> int:
    """Return the pid of the broker that this environment leads to."""
    with Door.of_broker(socket_path()) as door, door.open() as channel:
        return int(channel.call("status", [{}])["pid"])


def start_broker() -> int:
    """Have a child that needs a helper start a broker; return its pid."""
    assert in_child(list_slots)
    return broker_pid()


def list_slots() -> list[int]:
    """List the slots."""
    return Shim().slots()
