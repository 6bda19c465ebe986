"""`p11host trace`: every call, as the provider gets and answers it."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from p11host.cli.options import config_option, json_option
from p11host.text import printable

if TYPE_CHECKING:
    from p11host.client import Channel
    from p11host.trace import Call


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-p", "--pid", type=int, help="Attach to this application, or to this helper.")
@click.option("-o", "--output", type=click.File("w"), default="-", help="Write to a file of that name.")
@config_option
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def trace(
    pid: int | None, output: TextIO, config: Path | None, command: tuple[str, ...], *, as_json: bool
) -> None:
    """Show every call that providers get, with its arguments, answer and time.

    With COMMAND, of that command, which gets a broker of its own as with `p11host run`; the exit code is its.
    Else of applications that run, and of those that start, until interrupted. Of byte strings only the length
    is shown, of PINs not even that. No call waits for what is shown: what could not be told is counted.
    """
    printer = Printer(output, as_json=as_json)
    if command and pid is not None:
        raise click.UsageError("give a command, or a process with --pid, not both")
    if command:
        raise SystemExit(_of_command(printer, command, config))
    from p11host.start import open_door  # noqa: PLC0415

    with open_door(start=False) as door, door.open("p11host trace") as channel:
        watch = Watch(channel, pid, printer)
        with contextlib.suppress(KeyboardInterrupt):
            watch.run()
        watch.finish()


def _of_command(printer: "Printer", command: tuple[str, ...], config: Path | None) -> int:
    from p11host.cli.run import end_by_signal, run_command  # noqa: PLC0415
    from p11host.client import Door  # noqa: PLC0415
    from p11host.start import private_broker  # noqa: PLC0415

    with private_broker(config) as broker, Door.of_broker(broker.socket) as door, door.open() as channel:
        watch = Watch(channel, None, printer)
        watch.look()  # from now on nothing is missed
        thread = threading.Thread(target=watch.run)
        thread.start()
        named = {} if config is None else {"P11HOST_CONFIG": str(config.absolute())}
        status = run_command(command, os.environ | dict(broker.env) | named)
        watch.stop.set()
        thread.join()
        watch.finish()
    if status < 0:
        end_by_signal(-status)
    return status


@dataclass(frozen=True, slots=True)
class Source:
    """A helper that tells its calls, and whose it is."""

    module: str
    application: int
    program: str


class Watch:
    """Asks the broker for helpers until `stop` is set; each has a thread that hears what it tells."""

    def __init__(self, channel: "Channel", pid: int | None, printer: "Printer") -> None:
        self._channel = channel
        self._params = [{} if pid is None else {"pid": pid}]
        self._printer = printer
        self._hearing: list[tuple[threading.Thread, socket.socket]] = []
        self.stop = threading.Event()

    def run(self) -> None:
        """Look for helpers again and again."""
        while not self.stop.is_set():
            self.look()

    def look(self) -> None:
        """Ask once, and hear those that are new. The broker waits a moment if there are none."""
        self._forget_ended()
        answer, descriptors = self._channel.call_with_descriptors("trace", self._params)
        for said, descriptor in zip(answer["helpers"], descriptors, strict=True):
            source = Source(str(said["module"]), int(said["application"]), str(said["program"]))
            ours = socket.socket(fileno=descriptor)
            thread = threading.Thread(target=self._hear, args=(ours, source), daemon=True)
            self._hearing.append((thread, ours))
            thread.start()

    def _forget_ended(self) -> None:
        for thread, ours in [each for each in self._hearing if not each[0].is_alive()]:
            self._hearing.remove((thread, ours))
            ours.close()

    def finish(self) -> None:
        """Hear what has been told already, and no more."""
        for thread, ours in self._hearing:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            thread.join()
            ours.close()

    def _hear(self, ours: socket.socket, source: Source) -> None:
        from p11host.limits import limits  # noqa: PLC0415
        from p11host.trace import Calls, read  # noqa: PLC0415

        calls = Calls()
        with contextlib.suppress(ConnectionResetError):
            while data := ours.recv(limits().told):
                told = read(data)
                if told is None:
                    continue
                if told.lost:
                    self._printer.lost(source, told.lost)
                if call := calls.hear(told):
                    self._printer.show(source, call)
        for call in calls.unfinished():
            self._printer.show(source, call)


class Printer:
    """Prints calls, one at a time, as text or as JSON lines."""

    def __init__(self, output: TextIO, *, as_json: bool) -> None:
        self._output = output
        self._as_json = as_json
        self._lock = threading.Lock()
        self._offset = time.time() - time.monotonic()

    def show(self, source: Source, call: "Call") -> None:
        """Print a call."""
        if self._as_json:
            self._print(json.dumps(self._described(source, call), default=_plain))
        else:
            self._print(self._line(source, call))

    def lost(self, source: Source, count: int) -> None:
        """Print that something could not be told in time."""
        said = {"application": source.application, "module": source.module, "lost": count}
        self._print(json.dumps(said) if self._as_json else f"({count} messages of {source.module} were lost)")

    def _print(self, line: str) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            click.echo(line, file=self._output)
            self._output.flush()

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


def _pairs(values: Mapping[str, Any]) -> Iterator[str]:
    from p11host.trace import text  # noqa: PLC0415

    for name, value in values.items():
        yield f"{name}={text(value)}"


def _plain(value: Any) -> str:
    return value.decode(errors="replace").rstrip(" \0") if isinstance(value, bytes) else str(value)
