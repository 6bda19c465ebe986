"""What the shim has in an application's process: descriptors, mappings, output. Nothing of it stays."""

import ctypes
import fcntl
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from application import Shim, descriptors, in_threads
from life import Host

pytest_plugins = ["life_fixtures"]

WARM, CYCLES = 5, 50
PARTY = 4
#: Python's own memory grows by a mapping now and then.
STRAY_MAPPINGS = 4
LOG = "p11host: "


# ---- descriptors ----


def test_descriptors_are_out_of_the_way(party: Host) -> None:
    """Every descriptor of ours is close-on-exec and above 2, though the program has closed 0, 1 and 2."""
    found = party.play(close_standard_streams)

    assert 2 + 2 * PARTY == len(found), "doors of broker and helper, and a socket each way for each channel"
    assert [] == [place for place, inherited in found if place <= 2 or inherited]


def close_standard_streams() -> list[tuple[int, bool]]:
    """Use the shim without standard streams; return its descriptors, and if exec would pass them on."""
    os.closerange(0, 3)
    before = descriptors()
    shim = Shim()
    session = shim.begin()
    in_threads([partial(shim.random, session)] * PARTY)
    ours = sorted(set(descriptors()) - set(before))
    return [(place, not fcntl.fcntl(place, fcntl.F_GETFD) & fcntl.FD_CLOEXEC) for place in ours]


def test_an_executed_program_inherits_none(plain: Host) -> None:
    """A program that the application executes has the descriptors it would have without us."""
    without, with_shim = plain.play(execute_around_use)

    assert without == with_shim


def execute_around_use() -> list[str]:
    """Execute a program that lists its descriptors, before and while the shim is in use."""
    list_descriptors = [sys.executable, "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"]
    run = partial(
        subprocess.run, list_descriptors, close_fds=False, check=True, capture_output=True, text=True
    )
    before = run().stdout
    shim = Shim()
    session = shim.begin()
    during = run().stdout
    assert shim.use(session) == "CKR_OK"
    return [before, during]


def test_finalize_leaves_nothing(party: Host) -> None:
    """After C_Finalize there are as many descriptors and mappings as before C_Initialize, life after life."""
    before, after = party.play(live_again_and_again)

    assert before["descriptors"] == after["descriptors"]
    assert before["mappings"] + STRAY_MAPPINGS >= after["mappings"]


def live_again_and_again() -> list[dict[str, int]]:
    """Live a few lives, then many; count what is there after the few and after the many."""
    shim = Shim()
    none = descriptors()
    for _ in range(WARM):
        live(shim)
    assert none == descriptors(), descriptors()
    before = possessions()
    for _ in range(CYCLES):
        live(shim)
    return [before, possessions()]


def live(shim: Shim) -> None:
    """Live from C_Initialize to C_Finalize, with more than one channel."""
    session = shim.begin()
    in_threads([partial(shim.random, session)] * PARTY)
    shim.must("C_Finalize", None)


def possessions() -> dict[str, int]:
    """Count what this process has."""
    mappings = Path("/proc/self/maps").read_text().splitlines()
    return {"descriptors": len(descriptors()), "mappings": len(mappings)}


def test_initialize_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A C_Initialize that fails leaves no descriptor either."""
    nowhere = Host({"P11HOST_SOCKET": str(tmp_path / "none"), "P11HOST_NO_START": "1"})

    before, after = nowhere.play(fail_again_and_again)

    assert before == after


def fail_again_and_again() -> list[dict[int, str]]:
    """Call C_Initialize where there is no broker."""
    shim = Shim()
    before = descriptors()
    for _ in range(WARM):
        assert shim.rv("C_Initialize", None) == "CKR_GENERAL_ERROR"
    return [before, descriptors()]


def test_unloading_is_safe(plain: Host) -> None:
    """The shim can be loaded, used and unloaded, and then no code of it is mapped."""
    assert [] == plain.play(unload)


def unload() -> list[str]:
    """Use the shim and unload it; return what is mapped of it then."""
    shim = Shim()
    shim.begin()
    shim.must("C_Finalize", None)
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(shim.handle))
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "p11host.so" in line]


# ---- output ----


def test_says_nothing_unasked(plain: Host, tmp_path: Path) -> None:
    """Whatever goes wrong, the shim writes nothing to stdout or stderr unless the environment asks it to."""
    nowhere = {"P11HOST_SOCKET": str(tmp_path / "none")}

    assert "" == plain.played(be_refused).output
    assert "" == plain.played(fail_again_and_again, env=nowhere).output


def test_says_on_stderr_what_it_is_asked_to_say(tmp_path: Path) -> None:
    """With P11HOST_LOG set, each line says whose it is, what happened and what to do."""
    nowhere = Host({"P11HOST_SOCKET": str(tmp_path / "none"), "P11HOST_NO_START": "1", "P11HOST_LOG": "1"})

    lines = nowhere.played(fail_again_and_again).output.splitlines()

    assert WARM == len(lines)
    assert all(line.startswith(LOG + "broker.absent ") and "p11host serve" in line for line in lines)


def be_refused() -> str:
    """Do what is refused in many ways."""
    shim = Shim()
    session = shim.begin()
    mechanism = (ctypes.c_ulong * 3)(0x1087, ctypes.addressof(ctypes.create_string_buffer(3)), 3)
    return " ".join(
        [
            shim.use(0),
            shim.rv("C_DigestInit", session, mechanism),
            shim.rv("C_GetSlotList", 1, None, None),
            shim.rv("C_Initialize", None),
            shim.rv("C_Finalize", ctypes.byref(ctypes.c_int())),
        ]
    )
