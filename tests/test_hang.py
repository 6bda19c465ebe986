"""A helper that hangs or is slow: what calls return, what becomes of it, and who does not wait."""

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import PATIENCE, Shim, helpers, in_child, report, start_threads
from brokers import Starter, module, raw_door, through
from containment import watch
from cryptoki import ULONG
from life import Hosting, has_ended

from p11host.scan import control_frame
from p11host.wire import Notification, encode

pytest_plugins = ["broker_fixtures", "life_fixtures"]

REMOVED, GONE = "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"
#: Milliseconds for what will not come, and for what must come on the busiest machine.
SOON, LATE = 300, 60_000
SHORT = {"short": SOON, "long": SOON}


# ---- calls that are never answered ----


def test_is_ended(starter: Starter, odd: Path) -> None:
    """The call is CKR_DEVICE_ERROR at its deadline, its helper is ended, and the next session has another."""
    host = watch(starter, module("odd", odd, spare=False, deadlines=SHORT), module("other", odd, spare=False))

    found = host.play(hang)

    assert "CKR_DEVICE_ERROR" == found["C_Sign"]
    assert GONE == found["its session"]
    assert "CKR_OK" == found["the other's session"] == found["its new session"] == found["C_Finalize"]
    assert found["slots"] == found["slots after that"]
    hung = host.event("helper.hung", module="odd", pid=found["helper"])
    assert ("C_Sign", found["pid"]) == (hung["function"], hung["application"])
    # By the broker, or, where that is slow, by itself: nobody can reach it any more.
    assert host.event("helper.ended", pid=found["helper"]).get("signal") in {"SIGTERM", None}


def hang() -> dict[str, Any]:
    """Call what never returns, and go on."""
    shim = Shim()
    session, slots = shim.begin(), shim.slots()
    other = shim.open_session(slots[1])
    found = {"helper": helpers()["odd"], "pid": os.getpid(), "slots": slots}
    found |= {"C_Sign": shim.sign(session), "its session": shim.use(session)}
    found |= {"the other's session": shim.use(other), "slots after that": shim.slots()}
    found["its new session"] = shim.use(shim.open_session(slots[0]))
    return found | {"C_Finalize": shim.rv("C_Finalize", None)}


def test_other_threads_are_told(starter: Starter, odd: Path) -> None:
    """Calls of other threads to it return as it is ended: by SIGKILL, where it does not hear SIGTERM."""
    host = watch(starter, module("odd", odd, spare=False, deadlines={"short": SOON, "long": LATE}))

    found = host.play(hang_with_threads)

    assert [REMOVED] * 2 == found["C_Sign"]
    assert "CKR_DEVICE_ERROR" == found["C_GetSessionInfo"]
    ended = host.event("helper.ended", module="odd")
    assert ("SIGKILL", "C_Sign") == (ended["signal"], ended["function"]), "it could not hear SIGTERM"


def hang_with_threads() -> dict[str, Any]:
    """Stop the helper while threads are in long calls; make a short one."""
    shim = Shim()
    session = shim.begin()
    results = start_threads([partial(shim.sign, session)] * 2)
    while shim.session_info(session).ulDeviceError < 2:
        continue
    stop(helpers()["odd"])
    return {"C_GetSessionInfo": shim.use(session), "C_Sign": results()}


def stop(pid: int) -> None:
    """Stop a process; return once all of it stands still."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + PATIENCE
    tasks = Path(f"/proc/{pid}/task")
    while {"T"} != {stat.read_text().rpartition(") ")[2][0] for stat in tasks.glob("*/stat")}:
        assert time.monotonic() < end


def test_ends_without_a_broker(hosting: Hosting, odd: Path) -> None:
    """Where no broker can end a hung helper it ends by itself, as nobody can reach it any more."""
    host = hosting(module("odd", odd, deadlines=SHORT))
    assert host.broker is not None

    assert "CKR_DEVICE_ERROR" == host.play(sign_without_broker, host.broker.pid)


def sign_without_broker(broker: int) -> str:
    """Kill the broker and call what never returns; when that has returned, wait for the helper's end."""
    shim = Shim()
    session = shim.begin()
    (pid,) = helpers().values()
    os.kill(broker, signal.SIGKILL)
    assert has_ended(broker)
    rv = shim.sign(session)
    assert has_ended(pid)
    return rv


def test_a_family_shares_the_end(starter: Starter, odd: Path) -> None:
    """A helper that several processes share is ended for all when it hangs for one of them."""
    host = watch(starter, module("odd", odd, fork="inherit", spare=False, deadlines=SHORT))

    assert ["CKR_DEVICE_ERROR", REMOVED] == host.play(hang_in_a_child)
    assert "C_Sign" == host.event("helper.hung", module="odd")["function"]


def hang_in_a_child() -> list[str]:
    """Have a child call what never returns; when the helper has ended, use the parent's session."""
    shim = Shim()
    session = shim.begin()
    pid = helpers()["odd"]
    found = [in_child(partial(shim.sign, session))]
    assert has_ended(pid)
    return [*found, shim.use(session)]


def test_a_look_at_events_has_a_deadline(starter: Starter, odd: Path) -> None:
    """C_WaitForSlotEvent that must not block waits for no helper that hangs; the end of that is an event."""
    host = watch(starter, module("odd", odd, spare=False, deadlines=SHORT))

    assert ["CKR_NO_EVENT", 1] == host.play(look_for_events)
    host.event("helper.hung", module="odd")


def look_for_events() -> list[Any]:
    """Ask a helper that has been stopped whether there was an event, until there is one."""
    shim, slot = Shim(), ULONG()
    shim.begin()
    stop(helpers()["odd"])
    found = [rv := shim.rv("C_WaitForSlotEvent", 1, ctypes.byref(slot), None)]
    while rv == "CKR_NO_EVENT":
        rv = shim.rv("C_WaitForSlotEvent", 1, ctypes.byref(slot), None)
    return [*found, slot.value if rv == "CKR_OK" else rv]


def test_others_helpers_are_not_theirs_to_end(starter: Starter, odd: Path) -> None:
    """A report about a helper that is not the reporter's changes nothing."""
    host = watch(starter, module("odd", odd, spare=False))
    (attached,) = host.watched.attach()
    with through(attached) as channel, raw_door(host.watched) as door:
        report_hung(door, "odd", int(channel.hello.pid or 0))
        report_hung(door, "odd", 1)
        report_hung(door, "odd", os.getpid())
        assert host.watched.is_alive()

        assert 0 == channel.call("C_GetInfo", [True])[0]


def report_hung(door: socket.socket, name: str, pid: int) -> None:
    """Say through a door that a helper hangs."""
    said = Notification("hung", [{"module": name, "pid": pid}])
    door.send(encode(said, control_frame()))


# ---- helpers that are slow to start ----


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Return what a slow provider waits at."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def slow(odd: Path, fifo: Path, start: int = SOON, listed: int = LATE) -> str:
    """Return a module whose provider is ready when somebody opens the fifo."""
    deadlines = {"start": start, "list": listed}
    return module("slow", odd, sandbox="off", spare=False, env={"ODD_WAITS": str(fifo)}, deadlines=deadlines)


def test_a_slow_one_holds_nobody_up(starter: Starter, odd: Path, fifo: Path) -> None:
    """Its slots are absent after its deadline, the others' are there; they appear when it is ready."""
    host = watch(starter, slow(odd, fifo), module("fast", odd, env={"ODD_SLOTS": "2"}))

    found = host.play(start_slowly, str(fifo))

    assert "CKR_OK" == found["C_Initialize"]
    assert 2 == len(found["slots"])
    assert found["slots"] == found["slots without asking how many"]
    assert 3 == len(found["slots when it is ready"])
    assert set(found["slots"]) < set(found["slots when it is ready"])
    assert 1 == found["helpers of the slow one"], "it is waited for, not started again"
    assert "CKR_OK" == found["its session"]


def start_slowly(fifo: str) -> dict[str, Any]:
    """List slots before and after the slow provider is ready."""
    shim = Shim()
    found: dict[str, Any] = {"C_Initialize": shim.rv("C_Initialize", None), "slots": counted_slots(shim)}
    before = helpers()["slow"]
    make_ready(fifo)
    found["slots without asking how many"] = shim.slots()
    found["slots when it is ready"] = await_slots(shim, 3)
    found["helpers of the slow one"] = len({before, helpers()["slow"]})
    (its,) = set(found["slots when it is ready"]) - set(found["slots"])
    return found | {"its session": shim.use(shim.open_session(its))}


def counted_slots(shim: Shim) -> list[int]:
    """Ask how many slots there are, then which."""
    count = ULONG()
    shim.must("C_GetSlotList", 1, None, ctypes.byref(count))
    found = (ULONG * max(1, count.value))()
    shim.must("C_GetSlotList", 1, found, ctypes.byref(count))
    return found[: count.value]


def await_slots(shim: Shim, count: int) -> list[int]:
    """Return the slots once there are so many."""
    end = time.monotonic() + PATIENCE
    while len(slots := counted_slots(shim)) < count:
        assert time.monotonic() < end
    return slots


def make_ready(fifo: str) -> None:
    """Let a provider go on that waits at the fifo."""
    os.close(os.open(fifo, os.O_WRONLY))


def test_alone_it_has_no_slots_yet(starter: Starter, odd: Path, fifo: Path) -> None:
    """Where there is no other module C_Initialize succeeds too, and there are no slots until it is ready."""
    host = watch(starter, slow(odd, fifo))

    assert ["CKR_OK", [], [], [1]] == host.play(start_alone, str(fifo))


def start_alone(fifo: str) -> list[Any]:
    """List slots before and after the only provider is ready."""
    shim = Shim()
    found = [shim.rv("C_Initialize", None), counted_slots(shim), shim.slots()]
    make_ready(fifo)
    return [*found, await_slots(shim, 1)]


def test_a_new_life_may_be_slow_too(starter: Starter, odd: Path, fifo: Path) -> None:
    """After a crash a slow helper is waited for once; until it is ready its slots have no token."""
    host = watch(starter, module("fast", odd), slow(odd, fifo))

    found = host.play(restart_slowly, str(fifo))

    assert "CKR_TOKEN_NOT_PRESENT" == found["C_OpenSession"]
    assert [1] == found["slots meanwhile"]
    assert [1, 2] == found["slots"]
    assert "CKR_OK" == found["its session"]


def test_a_list_waits_less_for_a_new_life(starter: Starter, odd: Path, fifo: Path) -> None:
    """After a crash a list waits for the next helper as long as for slots; other calls have all its time."""
    host = watch(starter, module("fast", odd), slow(odd, fifo, 10 * LATE, SOON))

    found = host.play(list_before_it_is_ready, str(fifo))

    assert [[1], [1], [1]] == found["slots meanwhile"]
    assert "CKR_OK" == found["C_OpenSession"]
    assert [1, 2] == found["slots"]


def list_before_it_is_ready(fifo: str) -> dict[str, Any]:
    """Have the slow provider's helper die; list slots before the next one is ready, then use its slot."""
    shim = Shim()
    opener = threading.Thread(target=make_ready, args=(fifo,))
    opener.start()
    shim.must("C_Initialize", None)
    opener.join()
    await_slots(shim, 2)
    pid = helpers()["slow"]
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)
    found: dict[str, Any] = {"slots meanwhile": [counted_slots(shim) for _ in range(3)]}
    opener = threading.Thread(target=make_ready, args=(fifo,))
    opener.start()
    found["C_OpenSession"] = shim.rv("C_OpenSession", 2, 4, None, None, ctypes.byref(ULONG()))
    opener.join()
    return found | {"slots": await_slots(shim, 2)}


def restart_slowly(fifo: str) -> dict[str, Any]:
    """Have the slow provider's helper die; use its slot before and after the next one is ready."""
    shim = Shim()
    opener = threading.Thread(target=make_ready, args=(fifo,))
    opener.start()
    shim.must("C_Initialize", None)
    opener.join()
    await_slots(shim, 2)
    pid = helpers()["slow"]
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)
    found: dict[str, Any] = {
        "C_OpenSession": shim.rv("C_OpenSession", 2, 4, None, None, ctypes.byref(ULONG())),
        "slots meanwhile": counted_slots(shim),
    }
    make_ready(fifo)
    found["slots"] = await_slots(shim, 2)
    return found | {"its session": shim.use(shim.open_session(2))}


@pytest.mark.parametrize("way", ["C_Finalize", "exit"])
def test_nobody_waits_for_its_end(starter: Starter, odd: Path, fifo: Path, way: str) -> None:
    """C_Finalize and the process's end leave a provider that hangs as it is loaded; then its helper ends."""
    host = watch(starter, slow(odd, fifo), module("fast", odd, spare=False))

    found: Mapping[str, Any]
    with host.playing(leave_while_it_starts, way) as application:
        found = application.report()
        if way == "exit":
            application.end()
        assert has_ended(found["helper"])

    ended = host.event("helper.ended", module="slow")
    # By itself, or told to by the broker, whoever is first.
    assert (ended.get("status"), ended.get("signal")) in ((0, None), (None, "SIGTERM"))
    assert "circuit" not in host.module("slow")


def leave_while_it_starts(way: str) -> dict[str, Any]:
    """Begin with a module that hangs, and end; by C_Finalize alone the process stays."""
    shim = Shim()
    shim.must("C_Initialize", None)
    found = {"helper": helpers()["slow"]}
    if way == "exit":
        return found
    shim.must("C_Finalize", None)
    report(found)
    signal.pause()
    return found
