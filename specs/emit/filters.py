"""filters.h: the filters of specs/syscalls.toml as the kernel takes them, compiled by libseccomp.

Made at build time, so that a helper compiles nothing when it starts and links to nothing. Knows libseccomp's
interface and that table's grammar; what a call is good for is the table's to say.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import struct
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .text import array, header

ALLOW, NOTIFY, ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
#: Machines by the macro of the compiler's that tells them, as the kernel numbers them.
MACHINES = {"__x86_64__": 0xC000003E, "__i386__": 0x40000003, "__aarch64__": 0xC00000B7}
#: Where a filter says "self", for the helper to write its pid there.
SELF = 0x5E1F5E1F
_EQUAL, _MASKED = 4, 7
_OPTIMIZE, _BINARY_TREE = 8, 2
_LOAD, _EQUALS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
#: Where what is filtered has the number of the call, and the machine's.
_NUMBER_AT, _MACHINE_AT = 0, 4
_FARTHEST = 255
_INSTRUCTION = struct.Struct("=HBBI")

Instruction = tuple[int, int, int, int]


class FilterError(Exception):
    """What is missing, or wrong in the table, in a line."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise FilterError(
            "libseccomp is missing, which the build needs; run: apt-get install libseccomp2"
        ) from error
    library.seccomp_init.restype = ctypes.c_void_p
    return library


@dataclass(frozen=True)
class Rules:
    """The table of system calls."""

    table: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Rules:
        """Return the table in a file."""
        return cls(tomllib.loads(path.read_text(encoding="utf-8")))

    @property
    def capabilities(self) -> Sequence[str]:
        """What a profile may have; a filter's number has a bit for each, in this order."""
        names: list[str] = self.table["capabilities"]
        return names

    def allowed(self, has: frozenset[str]) -> set[str]:
        """Return the calls that need no look at their arguments."""
        calls = {call for group in self.table["allow"].values() for call in group}
        return calls.union(*(self.table[name]["allow"] for name in has))

    def rules(self, has: frozenset[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the rules that count for these capabilities."""
        for rule in self.table["rule"]:
            if rule.get("when") in {None, *has} and rule.get("unless") not in has:
                yield rule


class Filter:
    """One filter for one machine, being made."""

    def __init__(self, machine: int, otherwise: int) -> None:
        self._machine = machine
        self._context = ctypes.c_void_p(_library().seccomp_init(ctypes.c_uint32(otherwise)))
        native = _library().seccomp_arch_native()
        if native & 0xFFFFFFFF != machine:
            self._do("arch_add", ctypes.c_uint32(machine))
            self._do("arch_remove", ctypes.c_uint32(native))
        self._do("attr_set", ctypes.c_int(_OPTIMIZE), ctypes.c_uint32(_BINARY_TREE))

    def add(self, action: int, call: str, *comparisons: _Comparison) -> None:
        """Have a call end so if its arguments are such; nothing where the machine has no such call."""
        number = _library().seccomp_syscall_resolve_name(call.encode())
        if number == -1:
            return
        given = (_Comparison * max(1, len(comparisons)))(*comparisons)
        count = ctypes.c_uint(len(comparisons))
        self._do(
            "rule_add_array", ctypes.c_uint32(action), ctypes.c_int(number), count, given, missing=errno.EDOM
        )

    def program(self) -> list[Instruction]:
        """Return it as the kernel takes it, and give back what was used for making it."""
        descriptor = os.memfd_create("filter")
        try:
            self._do("export_bpf", ctypes.c_int(descriptor))
            size = os.lseek(descriptor, 0, os.SEEK_END)
            return list(_INSTRUCTION.iter_unpack(os.pread(descriptor, size, 0)))
        finally:
            os.close(descriptor)
            _library().seccomp_release(self._context)

    def _do(self, name: str, *arguments: Any, missing: int = 0) -> None:
        status = getattr(_library(), f"seccomp_{name}")(self._context, *arguments)
        if status not in {0, -missing}:
            raise FilterError(f"libseccomp: seccomp_{name}{arguments}: {os.strerror(-status)}")


def make(rules: Rules, machine: int, has: frozenset[str], *, learn: bool = False) -> list[Instruction]:
    """Return the filter of a profile with these capabilities; to learn, one that asks instead of denying.

    libseccomp compiles what looks at arguments. Before that, what needs no such look is found among ranges of
    numbers: half as long, and so twice as fast to install.
    """
    learned = set(rules.table["learn"]["calls"]) if learn else set()
    found = Filter(machine, NOTIFY if learn else ERRNO | errno.EPERM)
    for call in rules.table["absent"]:
        found.add(ERRNO | errno.ENOSYS, call)
    for rule in rules.rules(has):
        if rule["call"] not in learned:
            _add_rule(found, rule, machine)
    numbers = {number_of(call, machine) for call in rules.allowed(has) - learned}
    # What i386 has as one of several things that another call does is told by that one's arguments.
    for call in sorted(rules.allowed(has) - learned):
        if machine == MACHINES["__i386__"] and _is_multiplexed(call):
            found.add(ALLOW, call)
    return [
        *_ranges({number for number in numbers if number >= 0}, machine, rules.table["newest"]),
        *found.program(),
    ]


def number_of(call: str, machine: int) -> int:
    """Return a call's number on a machine, less than 0 where it has none of its own."""
    return int(_library().seccomp_syscall_resolve_name_arch(ctypes.c_uint32(machine), call.encode()))


def _is_multiplexed(call: str) -> bool:
    """Tell whether i386 makes a call by socketcall or ipc too."""
    return -200 < number_of(call, MACHINES["__i386__"]) < -100


def _ranges(numbers: set[int], machine: int, newest: int) -> list[Instruction]:
    """Allow calls by their numbers; those beyond the newest fail as on older kernels; go on with the rest."""
    ends = sorted(numbers ^ {number + 1 for number in numbers})
    tree = _search(ends, 0, len(ends))
    size = len(tree)
    if size + 4 > _FARTHEST:
        raise FilterError(f"{size} ends of ranges; the kernel's jumps go no farther than {_FARTHEST}")
    # Behind the tree: allow, fail, and whatever follows this.
    places = {True: size, False: size + 2}
    code = [
        (_AT_LEAST, _to(yes, place, places), _to(no, place, places), ends[number])
        for place, (number, yes, no) in enumerate(tree)
    ]
    return [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUALS, 0, size + 4, machine),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, size + 1, 0, newest + 1),
        *code,
        (_RETURN, 0, 0, ALLOW),
        (_RETURN, 0, 0, ERRNO | errno.ENOSYS),
    ]


def _search(ends: Sequence[int], low: int, high: int) -> list[tuple[int, int | bool, int | bool]]:
    """Return a binary search: which end to compare with, and where to go on in it, or the outcome.

    A number is in a range if an odd number of ends are not beyond it.
    """
    middle = (low + high) // 2
    if low == high:
        return []
    below, above = _search(ends, low, middle), _search(ends, middle + 1, high)
    return [
        (middle, 1 + len(below) if above else bool((middle + 1) % 2), 1 if below else bool(middle % 2)),
        *_moved(below, 1),
        *_moved(above, 1 + len(below)),
    ]


def _moved(
    tree: list[tuple[int, int | bool, int | bool]], by: int
) -> Iterator[tuple[int, int | bool, int | bool]]:
    def target(to: int | bool) -> int | bool:  # noqa: FBT001
        return to if isinstance(to, bool) else to + by

    return ((number, target(yes), target(no)) for number, yes, no in tree)


def _to(target: int | bool, place: int, places: Mapping[bool, int]) -> int:  # noqa: FBT001
    """Return how far it is from the instruction after a place to a target."""
    return (places[target] if isinstance(target, bool) else target) - place - 1


def _add_rule(found: Filter, rule: Mapping[str, Any], machine: int) -> None:
    if machine == MACHINES["__i386__"] and rule["call"] in {"socket", "socketpair"}:
        # There its arguments are in memory, where no filter sees them.
        if "when" in rule:
            found.add(ALLOW, rule["call"])
        return
    for value in rule["values"]:
        others = rule["and"]["values"] if "and" in rule else [None]
        for other in others:
            more = [] if other is None else [_comparison(rule["and"], other)]
            found.add(ALLOW, rule["call"], _comparison(rule, value), *more)


def _comparison(rule: Mapping[str, Any], value: int | str) -> _Comparison:
    number = SELF if value == "self" else int(value)
    if "mask" in rule:
        return _Comparison(rule["arg"], _MASKED, rule["mask"], number)
    return _Comparison(rule["arg"], _EQUAL, number, 0)


def machines(*, narrow: bool) -> list[str]:
    """Return the machines to make filters for: this one, and the one of 32 bits beside it."""
    native = _library().seccomp_arch_native() & 0xFFFFFFFF
    found = [name for name, number in MACHINES.items() if number == native]
    if not found:
        raise FilterError(f"no filters for the machine that libseccomp numbers {native:#x}")
    return [*found, "__i386__"] if narrow and "__i386__" not in found else found


def filters_h(rules: Rules, *, narrow: bool) -> str:
    """Return every filter: first those of profiles, by their capabilities, and last the one that learns."""
    names = rules.capabilities
    bits = [f"    CAN_{name.upper()} = {1 << place}," for place, name in enumerate(names)]
    counts = ["enum {", *bits, f"    FILTERS = {1 << len(names)},", "};", ""]
    body = ["#include <linux/filter.h>", "", f"#define FILTER_SELF {SELF:#x}U", *counts]
    for place, macro in enumerate(machines(narrow=narrow)):
        body += [f"#{'elif' if place else 'if'} defined({macro})", *_of_machine(rules, MACHINES[macro])]
    return header("filters.h", [*body, "#else", '#error "no filters for this machine"', "#endif"])


def _of_machine(rules: Rules, machine: int) -> Iterator[str]:
    names = rules.capabilities
    sets = [
        frozenset(itertools.compress(names, [number >> bit & 1 for bit in range(len(names))]))
        for number in range(1 << len(names))
    ]
    programs = [make(rules, machine, has) for has in sets]
    programs.append(make(rules, machine, frozenset(), learn=True))
    for number, program in enumerate(programs):
        rows = [f"{{{code:#x}, {yes}, {no}, {value:#x}U}}" for code, yes, no, value in program]
        yield from array(f"static const struct sock_filter filter_{number}[]", rows)
    rows = [f"{{{len(program)}, filter_{number}}}" for number, program in enumerate(programs)]
    yield f"enum {{ FILTER_LONGEST = {max(map(len, programs))} }};"
    kind = "struct { unsigned short len; const struct sock_filter *code; }"
    yield from array(f"static const {kind} filters[FILTERS + 1]", rows)
