"""Files that are no providers: an error on the right side, said in words, and whoever is right goes on."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from application import Shim
from brokers import module
from elf import Library
from life import Hosting, Workshop

from p11host import helper_path

pytest_plugins = ["life_fixtures"]

PATIENCE = 30
NOBODY = 65534

Make = Callable[[Path], Path]


def missing(path: Path) -> Path:
    """Make nothing."""
    return path


def text(path: Path) -> Path:
    """Make a text file."""
    path.write_text("no library\n")
    return path


def empty(path: Path) -> Path:
    """Make an empty file."""
    path.touch()
    return path


def directory(path: Path) -> Path:
    """Make a directory."""
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    """Make a pipe, whose reader would wait for ever."""
    os.mkfifo(path)
    return path


def no_entry(path: Path) -> Path:
    """Make a library without C_GetFunctionList."""
    return Library(symbol="C_GetFunctionLast").write(path)


def undefined_entry(path: Path) -> Path:
    """Make a library that itself wants a C_GetFunctionList."""
    return Library(defined=False).write(path)


def other_machine(path: Path) -> Path:
    """Make a library for another machine."""
    return Library(machine=2).write(path)


def truncated(path: Path) -> Path:
    """Make the first half of a library."""
    path.write_bytes(Library().content()[:300])
    return path


def program(path: Path) -> Path:
    """Make a program, which is no library."""
    path.symlink_to(sys.executable)
    return path


BAD = [missing, text, empty, directory, pipe, no_entry, undefined_entry, other_machine, truncated, program]


@pytest.mark.parametrize("make", BAD)
def test_beside_a_good_one(hosting: Hosting, odd: Path, tmp_path: Path, make: Make) -> None:
    """A file that is no provider hides nothing but itself: C_Initialize succeeds, the other module's slots are there."""
    bad = make(tmp_path / "bad.so")
    played = hosting(module("bad", bad), module("good", odd)).played(count_slots, env={"P11HOST_LOG": "1"})

    assert ["CKR_OK", 1] == played.result
    assert f"module.absent module=bad reason=\"{bad}: " in played.output


def count_slots() -> tuple[str, int]:
    """Return what C_Initialize returned, and how many slots there are then."""
    shim = Shim()
    initialized = shim.rv("C_Initialize", None)
    return initialized, len(shim.slots()) if initialized == "CKR_OK" else 0


def test_alone(hosting: Hosting, tmp_path: Path) -> None:
    """With nothing else configured C_Initialize says so; the broker lives and says it to the next one too."""
    host = hosting(module("bad", missing(tmp_path / "bad.so")))

    assert ["CKR_GENERAL_ERROR", 0] == host.play(count_slots)
    assert ["CKR_GENERAL_ERROR", 0] == host.play(count_slots)


@pytest.mark.parametrize("make", BAD)
def test_helper_checks_for_itself(make: Make, tmp_path: Path) -> None:
    """A helper does not trust who started it: it says what is wrong with the file in one line, and loads nothing."""
    bad = make(tmp_path / "bad.so")

    said, mapped = ask_helper(bad)

    assert [True, 1] == [said.startswith(f"{bad}: "), said.count("\n")], said
    assert str(bad) not in mapped


def test_unreadable(workshop: Workshop, tmp_path: Path) -> None:
    """A provider that the helper's user may not read is said to be one."""
    bad = tmp_path / "bad.so"
    bad.write_bytes(workshop.provider("odd").read_bytes())
    bad.chmod(0)

    said, _ = ask_helper(bad, user=NOBODY if os.geteuid() == 0 else None)

    assert f"{bad}: cannot be opened\n" == said


def ask_helper(provider: Path, user: int | None = None) -> tuple[str, str]:
    """Start a helper; return what it wrote on standard error by the time it said hello, and what it had mapped then."""
    raise NotImplementedError


def unused() -> subprocess.Popen[bytes]:
    """Start."""
    return subprocess.Popen([str(helper_path())])
