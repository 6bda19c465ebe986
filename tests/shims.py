"""Shims of the tests' own: with points at which a thread can be stopped, and with the thread sanitizer.

Both are made of the same objects, into which the compiler puts a call before every access to memory.
Knows what the shim is made of, by its meson.build. Must not know what is done with it.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from life import STRICT, TESTS, Workshop

from p11host import shim_path

SHIM = TESTS.parent / "shim"
PATIENCE = 300
LOCKS = ("pthread_mutex_lock", "pthread_mutex_trylock", "pthread_mutex_unlock")
_SOURCES = re.compile(r"^(?:common_sources|shim_sources) = files\((.*?)^\)", re.MULTILINE | re.DOTALL)
_FUNCTION = re.compile(r"^[0-9a-f]+ <(\w+)[.\w]*>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(.*)$")
_STOP = re.compile(r"call\s.*<(?:__wrap_pthread_mutex_\w+|__tsan_atomic\d+_(?:exchange|fetch|compare)\w*)")


@dataclass(frozen=True)
class Shims:
    """Makes them, each once."""

    workshop: Workshop

    def with_points(self) -> Path:
        """Return a shim with points (tests/programs/points.h); what starts a broker lies beside it."""
        target = self._directory() / "points.so"
        if not target.exists():
            wrapped = [f"-Wl,--wrap={name}" for name in LOCKS]
            points = TESTS / "programs" / "points.c"
            self._compile(*STRICT, "-shared", "-fPIC", "-o", target, points, *self._objects(), *wrapped)
            starter = shim_path().with_name("p11host-start")
            (target.parent / starter.name).symlink_to(starter)
        return target

    def with_sanitizer(self) -> Path:
        """Return a shim with the thread sanitizer, for programs that have it too."""
        target = self._directory() / "sanitized.so"
        if not target.exists():
            self._compile("-shared", "-fsanitize=thread", "-o", target, *self._objects())
        return target

    def _directory(self) -> Path:
        directory = self.workshop.directory / "shims"
        directory.mkdir(exist_ok=True)
        return directory

    def _objects(self) -> list[Path]:
        directory = self._directory()
        if not list(directory.glob("*.o")):
            includes = self.workshop.includes
            sources = [*sources_of_the_shim(), includes / "tables.c", includes / "entries.c"]
            version = ["-DP11HOST_MAJOR=0", "-DP11HOST_MINOR=0"]
            options = ["-g", "-fPIC", "-fsanitize=thread", f"-I{SHIM}", *version]
            self._compile(*STRICT, *options, "-c", *sources)
        return sorted(directory.glob("*.o"))

    def _compile(self, *words: str | Path) -> None:
        command = ["cc", f"-I{self.workshop.includes}", *map(str, words), "-pthread", "-ldl"]
        done = subprocess.run(
            command, cwd=self._directory(), check=False, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr


def sources_of_the_shim() -> list[Path]:
    """Return the files in C of which the shim is made, but for those that are generated."""
    lists = _SOURCES.findall((SHIM / "meson.build").read_text())
    assert len(lists) == 2, "shim/meson.build says otherwise what the shim is made of"
    return [SHIM / name for each in lists for name in re.findall(r"'(\w+\.c)'", each)]


def functions_of(shim: Path) -> dict[int, str]:
    """Return the function of each address of an instruction."""
    found, function = {}, ""
    for line in _disassembled(shim):
        head, instruction = _FUNCTION.match(line), _INSTRUCTION.match(line)
        function = head[1] if head else function
        if instruction:
            found[int(instruction[1], 16)] = function
    return found


def stops_of(shim: Path) -> dict[int, str]:
    """Return the function of each lock, unlock and atomic change, by the address behind the call."""
    found, function, pending = {}, "", False
    for line in _disassembled(shim):
        head, instruction = _FUNCTION.match(line), _INSTRUCTION.match(line)
        function = head[1] if head else function
        if instruction:
            if pending:
                found[int(instruction[1], 16)] = function
            pending = bool(_STOP.search(instruction[2]))
    return found


def imports_of(shim: Path) -> set[str]:
    """Return the names of what a library needs of others."""
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", "--format=posix", str(shim)],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return {line.split()[0].partition("@")[0] for line in done.stdout.splitlines()}


def _disassembled(shim: Path) -> Sequence[str]:
    done = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(shim)],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"LC_ALL": "C"},
    )
    return done.stdout.splitlines()
