"""When a helper dies, hangs or is killed: the application gets error codes, and goes on with a new one."""

import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import (
    PATIENCE,
    Shim,
    await_calls,
    descriptors,
    has_children,
    helpers,
    in_threads,
    start_threads,
)
from brokers import module
from cryptoki import ULONG
from life import Host, Hosting, has_ended

pytest_plugins = ["life_fixtures"]

THREADS, DEATHS = 3, 10
REMOVED, GONE = "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"
#: Milliseconds for calls to providers that will not answer.
SOON = 1000
WAYS = ["abort", "exit", "segv"]


# ---- a helper that is killed ----


@pytest.fixture(scope="module")
def killed(plain: Host) -> Mapping[str, Any]:
    """Return what became of an application whose helper was killed."""
    found: dict[str, Any] = plain.play(kill_in_flight)
    return found


def test_calls_in_flight(killed: Mapping[str, Any]) -> None:
    """When a helper is killed, every call it has not answered returns CKR_DEVICE_REMOVED, in every thread."""
    assert [REMOVED] * THREADS == killed["in flight"]


def test_sessions_of_the_dead(killed: Mapping[str, Any]) -> None:
    """Then sessions and objects of the dead helper are refused, before and after there is a new one."""
    assert GONE == killed["session"]
    assert GONE == killed["session in the new life"]
    assert "CKR_OBJECT_HANDLE_INVALID" == killed["object in the new life"]


def test_new_helper(killed: Mapping[str, Any]) -> None:
    """The next C_GetSlotList has a new helper with the same slots; its sessions are new and not logged in."""
    assert killed["helper"] != killed["helper in the new life"]
    assert killed["slots"] == killed["slots in the new life"]
    assert not killed["logged in in the new life"]
    assert set() == set(killed["handles"]) & set(killed["handles in the new life"])


def kill_in_flight() -> dict[str, Any]:
    """Kill the helper while threads are inside calls, then go on. SIGPIPE is fatal, as in most programs."""
    shim = Shim()
    session = shim.begin()
    shim.must("C_Login", session, 1, b"1234", 4)
    made = shim.create_object(session)
    found: dict[str, Any] = {"slots": shim.slots(), "handles": [session, made], "helper": helpers()["plain"]}
    results = start_threads([partial(shim.sign, session)] * THREADS)
    await_calls(shim, session, THREADS)
    kill(found["helper"])
    found |= {"in flight": results(), "session": shim.use(session)}
    found["slots in the new life"] = shim.slots()
    own = shim.open_session(found["slots"][0])
    found["session in the new life"] = shim.use(session)
    found["object in the new life"] = shim.rv("C_GetObjectSize", own, made, ctypes.byref(ULONG()))
    found["logged in in the new life"] = shim.is_logged_in(own)
    found["handles in the new life"] = [own, shim.create_object(own)]
    found["helper in the new life"] = helpers()["plain"]
    return found


def kill(pid: int) -> None:
    """Kill a process and wait until it has ended."""
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([descriptor], [], [], PATIENCE)[0]
    os.close(descriptor)


@pytest.mark.parametrize(
    ("first", "told"),
    [("C_GetSessionInfo", REMOVED), ("C_GetSlotList", "CKR_OK"), ("C_OpenSession", "CKR_OK")],
)
def test_killed_while_idle(plain: Host, first: str, told: str) -> None:
    """When a helper dies idle the next call that depends on it says so; one that does not has a new one."""
    assert [told, "CKR_OK", GONE] == plain.play(kill_while_idle, first)


def kill_while_idle(first: str) -> list[str]:
    """Kill the helper while no call is in flight; make a first call, open a session, and use the old one."""
    shim = Shim()
    session = shim.begin()
    slot = shim.slots()[0]
    kill(helpers()["plain"])
    open_session = partial(shim.rv, "C_OpenSession", slot, 4, None, None, ctypes.byref(ULONG()))
    calls: dict[str, Callable[[], str]] = {
        "C_GetSessionInfo": lambda: shim.use(session),
        "C_GetSlotList": lambda: shim.rv("C_GetSlotList", 1, None, ctypes.byref(ULONG())),
        "C_OpenSession": open_session,
    }
    return [calls[first](), open_session(), shim.use(session)]


def test_many_deaths(plain: Host) -> None:
    """A helper may die again and again; each time there is a new one, and no handle is ever valid again."""
    sessions, refused = plain.play(die_again_and_again)

    assert len(sessions) == len(set(sessions))
    assert {GONE} == set(refused)


def die_again_and_again() -> list[list[Any]]:
    """Live through several helpers; return their sessions, and what the old ones are good for then."""
    shim = Shim()
    sessions = [shim.begin()]
    slot = shim.slots()[0]
    for _ in range(5):
        kill(helpers()["plain"])
        assert shim.use(sessions[-1]) == REMOVED
        sessions.append(shim.open_session(slot))
    assert shim.use(sessions[-1]) == "CKR_OK"
    return [sessions, [shim.use(session) for session in sessions[:-1]]]


def test_threads_share_one_new_helper(plain: Host) -> None:
    """Threads that all find the helper dead get the same new one."""
    rvs, count = plain.play(revive_with_threads)

    assert {"CKR_OK"} == set(rvs)
    assert 1 == count


def revive_with_threads() -> tuple[list[str], int]:
    """Kill the helper, learn of it, open sessions with many threads; return that, and count helpers."""
    shim = Shim()
    session = shim.begin()
    slot = shim.slots()[0]
    kill(helpers()["plain"])
    shim.use(session)

    def open_session() -> str:
        return shim.rv("C_OpenSession", slot, 4, None, None, ctypes.byref(ULONG()))

    return in_threads([open_session] * 8), len(helpers())


def test_deaths_under_threads(plain: Host) -> None:
    """While threads call without a pause helpers may die: each call succeeds or says what was lost."""
    found, left = plain.play(die_under_threads)

    for name, rvs in LOST.items():
        assert {"CKR_OK"} <= set(found[name]) <= {"CKR_OK", *rvs}, name
    assert [] == left


#: What may be said of a helper that dies before, during and after a call.
LOST = {
    "C_GetSessionInfo": {REMOVED, GONE, "CKR_FUNCTION_FAILED"},
    "C_OpenSession": {REMOVED, "CKR_TOKEN_NOT_PRESENT", "CKR_FUNCTION_FAILED"},
    "C_GetSlotList": {"CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED"},
}


def die_under_threads() -> tuple[dict[str, list[str]], list[int]]:
    """Kill helper after helper while threads call; return what calls returned, and descriptors left then."""
    shim = Shim()
    before = descriptors()
    slot = shim.session_info(shim.begin()).slotID
    done = threading.Event()

    def call_on() -> set[tuple[str, str]]:
        found = set()
        while not done.is_set():
            session, count = ULONG(), ULONG()
            found.add(("C_GetSlotList", shim.rv("C_GetSlotList", 1, None, ctypes.byref(count))))
            opened = shim.rv("C_OpenSession", slot, 4, None, None, ctypes.byref(session))
            found.add(("C_OpenSession", opened))
            found |= {("C_GetSessionInfo", shim.use(session.value)) for _ in range(5)}
        return found

    results = start_threads([call_on] * THREADS)
    for _ in range(DEATHS):
        await_session(shim, slot)
        kill(await_helper())
    done.set()
    calls = set().union(*results())
    await_session(shim, slot)
    shim.must("C_Finalize", None)
    return {name: [rv for each, rv in calls if each == name] for name in LOST}, sorted(
        set(descriptors()) - set(before)
    )


def await_session(shim: Shim, slot: int) -> None:
    """Return once a session could be opened: a helper that has never answered would have died at once."""
    end = time.monotonic() + PATIENCE
    while shim.rv("C_OpenSession", slot, 4, None, None, ctypes.byref(ULONG())) != "CKR_OK":
        assert time.monotonic() < end


def await_helper() -> int:
    """Return the pid of our helper once there is one."""
    end = time.monotonic() + PATIENCE
    while not (found := helpers()):
        assert time.monotonic() < end
    return found["plain"]


# ---- providers that take their helper along ----


@pytest.mark.parametrize("way", WAYS)
def test_provider_dies_in_a_call(hosting: Hosting, odd: Path, way: str) -> None:
    """A provider that ends its process in a call is CKR_DEVICE_REMOVED, and nothing to other modules."""
    host = hosting(module("good", odd), module("bad", odd, env={"ODD_DIES": f"C_Sign {way}"}))

    found = host.play(lose_one_of_two)

    assert REMOVED == found["C_Sign"]
    assert GONE == found["its session"]
    assert "CKR_OK" == found["the other's session"]
    assert [1, 2] == found["slots"]
    assert "CKR_OK" == found["its new session"]


def lose_one_of_two() -> dict[str, Any]:
    """Call what kills the second module's provider; then use the first, and the second again."""
    shim = Shim()
    good = shim.begin()
    bad = shim.open_session(shim.slots()[1])
    return {
        "C_Sign": shim.sign(bad),
        "its session": shim.use(bad),
        "the other's session": shim.use(good),
        "slots": shim.slots(),
        "its new session": shim.use(shim.open_session(2)),
    }


@pytest.mark.parametrize("where", ["constructor", "C_Initialize"])
@pytest.mark.parametrize("way", WAYS)
def test_provider_dies_while_it_is_loaded(hosting: Hosting, odd: Path, where: str, way: str) -> None:
    """A provider that ends its process as it is loaded hides nothing but itself."""
    host = hosting(module("bad", odd, env={"ODD_DIES": f"{where} {way}"}), module("good", odd))

    initialized, count = host.play(count_slots)

    assert "CKR_OK" == initialized
    assert 1 == count


def test_no_provider_survives(hosting: Hosting, odd: Path) -> None:
    """Where no provider can be loaded C_Initialize fails, the application is alive, and so is the broker."""
    host = hosting(module("bad", odd, env={"ODD_DIES": "constructor abort"}))

    assert ["CKR_GENERAL_ERROR", 0] == host.play(count_slots)
    assert ["CKR_GENERAL_ERROR", 0] == host.play(count_slots)


def count_slots() -> tuple[str, int]:
    """Return what C_Initialize returned, and how many slots there are then."""
    shim = Shim()
    initialized = shim.rv("C_Initialize", None)
    return initialized, len(shim.slots()) if initialized == "CKR_OK" else 0


# ---- providers that hang ----


def test_hung_provider(hosting: Hosting, odd: Path) -> None:
    """A call never answered is CKR_DEVICE_ERROR at its deadline, and ends the helper."""
    host = hosting(module("odd", odd, deadlines={"long": SOON}))

    found = host.play(hang)

    assert "CKR_DEVICE_ERROR" == found["C_Sign"]
    assert GONE == found["the same session"]
    assert "CKR_OK" == found["C_Finalize"]
    assert has_ended(found["helper"])


def hang() -> dict[str, Any]:
    """Call what never returns; then use the session, and end."""
    shim = Shim()
    session = shim.begin()
    found = {"helper": helpers()["odd"], "C_Sign": shim.sign(session), "the same session": shim.use(session)}
    return found | {"C_Finalize": shim.rv("C_Finalize", None)}


def test_stopped_helper(hosting: Hosting, odd: Path) -> None:
    """A helper that is stopped hangs nobody: not a call, nor C_Finalize, nor the other module."""
    host = hosting(module("one", odd, deadlines={"short": SOON}), module("two", odd))

    found = host.play(stop)

    assert "CKR_DEVICE_ERROR" == found["its session"]
    assert "CKR_OK" == found["the other's session"]
    assert "CKR_OK" == found["C_Finalize"]


def stop() -> dict[str, str]:
    """Stop the first module's helper, call both, and end."""
    shim = Shim()
    one = shim.begin()
    two = shim.open_session(shim.slots()[1])
    pid = helpers()["one"]
    os.kill(pid, signal.SIGSTOP)
    await_stop(pid)
    found = {"its session": shim.use(one), "the other's session": shim.use(two)}
    found["C_Finalize"] = shim.rv("C_Finalize", None)
    os.kill(pid, signal.SIGKILL)
    return found


def await_stop(pid: int) -> None:
    """Return once every thread of a process stands still."""
    end = time.monotonic() + PATIENCE
    threads = Path(f"/proc/{pid}/task")
    while {"T"} != {stat.read_text().rpartition(") ")[2][0] for stat in threads.glob("*/stat")}:
        assert time.monotonic() < end


def test_finalize_ends_calls(plain: Host) -> None:
    """C_Finalize does not wait for calls in flight: they return CKR_CRYPTOKI_NOT_INITIALIZED."""
    finalized, calls = plain.play(finalize_in_flight)

    assert "CKR_OK" == finalized
    assert ["CKR_CRYPTOKI_NOT_INITIALIZED"] * THREADS == calls


def finalize_in_flight() -> tuple[str, list[str]]:
    """Call C_Finalize while threads are inside calls that never return."""
    shim = Shim()
    session = shim.begin()
    results = start_threads([partial(shim.sign, session)] * THREADS)
    await_calls(shim, session, THREADS)
    return shim.rv("C_Finalize", None), results()


def test_no_trace_in_the_application(plain: Host) -> None:
    """No child, zombie or signal comes to the application of all this."""
    assert [0, False] == plain.play(live_without_a_trace)


def live_without_a_trace() -> tuple[int, bool]:
    """Lose a helper and get another; return how many SIGCHLD that was, and whether we have children."""
    signals = []
    signal.signal(signal.SIGCHLD, lambda number, _: signals.append(number))
    shim = Shim()
    session = shim.begin()
    kill(helpers()["plain"])
    shim.use(session)
    shim.slots()
    return len(signals), has_children()
