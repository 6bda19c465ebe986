"""System calls, as strace saw them, thread by thread."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"(?P<at>\d+\.\d+) (?P<name>\w+)\((?P<rest>.*)")


@dataclass(frozen=True)
class SystemCall:
    """One system call: when it began, its name, and its arguments and result as strace prints them."""

    at: float
    name: str
    rest: str


def tracing(log: Path, *options: str) -> list[str]:
    """Return the command that runs the command after it and logs its system calls, a file for each thread."""
    return ["strace", "-ff", "-ttt", "-s", "256", *options, "-o", str(log)]


def traced(log: Path) -> dict[int, list[SystemCall]]:
    """Return what each thread called. Signals and ends are left out."""
    files = log.parent.glob(log.name + ".*")
    return {int(file.suffix[1:]): list(_calls(file)) for file in files}


def _calls(file: Path) -> Iterator[SystemCall]:
    for line in file.read_text(errors="replace").splitlines():
        if found := _LINE.match(line):
            yield SystemCall(float(found["at"]), found["name"], found["rest"])
