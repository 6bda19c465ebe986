"""Files that are no providers: an error on the right side, said in words, and whoever is right goes on."""

import _ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from application import Shim
from brokers import module
from elf import Library
from life import Hosting, Workshop
from lone import lone_helper

from p11host.wire import RemoteError

pytest_plugins = ["life_fixtures"]

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


def other_library(path: Path) -> Path:
    """Make a library without C_GetFunctionList, of Python's own."""
    path.symlink_to(_ctypes.__file__)
    return path


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


BAD = [
    missing,
    text,
    empty,
    directory,
    pipe,
    other_library,
    undefined_entry,
    other_machine,
    truncated,
    program,
]


def test_beside_a_good_one(hosting: Hosting, odd: Path, tmp_path: Path) -> None:
    """Files that are no providers hide only themselves: the good one's slots are there, the log says why."""
    bad = [make(tmp_path / f"{make.__name__}.so") for make in BAD]
    modules = [module(path.stem, path) for path in bad]
    played = hosting(*modules, module("good", odd)).played(count_slots, env={"P11HOST_LOG": "1"})

    assert ["CKR_OK", 1] == played.result
    said = [line.partition(".so: ")[0] for line in played.output.splitlines()]
    assert [
        f'p11host: module.absent module={path.stem} reason="{path.with_suffix("")}' for path in bad
    ] == said


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
    """A helper does not rely on who started it: it says in one line what is wrong with the file."""
    bad = make(tmp_path / "bad.so")

    told, written = ask_helper(bad)

    assert told.startswith(f"{bad}: ")
    assert f"{told}\n" == written


def test_nothing_runs_of_what_is_no_provider(workshop: Workshop) -> None:
    """A library without C_GetFunctionList is not loaded: its constructors never run."""
    bad = workshop.provider("odd", "-DC_GetFunctionList=odd_list")

    told, _ = ask_helper(bad, {"ODD_DIES": "constructor abort"})

    assert f"{bad}: is not a PKCS#11 library: it has no C_GetFunctionList" == told


def test_unreadable(odd: Path) -> None:
    """A provider that the helper's user may not read is refused in words too."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        bad = directory / "bad.so"
        bad.write_bytes(odd.read_bytes())
        bad.chmod(0)

        told, _ = ask_helper(bad, nobody=os.geteuid() == 0)

    assert f"{bad}: cannot be opened" == told


def ask_helper(
    provider: Path, env: Mapping[str, str] | None = None, *, nobody: bool = False
) -> tuple[str, str]:
    """Return the error with which a helper says hello, and what it writes on standard error."""
    with lone_helper(provider, env, nobody=nobody) as helper:
        with pytest.raises(RemoteError) as refused:
            helper.open()
        return refused.value.text.removesuffix(" (CKR_GENERAL_ERROR)"), helper.end()
