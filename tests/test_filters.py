"""The filters of system calls: what is made of the table, run as the kernel runs it."""

import errno
import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SPECS = Path(__file__).resolve().parent.parent / "specs"
Instruction = tuple[int, int, int, int]


def emit() -> Any:
    """Return specs/emit/filters.py, which is the build's and not installed."""
    place = SPECS / "emit" / "__init__.py"
    found = importlib.util.spec_from_file_location(
        "emit", place, submodule_search_locations=[str(place.parent)]
    )
    assert found is not None
    sys.modules["emit"] = importlib.util.module_from_spec(found)
    return importlib.import_module("emit.filters")


FILTERS = emit()
MACHINES = FILTERS.MACHINES
MACHINE, NARROW = MACHINES["__x86_64__"], MACHINES["__i386__"]
ALLOW, NOTIFY, KILL = FILTERS.ALLOW, FILTERS.NOTIFY, 0
DENY, ABSENT = FILTERS.ERRNO | errno.EPERM, FILTERS.ERRNO | errno.ENOSYS
ME = FILTERS.SELF
#: Of i386: socketcall and ipc, and the calls that are made by these too, which libseccomp sees to.
MULTIPLEXED = {102, 117, 337, 345, *range(359, 374), *range(393, 403)}


@cache
def rules() -> Any:
    """Return the table."""
    return FILTERS.Rules.read(SPECS / "syscalls.toml")


def number_of(call: str, machine: int) -> int:
    """Return a call's number on a machine, less than 0 where it has none of its own."""
    return int(FILTERS.number_of(call, machine))


@cache
def program(*has: str, machine: int = MACHINE, learn: bool = False) -> tuple[Instruction, ...]:
    """Return the filter for these capabilities."""
    return tuple(FILTERS.make(rules(), machine, frozenset(has), learn=learn))


def run(code: Sequence[Instruction], number: int, *words: int, machine: int = MACHINE) -> int:
    """Return what a filter says of a call, by the few instructions that filters have."""
    whole = [*words, *[0] * (6 - len(words))]
    halves = [half for word in whole for half in (word & 0xFFFFFFFF, word >> 32 & 0xFFFFFFFF)]
    memory = [number, machine, 0, 0, *halves]
    at = value = 0
    while True:
        operation, yes, no, constant = code[at]
        at += 1
        if operation == 0x06:
            return constant
        if operation == 0x20:
            value = memory[constant // 4]
        elif operation == 0x54:
            value &= constant
        elif operation == 0x05:
            at += constant
        else:
            compare = {
                0x15: value == constant,
                0x25: value > constant,
                0x35: value >= constant,
                0x45: value & constant,
            }
            at += yes if compare[operation] else no


def says(call: str, *words: int, has: Sequence[str] = ()) -> int:
    """Return what the filter of this machine says of a call."""
    return run(program(*has), number_of(call, MACHINE), *words)


@pytest.mark.parametrize("machine", [MACHINE, NARROW])
@pytest.mark.parametrize("has", [(), ("sockets", "network", "processes", "ipc")])
def test_every_number(machine: int, has: tuple[str, ...]) -> None:
    """Of all numbers there are, those of the table are allowed and no other; what is newer is absent."""
    allowed = {number_of(call, machine) for call in rules().allowed(frozenset(has))}
    ruled = {number_of(rule["call"], machine) for rule in rules().rules(frozenset(has))}
    absent = {number_of(call, machine) for call in rules().table["absent"]}
    for number in set(range(600)) - ruled - (MULTIPLEXED if machine == NARROW else set()):
        newer = number > rules().table["newest"]
        expected = ABSENT if newer or number in absent else ALLOW if number in allowed else DENY

        assert (number, expected) == (number, run(program(*has, machine=machine), number, machine=machine))


def test_another_machine_kills() -> None:
    """A call by another machine's numbers ends the process; those of x32 are newer than all others."""
    for other in (NARROW, MACHINES["__aarch64__"], 0):
        assert KILL == run(program(), 0, machine=other)
    assert ABSENT == run(program(), 0x40000000)


def test_arguments() -> None:
    """Calls whose arguments matter are allowed as the table says, all 64 bits of an argument counted."""
    thread, process, user = 0x10000 | 0x50F00, 17, 0x10000000

    assert (ALLOW, DENY, DENY) == tuple(says("clone", flags) for flags in (thread, process, thread | user))
    assert (ALLOW, DENY) == tuple(
        says("clone", flags, has=["processes"]) for flags in (process, process | user)
    )
    assert (ALLOW, DENY, DENY) == tuple(says("tgkill", pid) for pid in (ME, 1, ME | 1 << 32))
    assert (ALLOW, DENY) == tuple(says("prctl", option) for option in (15, 4))
    assert (ALLOW, ALLOW, DENY) == tuple(says("socketpair", 1, kind) for kind in (1, 5 | 0x80000, 2))
    families = (1, 2, 10, 17, 38, 40)
    granted = {"sockets": {1}, "network": {2, 10}}
    for has in ((), ("sockets",), ("network",), ("sockets", "network")):
        fine = set().union(*(granted[name] for name in has))
        assert fine == {family for family in families if says("socket", family, 1, 0, has=has) == ALLOW}


def test_learning() -> None:
    """Where a module is learned from, what names a file or is denied is asked; nothing that exists fails."""
    outcomes = {
        call: run(program(learn=True), number_of(call, MACHINE))
        for call in ("openat", "bpf", "read", "clone3")
    }

    assert {"openat": NOTIFY, "bpf": NOTIFY, "read": ALLOW, "clone3": ABSENT} == outcomes


def test_names_are_of_calls() -> None:
    """Every call of the table is one that libseccomp knows."""
    table = rules().table
    names = {call for group in table["allow"].values() for call in group} | set(table["absent"])
    names |= {call for name in rules().capabilities for call in table[name]["allow"]}
    names |= {rule["call"] for rule in table["rule"]} | set(table["learn"]["calls"])

    assert [] == sorted(name for name in names if number_of(name, MACHINE) == number_of(name, NARROW) == -1)


def test_filters_fit_the_kernel() -> None:
    """Jumps go forward and stay inside, and every path ends; no filter is longer than the kernel takes."""
    names = rules().capabilities
    sets = itertools.chain.from_iterable(
        itertools.combinations(names, size) for size in range(len(names) + 1)
    )
    for has in sets:
        code = program(*has)
        assert len(code) < 4096
        assert code[-1][0] == 0x06
        for place, (operation, yes, no, constant) in enumerate(code):
            farthest = constant if operation == 0x05 else max(yes, no) if operation & 7 == 5 else 0
            assert place + 1 + farthest < len(code) or operation == 0x06


def test_without_libseccomp(tmp_path: Path) -> None:
    """Where libseccomp is missing the build says so, and what to install."""
    lines = ["import ctypes, sys", "def none(*_): raise OSError", "ctypes.CDLL = none"]
    lines += [
        "sys.path.insert(0, sys.argv[1])",
        "from specs.filters import main",
        "sys.exit(main(sys.argv[2:]))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), str(SPECS.parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (1, "libseccomp is missing, which the build needs; run: apt-get install libseccomp2\n") == (
        done.returncode,
        done.stderr,
    )
