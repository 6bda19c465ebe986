"""Fork: nothing happens until the child calls, then the child simply works, and the parent never notices."""

import ctypes
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import Shim, descriptors, in_child, in_threads
from brokers import module
from cryptoki import ULONG, struct
from life import Host, Hosting

pytest_plugins = ["life_fixtures"]

NOBODY = 65534
CLONE_NEWPID = 0x20000000
NOT_INITIALIZED = "CKR_CRYPTOKI_NOT_INITIALIZED"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@pytest.fixture(params=["page", "pid"])
def env(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Return the environment for each way to notice a fork: a page that the kernel wipes, and the pid."""
    return {"P11HOST_FORK_DETECTION": request.param}


# ---- the child calls ----


def test_child_begins_anew(plain: Host, env: Mapping[str, str]) -> None:
    """A child has the same slots and sessions of its own, not logged in; its parent's handles are refused."""
    parent, child = plain.play(parent_and_child, env=env)

    assert parent["slots"] == child["slots"]
    assert "CKR_SESSION_HANDLE_INVALID" == child["inherited session"]
    assert "CKR_OBJECT_HANDLE_INVALID" == child["inherited object"]
    assert not child["logged in"]
    assert parent["logged in"], "the parent still is"


def test_handles_of_parent_and_child_are_never_the_same_number(plain: Host, env: Mapping[str, str]) -> None:
    """Though the provider numbers alike in every life, no handle of a child is one of its parent's."""
    parent, child = plain.play(parent_and_child, env=env)

    assert set() == set(parent["handles"]) & set(child["handles"])


def parent_and_child() -> list[dict[str, Any]]:
    """Use all there is, in the parent and then in a child."""
    shim = Shim()
    session = shim.begin()
    shim.must("C_Login", session, 1, b"1234", 4)
    made = shim.create_object(session)
    slots = shim.slots()

    def live() -> dict[str, Any]:
        refused = shim.use(session)
        own = shim.open_session(slots[0])
        return {
            "inherited session": refused,
            "inherited object": shim.rv("C_GetObjectSize", own, made, ctypes.byref(ULONG())),
            "slots": shim.slots(),
            "logged in": shim.is_logged_in(own),
            "handles": [own, shim.create_object(own)],
        }

    child = in_child(live)
    parent = {"slots": slots, "handles": [session, made], "logged in": shim.is_logged_in(session)}
    return [parent, child]


def test_inherited_session_is_refused_by_the_first_call_already(plain: Host, env: Mapping[str, str]) -> None:
    """No call that a child makes with an inherited session reaches a provider, the first one neither."""
    assert ["CKR_SESSION_HANDLE_INVALID"] * 2 == plain.play(first_calls, env=env)


def first_calls() -> list[str]:
    """Make the first call in a child with a session of its parent's, twice."""
    shim = Shim()
    session = shim.begin()
    return [in_child(partial(shim.use, session)), in_child(partial(shim.sign, session))]


def test_child_of_a_child(plain: Host, env: Mapping[str, str]) -> None:
    """A child of a child works as well, and all three have sessions of their own."""
    generations = plain.play(three_generations, env=env)

    assert 3 == len(set(generations))


def three_generations() -> list[int]:
    """Open a session in the parent, in its child and in that one's child."""
    shim = Shim()
    session = shim.begin()

    def live() -> int:
        return shim.open_session(shim.slots()[0])

    def live_and_fork() -> list[int]:
        own = live()
        return [own, in_child(live)]

    return [session, *in_child(live_and_fork)]


@needs_root
def test_child_with_the_pid_of_its_parent(plain: Host, env: Mapping[str, str]) -> None:
    """A child is told from its parent also where both have the same pid, each in its own namespace."""
    assert [[1, "CKR_OK"], [1, "CKR_SESSION_HANDLE_INVALID"]] == plain.play(same_pid_twice, env=env)


def same_pid_twice() -> list[list[Any]]:
    """Be the first process of a namespace, and fork the first process of another."""
    shim = Shim()

    def live() -> list[list[Any]]:
        session = shim.begin()
        outlive_a_tick()
        unshare_pids()
        return [[os.getpid(), shim.use(session)], in_child(lambda: [os.getpid(), shim.use(session)])]

    unshare_pids()
    found: list[list[Any]] = in_child(live)
    return found


def outlive_a_tick() -> None:
    """Return when a process that begins now has begun later than this one, by the clock of /proc."""
    end = time.monotonic() + 2 / os.sysconf("SC_CLK_TCK")
    while time.monotonic() < end:
        continue


def unshare_pids() -> None:
    """Let the next child be the first process of a namespace of its own."""
    rv = ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID)
    assert rv == 0, os.strerror(ctypes.get_errno())


def test_first_calls_of_many_threads(plain: Host, env: Mapping[str, str]) -> None:
    """The first call in a child may be that of many threads at once."""
    found = plain.play(threads_in_child, env=env)

    assert 8 == len(set(found))


def threads_in_child() -> list[int]:
    """Open sessions with eight threads of a child."""
    shim = Shim()
    shim.begin()
    slot = shim.slots()[0]
    sessions: list[int] = in_child(lambda: in_threads([partial(shim.open_session, slot)] * 8))
    return sessions


# ---- C_Initialize and C_Finalize ----


def test_initialize_in_child(plain: Host, env: Mapping[str, str]) -> None:
    """In a child C_Initialize is CKR_OK once, be it its first call or not, then ALREADY_INITIALIZED."""
    expected = ["CKR_OK", "CKR_CRYPTOKI_ALREADY_INITIALIZED"]

    assert [expected, expected] == plain.play(initialize_in_children, env=env)


def initialize_in_children() -> list[list[str]]:
    """Call C_Initialize in a child at once, and in another one after a first call."""
    shim = Shim()
    shim.begin()

    def at_once() -> list[str]:
        return [shim.rv("C_Initialize", None) for _ in range(2)]

    def after_a_call() -> list[str]:
        shim.slots()
        return at_once()

    return [in_child(at_once), in_child(after_a_call)]


def test_finalize_in_child(plain: Host, env: Mapping[str, str]) -> None:
    """C_Finalize ends a child's life, used or not, and not its parent's; C_Initialize then begins another."""
    unused, used, parent = plain.play(finalize_in_children, env=env)

    assert ["CKR_OK", NOT_INITIALIZED, NOT_INITIALIZED, "CKR_OK"] == unused
    assert ["CKR_OK", NOT_INITIALIZED, NOT_INITIALIZED, "CKR_OK"] == used
    assert ["CKR_OK", "CKR_OK"] == parent


def finalize_in_children() -> list[list[str]]:
    """Call C_Finalize in a child at once, and in another one after a first call."""
    shim = Shim()
    session = shim.begin()

    def at_once() -> list[str]:
        ended = [shim.rv("C_Finalize", None) for _ in range(2)]
        return [*ended, shim.use(session), shim.rv("C_Initialize", None)]

    def after_a_call() -> list[str]:
        shim.slots()
        return at_once()

    children = [in_child(at_once), in_child(after_a_call)]
    return [*children, [shim.use(session), shim.rv("C_Finalize", None)]]


def test_child_of_a_parent_that_is_not_initialised(plain: Host, env: Mapping[str, str]) -> None:
    """A child is initialised if its parent was when it forked, and only then."""
    assert [NOT_INITIALIZED] * 4 == plain.play(children_without_a_life, env=env)


def children_without_a_life() -> list[str]:
    """Call in children of a parent that has not been initialised yet, and no longer is."""
    shim = Shim()

    def live() -> list[str]:
        count = ctypes.byref(ULONG())
        return [shim.rv("C_GetSlotList", 1, None, count), shim.rv("C_Finalize", None)]

    never: list[str] = in_child(live)
    shim.begin()
    shim.must("C_Finalize", None)
    return [*never, *in_child(live)]


def test_child_outlives_its_parents_life(plain: Host, env: Mapping[str, str]) -> None:
    """When the parent ends its life with C_Finalize, its child goes on."""
    assert ["CKR_OK", "CKR_OK"] == plain.play(parent_finalizes, env=env)


def parent_finalizes() -> list[str]:
    """Finalize in the parent between two calls of a child."""
    shim = Shim()
    shim.begin()
    before, after = os.pipe(), os.pipe()

    def live() -> list[str]:
        session = shim.open_session(shim.slots()[0])
        first = shim.use(session)
        os.write(before[1], b".")
        os.read(after[0], 1)
        return [first, shim.use(session)]

    # A process of its own in between waits for the child, so that the parent is free to act.
    def finalize_meanwhile() -> str:
        os.read(before[0], 1)
        rv = shim.rv("C_Finalize", None)
        os.write(after[1], b".")
        return rv

    results, rv = in_threads([partial(in_child, live), finalize_meanwhile])
    assert rv == "CKR_OK", rv
    found: list[str] = results
    return found


def test_strict(hosting: Hosting, odd: Path, env: Mapping[str, str]) -> None:
    """With fork = "strict" a child is not initialised until it calls C_Initialize."""
    host = hosting(module("odd", odd, fork="strict"))

    assert [NOT_INITIALIZED, "CKR_OK", "CKR_OK"] == host.play(strict_child, env=env)


def strict_child() -> list[str]:
    """Call in a child before and after C_Initialize."""
    shim = Shim()
    shim.begin()

    def live() -> list[str]:
        info = struct("CK_INFO")()
        calls = [("C_GetInfo", ctypes.byref(info)), ("C_Initialize", None), ("C_GetInfo", ctypes.byref(info))]
        return [shim.rv(*words) for words in calls]

    found: list[str] = in_child(live)
    return found


# ---- what a child still has of its parent ----


def test_memory_shared_with_a_helper_is_not_a_childs(plain: Host, env: Mapping[str, str]) -> None:
    """After its first call a child cannot read what its parent says and hears, PINs and keys among it."""
    parent, at_fork, child, after = plain.play(look_at_shared_memory, env=env)

    assert parent == at_fork == after != []
    assert [] == [each for each in child if each in parent]
    assert [] != child, "it has its own"


def look_at_shared_memory() -> list[list[str]]:
    """List the memory shared with a helper: the parent's, a child's before and after its first call."""
    shim = Shim()
    session = shim.begin()

    def live() -> list[list[str]]:
        at_fork = shared_memory()
        shim.must("C_Login", shim.open_session(shim.slots()[0]), 1, b"1234", 4)
        return [at_fork, shared_memory()]

    parent = shared_memory()
    children = in_child(live)
    assert shim.use(session) == "CKR_OK"
    return [parent, *children, shared_memory()]


def shared_memory() -> list[str]:
    """Return the files of this process's memory that a helper sees too, by their numbers."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[4] for line in maps if "p11host-bell" in line})


# ---- what a child has done before its first call ----


def test_descriptors_of_the_child_are_left_alone(plain: Host, env: Mapping[str, str]) -> None:
    """A child that has closed our descriptors and opened others in their places keeps those, and works."""
    places, found = plain.play(reused_descriptors, env=env)

    assert len(places) > 1
    assert {str(place): "/dev/null" for place in places} == found


def reused_descriptors() -> tuple[list[int], dict[int, str]]:
    """Open something else under every number that the shim has used, then call."""
    shim = Shim()
    before = descriptors()
    session = shim.begin()
    places = sorted(set(descriptors()) - set(before))

    def live() -> dict[int, str]:
        null = os.open(os.devnull, os.O_RDWR)
        for place in places:
            os.dup2(null, place)
        shim.open_session(shim.slots()[0])
        now = descriptors()
        return {place: now[place] for place in places}

    child = in_child(live)
    assert shim.use(session) == "CKR_OK"
    return places, child


@needs_root
def test_child_without_rights_or_environment(plain: Host, env: Mapping[str, str]) -> None:
    """A worker that is another user by now, in another root, without environment still has its token."""
    assert "CKR_OK" == plain.play(worker, env=env)


def worker() -> str:
    """Give up all that a broker is found by, then call."""
    shim = Shim()
    shim.begin()

    def live() -> str:
        os.environ.clear()
        os.chroot("/proc/self/fdinfo")
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return shim.use(shim.open_session(shim.slots()[0]))

    rv: str = in_child(live)
    return rv
