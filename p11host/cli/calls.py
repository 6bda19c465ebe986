"""Calls as `p11host trace` prints them: a line each, as JSON, or as wide as a terminal.

Knows whose a call is and how its values are written. Must not know where it comes from.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from p11host.cli.screen import put, screen
from p11host.errors import P11HostError
from p11host.text import printable

if TYPE_CHECKING:
    from p11host.trace import Call


@dataclass(frozen=True, slots=True)
class Source:
    """A helper that tells its calls, and whose it is."""

    module: str
    application: int
    program: str


class Printer:
    """Prints calls, one at a time: as a line each, as JSON, or on a terminal as wide as that is.

    When they cannot be printed any more, `failed` says why; who is traced does not notice.
    """

    def __init__(self, output: TextIO, *, as_json: bool) -> None:
        self._output = output
        self._as_json = as_json
        self._lock = threading.Lock()
        self._offset = time.time() - time.monotonic()
        self._terminal = Terminal() if output is sys.stdout and output.isatty() and not as_json else None
        self.failed: OSError | None = None

    def show(self, source: Source, call: "Call") -> None:
        """Print a call."""
        if self._terminal is not None:
            self._print(partial(self._terminal.show, source, call, self._clock(call)))
        elif self._as_json:
            self._print(json.dumps(self._described(source, call), default=_plain))
        else:
            self._print(self._line(source, call))

    def lost(self, source: Source, count: int) -> None:
        """Print that something could not be told in time."""
        said = {"application": source.application, "module": source.module, "lost": count}
        self._print(json.dumps(said) if self._as_json else f"({count} messages of {source.module} were lost)")

    def finish(self, name: str) -> None:
        """Raise what kept calls from being printed: BrokenPipeError, or P11HostError in words."""
        if isinstance(self.failed, BrokenPipeError):
            raise self.failed
        if self.failed is not None:
            raise P11HostError(f"{name}: cannot be written: {self.failed.strerror}") from self.failed

    def _print(self, line: str | Callable[[], None]) -> None:
        with self._lock:
            if self.failed is not None:
                return
            try:
                if isinstance(line, str):
                    self._output.write(line + "\n")
                else:
                    line()
                self._output.flush()
            except OSError as error:
                self.failed = error

    def _described(self, source: Source, call: "Call") -> dict[str, Any]:
        return {
            "time": None if call.began is None else round(call.began + self._offset, 6),
            "application": source.application,
            "program": source.program,
            "module": source.module,
            "thread": call.place,
            "function": call.function,
            "arguments": call.arguments,
            "rv": call.rv,
            "outputs": call.outputs,
            "seconds": call.seconds,
        }

    def _line(self, source: Source, call: "Call") -> str:
        words = f"{self._clock(call)} {source.program}[{source.application}] {source.module}/{call.place}"
        words += f" {call.function}({', '.join(_pairs(call.arguments))})"
        words += f" = {call.rv}" if call.rv else " unfinished"
        if call.outputs:
            words += f" {', '.join(_pairs(call.outputs))}"
        if call.seconds is not None:
            words += f" <{call.seconds * 1e6:.0f} µs>"
        return printable(words)

    def _clock(self, call: "Call") -> str:
        if call.began is None:
            return "-" * len("00:00:00.000000")
        return f"{datetime.fromtimestamp(call.began + self._offset, UTC).astimezone():%H:%M:%S.%f}"


class Terminal:
    """Calls on a terminal: whose they are only where that changes, long ones in several lines."""

    def __init__(self) -> None:
        self._console = screen()
        self._last: tuple[Source, int] | None = None

    def show(self, source: Source, call: "Call", clock: str) -> None:
        """Print a call."""
        from rich.text import Text  # noqa: PLC0415

        if self._last != (source, call.place):
            self._last = source, call.place
            who = f"{source.program}[{source.application}] {source.module}/{call.place}"
            self._console.print(Text(printable(who), style="bold"))
        line = Text().append(clock, style="dim").append(f" {printable(call.function)}", style="cyan")
        line.append(printable(f"({', '.join(_pairs(call.arguments))})"))
        line.append(" unfinished" if call.rv is None else f" = {printable(call.rv)}", style=_style(call.rv))
        line.append(printable("".join(f" {each}" for each in _pairs(call.outputs))))
        if call.seconds is not None:
            line.append(f" <{call.seconds * 1e6:.0f}µs>", style="dim")
        put(self._console, line, hanging=4)


def _style(rv: str | None) -> str:
    return "" if rv == "CKR_OK" else "red"


def _pairs(values: Mapping[str, Any]) -> Iterator[str]:
    from p11host.trace import text  # noqa: PLC0415

    for name, value in values.items():
        yield f"{name}={text(value)}"


def _plain(value: Any) -> str:
    return value.decode(errors="replace").rstrip(" \0") if isinstance(value, bytes) else str(value)
