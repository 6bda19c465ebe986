"""PINs that the broker holds for modules that resume (`pin-source`): where they are, and when they are given.

Knows the sources and which PINs have been refused. Must not know helpers: a PIN leaves by a pipe.
"""

import contextlib
import os
import stat
import termios
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p11host import log
from p11host.errors import P11HostError
from p11host.limits import limits

#: What may stand in a configuration, for people.
RULE = '"file:/absolute/path", "credential:NAME" of systemd, or "ask"'

Ask = Callable[[str], bytearray]
Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PinSource:
    """Where a PIN is: a file, a systemd credential, or the terminal, where it is asked for once."""

    kind: Literal["file", "credential", "ask"]
    place: str = ""


def parse(value: str) -> PinSource:
    """Return the source that `value` names; ValueError if it names none."""
    kind, _, place = value.partition(":")
    if kind == "file" and place.startswith("/") and "\0" not in place:
        return PinSource("file", place)
    if kind == "credential" and place and not set(place) & {"/", "\0"} and place not in (".", ".."):
        return PinSource("credential", place)
    if value == "ask":
        return PinSource("ask")
    raise ValueError


class Pins:
    """Gives each module's PIN to whoever may have it, for as long as no token has refused it.

    A PIN that was asked for is kept until `wipe`; others are read anew each time, and wiped.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._asked: dict[str, bytearray] = {}
        self._refused: dict[str, Stamp] = {}

    def ask(self, sources: Mapping[str, PinSource], ask: Ask) -> None:
        """Ask for each PIN of `sources`, by module, that is to be asked for; an empty answer is none."""
        for module in (module for module, source in sources.items() if source.kind == "ask"):
            try:
                pin = ask(f"PIN for module {module}, to log in again after a crash (empty for none): ")
            except OSError as error:
                log.warning(
                    "pin.absent", module=module, reason=f"there is no terminal to ask on: {error.strerror}"
                )
                continue
            self._asked[module] = pin

    def give(self, module: str, source: PinSource) -> int:
        """Return a pipe from which the PIN can be read once; P11HostError, saying what to do, if not."""
        if module in self._refused and self._refused[module] == self._stamp(source):
            raise P11HostError(
                f"the PIN of module {module} was refused or its use had no end; "
                f"put the right one in its place, then: p11host restart {module}"
            )
        self._refused.pop(module, None)
        pin = self._read(module, source)
        try:
            return _pipe_of(pin)
        finally:
            if source.kind != "ask":
                wipe(pin)

    def refuse(self, module: str, source: PinSource) -> None:
        """Note that a PIN must not be used again: a token locks after a few wrong ones."""
        self._refused[module] = self._stamp(source)
        if module in self._asked:
            wipe(self._asked.pop(module))

    def allow(self, module: str) -> None:
        """Use a PIN again: somebody has looked at it."""
        self._refused.pop(module, None)

    def wipe(self) -> None:
        """Forget every PIN."""
        for pin in self._asked.values():
            wipe(pin)
        self._asked.clear()

    def _read(self, module: str, source: PinSource) -> bytearray:
        if source.kind != "ask":
            return read_file(self._path(source))
        if not self._asked.get(module):
            raise P11HostError(
                f"nobody told the PIN of module {module}; start the broker on a terminal: p11host serve"
            )
        return self._asked[module]

    def _path(self, source: PinSource) -> Path:
        if source.kind == "file":
            return Path(source.place)
        directory = self._environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise P11HostError(
                f"systemd gave no credential {source.place}; set LoadCredential={source.place}:… in the unit"
            )
        return Path(directory) / source.place

    def _stamp(self, source: PinSource) -> Stamp:
        """Return what changes when somebody puts another PIN in the place of one that was refused."""
        if source.kind == "ask":
            return ()
        try:
            now = self._path(source).stat()
        except (OSError, P11HostError):
            return ()
        return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


def read_file(path: Path) -> bytearray:
    """Return the PIN in a file that only its owner can read; P11HostError, saying what to do, if not."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise P11HostError(
            f"{path}: cannot be read: {error.strerror}; put the PIN there, mode 0400"
        ) from error
    room = bytearray(limits().pin + 3)
    try:
        _check_owner(path, os.fstat(descriptor))
        length = os.readv(descriptor, [room])
        return _trimmed(path, room, length)
    finally:
        wipe(room)
        os.close(descriptor)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise P11HostError(f"{path}: not a regular file; put the PIN in one")
    if status.st_uid not in (0, os.geteuid()):
        raise P11HostError(f"{path}: belongs to uid {status.st_uid}; run: chown {os.geteuid()} {path}")
    if status.st_mode & 0o077:
        raise P11HostError(f"{path}: others may read or write it; run: chmod 0400 {path}")


def _trimmed(path: Path, room: bytearray, length: int) -> bytearray:
    """Return the bytes without the end of the line."""
    while length and room[length - 1] in b"\r\n":
        length -= 1
    if not 0 < length <= limits().pin:
        raise P11HostError(f"{path}: {length or 'no'} bytes; a PIN has 1 to {limits().pin}")
    return room[:length]


def _pipe_of(pin: bytearray) -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as failed:
        failed.callback(os.close, reader)
        try:
            os.write(writer, pin)
        finally:
            os.close(writer)
        failed.pop_all()
    return reader


def wipe(pin: bytearray) -> None:
    """Overwrite a PIN."""
    pin[:] = bytes(len(pin))


def ask_on_terminal(prompt: str) -> bytearray:
    """Return what is typed on this process's terminal, unseen. OSError if it has none.

    P11HostError if it is too long for a PIN: a part of it would cost a try.
    """
    terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        with _unseen(terminal):
            os.write(terminal, prompt.encode())
            return _line(terminal)
    finally:
        os.close(terminal)


@contextlib.contextmanager
def _unseen(terminal: int) -> Iterator[None]:
    """Show nothing of what is typed."""
    before = termios.tcgetattr(terminal)
    hidden = [*before]
    hidden[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSAFLUSH, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        os.write(terminal, b"\n")


def _line(terminal: int) -> bytearray:
    room = bytearray(limits().pin + 3)
    try:
        length = os.readv(terminal, [room])
        while length and room[length - 1] in b"\r\n":
            length -= 1
        if length > limits().pin:
            raise P11HostError(f"what was typed is too long; a PIN has 1 to {limits().pin} bytes")
        return room[:length]
    finally:
        wipe(room)


def sources(modules: Iterable[tuple[str, PinSource | None]]) -> dict[str, PinSource]:
    """Return the sources of those modules that have one."""
    return {name: source for name, source in modules if source is not None}
