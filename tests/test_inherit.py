"""fork = "inherit": a child goes on with its parent's helper, login and objects."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from application import PATIENCE, Shim, helpers, in_child, in_threads
from family import GONE, MAC_BYTES, NO_OBJECT, PIN, Family, count_sessions
from life import Host

from p11host.client import Door
from p11host.paths import socket_path

pytest_plugins = ["life_fixtures", "family_fixtures"]

ROUNDS, CHILDREN = 50, 3


# ---- what a child has ----


def test_child_goes_on(family: Host, env: Mapping[str, str]) -> None:
    """A child signs with its parent's session handle and key, logged in, through its parent's helper."""
    parent, child, grandchild, later = family.play(three_sign, env=env)

    assert 2 * MAC_BYTES == len(parent["mac"])
    assert [parent] * 3 == [child, grandchild, later]


def three_sign() -> list[dict[str, Any]]:
    """Sign in the parent, in its child, in that one's child, and in the parent again."""
    shim = Family()

    def live() -> dict[str, Any]:
        return {"mac": shim.mac(), "state": shim.state(), "slots": shim.slots()}

    def live_and_fork() -> list[dict[str, Any]]:
        return [live(), in_child(live)]

    return [live(), *in_child(live_and_fork), live()]


def test_child_has_no_helper_of_its_own(family: Host) -> None:
    """A child's first calls start nothing: it is served by its parent's helper, also after C_Initialize."""
    parent, child, initialized = family.play(helpers_of_a_family)

    assert ["soft"] == list(parent)
    assert {} == child
    assert ["CKR_OK", "CKR_CRYPTOKI_ALREADY_INITIALIZED", "user", {}] == initialized


def helpers_of_a_family() -> list[Any]:
    """Tell which helpers the broker started for us, for a child, and for one that calls C_Initialize."""
    shim = Family()

    def use() -> dict[str, int]:
        shim.mac()
        return helpers()

    def initialize() -> list[Any]:
        rvs = [shim.rv("C_Initialize", None) for _ in range(2)]
        return [*rvs, shim.state(), helpers()]

    return [helpers(), in_child(use), in_child(initialize)]


def test_status_tells_who_shares_a_helper(family: Host) -> None:
    """The broker's status lists, for a shared helper, the processes that it serves now."""
    before, during, after = family.play(who_shares)

    assert 1 == len(before)
    assert [*before, during[0]] == during[1]
    assert before == after


def who_shares() -> list[Any]:
    """Ask who shares our helper before a child calls, while it lives, and when it has ended."""
    shim = Family()
    ours = os.getpid()
    before = sharers(ours)
    during = in_child(lambda: [os.getpid(), shim.state() and sharers(ours)])
    end = time.monotonic() + PATIENCE
    while len(after := sharers(ours)) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    return [before, during, after]


def sharers(pid: int) -> list[int]:
    """Return whom the helper serves that was started for a process."""
    with Door.of_broker(socket_path()) as door, door.open() as channel:
        status: Any = channel.call("status", [{}])
    [helper] = [each["helpers"][0] for each in status["applications"] if each["pid"] == pid]
    found: list[int] = helper["shared"]
    return found


def test_operations_are_each_ones_own(family: Host, env: Mapping[str, str]) -> None:
    """An operation that was active at the fork is not in the child, and goes on in the parent."""
    child, parent, expected = family.play(active_at_fork, env=env)

    assert "CKR_OPERATION_NOT_INITIALIZED" == child[0]
    assert expected == child[1] == parent


def active_at_fork() -> list[Any]:
    """Fork within a signature."""
    shim = Family()
    expected = shim.mac()
    shim.begin_mac(shim.session)
    child = in_child(lambda: [shim.end_mac(shim.session), shim.mac()])
    return [child, shim.end_mac(shim.session), expected]


def test_all_sign_at_once(family: Host, env: Mapping[str, str]) -> None:
    """Parent, children and grandchildren sign at the same time, with the same handles, each its own data."""
    assert [True] * (2 * CHILDREN + 1) == family.play(sign_at_once, env=env)


def sign_at_once() -> list[bool]:
    """Sign many things in many processes."""
    shim = Family()
    expected = {name: shim.mac(data=name.encode()) for name in map(str, range(2 * CHILDREN + 1))}

    def is_right(name: str) -> bool:
        return all(shim.mac(data=name.encode()) == expected[name] for _ in range(ROUNDS))

    def live_and_fork(i: int) -> list[bool]:
        return [is_right(str(i)), in_child(partial(is_right, str(CHILDREN + i)))]

    children = [partial(in_child, partial(live_and_fork, i)) for i in range(CHILDREN)]
    *pairs, own = in_threads([*children, partial(is_right, str(2 * CHILDREN))])
    return [each for pair in pairs for each in pair] + [own]


def test_many_threads_use_an_inherited_session_first(odds: Host, env: Mapping[str, str]) -> None:
    """The first calls in a child may be those of many threads with one inherited session; it gets one."""
    rvs, opened = odds.play(threads_begin, env=env)

    assert ["CKR_OK"] * 8 == rvs
    assert 1 == opened


def threads_begin() -> list[Any]:
    """Use one session first with eight threads of a child; count what that opened."""
    shim = Shim()
    session = shim.begin()
    before = count_sessions(shim)

    def live() -> list[Any]:
        rvs = in_threads([partial(shim.use, session)] * 8)
        return [rvs, count_sessions(shim) - before]

    found: list[Any] = in_child(live)
    return found


def test_sessions_of_parent_and_child_are_never_the_same_number(family: Host) -> None:
    """A child's new session has a handle that its parent never had nor will have; objects are shared."""
    parent, child = family.play(open_in_both)

    assert set() == set(parent) & set(child["sessions"])
    assert child["parent's key"]
    assert GONE == child["parent's later session"]


def open_in_both() -> list[Any]:
    """Open sessions and make objects in both."""
    shim = Family()
    ours, theirs = os.pipe(), os.pipe()

    def live() -> dict[str, Any]:
        sessions = [shim.open_session(shim.slot) for _ in range(3)]
        os.write(ours[1], b".")
        later = int(os.read(theirs[0], 64))
        found = {"sessions": sessions, "parent's key": shim.begin_mac(sessions[0]) == "CKR_OK"}
        return found | {"parent's later session": shim.use(later)}

    def open_meanwhile() -> list[int]:
        os.read(ours[0], 1)
        sessions = [shim.open_session(shim.slot) for _ in range(3)]
        os.write(theirs[1], str(sessions[-1]).encode())
        return sessions

    child, opened = in_threads([partial(in_child, live), open_meanwhile])
    return [[shim.session, *opened], child]


def test_closed_session_is_not_inherited(family: Host) -> None:
    """A session that the parent had closed before the fork is none in the child."""
    assert [GONE, "user"] == family.play(close_then_fork)


def close_then_fork() -> list[str]:
    """Close one of two sessions and fork."""
    shim = Family()
    other = shim.open_session(shim.slot)
    shim.must("C_CloseSession", other)
    found: list[str] = in_child(lambda: [shim.use(other), shim.state()])
    return found


# ---- what a child ends is its own ----


@pytest.mark.parametrize("how", ["close", "close_all", "finalize", "exit", "kill"])
def test_end_in_a_child_is_the_childs(how: str, family: Host, env: Mapping[str, str]) -> None:
    """Whatever a child closes or ends, its parent's session, login and active operation stay."""
    parent = family.play(end_in_child, how, env=env)

    assert {"mac": True, "state": "user", "again": True} == parent


def end_in_child(how: str) -> dict[str, Any]:
    """End things in a child, within an operation of the parent's."""
    shim = Family()
    expected = shim.mac()
    ways: dict[str, Callable[[], object]] = {
        "close": lambda: shim.must("C_CloseSession", shim.session),
        "close_all": lambda: shim.must("C_CloseAllSessions", shim.slot),
        "finalize": lambda: shim.must("C_Finalize", None),
        "exit": lambda: None,
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    }
    shim.begin_mac(shim.session)
    pid = os.fork()
    if pid == 0:
        assert shim.mac() == expected
        assert shim.use(shim.open_session(shim.slot)) == "CKR_OK"
        ways[how]()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == (signal.SIGKILL if how == "kill" else 0), status
    found = {"mac": shim.end_mac(shim.session) == expected, "state": shim.state()}
    return found | {"again": in_child(shim.mac) == expected}


def test_closed_in_the_child(family: Host, env: Mapping[str, str]) -> None:
    """A session that a child has closed, used or not, is closed in the child."""
    assert [["CKR_OK", GONE, GONE], ["CKR_OK", GONE, GONE]] == family.play(close_in_children, env=env)


def close_in_children() -> list[list[str]]:
    """Close a session in a child at once, and in another one after a use."""
    shim = Family()

    def close() -> list[str]:
        return [shim.rv("C_CloseSession", shim.session), shim.use(shim.session), in_child(shim.state)]

    def use_and_close() -> list[str]:
        shim.use(shim.session)
        return close()

    return [in_child(close), in_child(use_and_close)]


def test_logout_in_a_child(family: Host, env: Mapping[str, str]) -> None:
    """A child that logs out is logged out, alone. Its sessions stay, its children's too; its key is gone."""
    child, grandchild, parent = family.play(log_out_in_child, env=env)

    assert ["CKR_OK", "public", "public", NO_OBJECT] == child["after"]
    assert ["CKR_PIN_INCORRECT", "CKR_OK", "user", NO_OBJECT] == child["login"]
    assert ["soft"] == child["helpers"]
    assert "user" == grandchild
    assert {"state": "user", "mac": True} == parent


def log_out_in_child() -> list[Any]:
    """Log out in a child, fork, log in again there with a wrong PIN and the right one, and fork."""
    shim = Family()
    expected = shim.mac()

    def log_in(pin: bytes) -> str:
        return shim.rv("C_Login", shim.session, 1, pin, len(pin))

    def log_out() -> str:
        return shim.rv("C_Logout", shim.session)

    def live() -> list[Any]:
        after = [log_out(), in_child(shim.state), shim.state(), shim.mac()]
        login = [log_in(b"000000"), log_in(PIN), shim.state(), shim.mac()]
        return [{"after": after, "login": login, "helpers": list(helpers())}, in_child(shim.state)]

    child = in_child(live)
    return [*child, {"state": shim.state(), "mac": shim.mac() == expected}]


def test_logout_of_who_is_not_logged_in(family: Host) -> None:
    """C_Logout where the parent never logged in is the provider's to answer and changes nothing."""
    assert ["CKR_OK", "CKR_OK", {}] == family.play(log_out_of_nothing)


def log_out_of_nothing() -> list[Any]:
    """Log out in a child, without any login."""
    shim = Shim()
    session = shim.begin()
    found: list[Any] = in_child(lambda: [shim.rv("C_Logout", session), shim.use(session), helpers()])
    return found
