"""How a fork is noticed where the kernel wipes no page, or only says so, and has no timers for us either."""

import ctypes
import platform
import resource
import time
from typing import Any

import pytest
from life import Host
from test_fork import needs_root, parent_and_child, same_pid_twice

pytest_plugins = ["life_fixtures"]

BY_PID = {"P11HOST_FORK_DETECTION": "pid"}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
MADVISE = {"x86_64": 28, "aarch64": 233}
#: Of a filter: load a word, jump if equal, return; and what it returns: "done" without doing it, "let it be".
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
PRETEND, ALLOW = 0x0005_0000, 0x7FFF_0000


def begins_anew(pair: list[dict[str, Any]]) -> bool:
    """Tell whether a child had a life of its own, and its parent's went on."""
    parent, child = pair
    refused = [child["inherited session"], child["inherited object"]]
    return (
        ["CKR_SESSION_HANDLE_INVALID", "CKR_OBJECT_HANDLE_INVALID"] == refused
        and parent["logged in"]
        and not child["logged in"]
        and parent["slots"] == child["slots"]
    )


# ---- a kernel that only pretends ----


@pytest.mark.skipif(platform.machine() not in MADVISE, reason="the number of madvise is not known here")
def test_a_kernel_that_only_pretends_is_found_out(plain: Host) -> None:
    """Where every advice is taken and none followed, a child is noticed all the same."""
    assert begins_anew(plain.play(with_a_pretender))


def with_a_pretender() -> list[dict[str, Any]]:
    """Live where madvise says yes to everything and does nothing."""
    pretend_to_take_advice()
    return parent_and_child()


def pretend_to_take_advice() -> None:
    """Let a filter answer madvise from now on."""
    words = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, MADVISE[platform.machine()])]
    words += [(RETURN, 0, 0, PRETEND), (RETURN, 0, 0, ALLOW)]
    code = b"".join(a.to_bytes(2, "little") + bytes([b, c]) + d.to_bytes(4, "little") for a, b, c, d in words)
    room = ctypes.create_string_buffer(code, len(code))
    program = (ctypes.c_uint64 * 2)(len(words), ctypes.addressof(room))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0
    assert libc.madvise(ctypes.c_void_p(-1), 0, -1) == 0


# ---- neither page nor timer ----


def test_without_timers(plain: Host) -> None:
    """Where there can be no timer either, the pid and when its process began tell a child."""
    assert begins_anew(plain.play(without_timers, env=BY_PID))


def without_timers() -> list[dict[str, Any]]:
    """Live where no timer can be made."""
    forbid_timers()
    return parent_and_child()


def forbid_timers() -> None:
    """Allow no queued signal: every timer needs one."""
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.timer_create(time.CLOCK_MONOTONIC, None, ctypes.byref(ctypes.c_void_p())) == -1


@needs_root
def test_the_same_pid_without_timers(plain: Host) -> None:
    """Of two processes with one pid the later one is told by when it began."""
    assert [[1, "CKR_OK"], [1, "CKR_SESSION_HANDLE_INVALID"]] == plain.play(same_pid_later, env=BY_PID)


def same_pid_later() -> list[list[Any]]:
    """Be a parent and a child of one pid, where no timer can be made."""
    forbid_timers()
    return same_pid_twice()
