"""`p11host trace`: every call, as the provider gets and answers it."""

import contextlib
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from p11host.cli.calls import Printer, Source
from p11host.cli.options import config_option, json_option
from p11host.errors import P11HostError
from p11host.trust import owner_name

if TYPE_CHECKING:
    from p11host.client import Channel


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Show every call that providers get.",
)
@click.option("-p", "--pid", type=int, help="Attach to this application, or to this helper.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, line by line; '-': standard output.")
@config_option
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def trace(
    pid: int | None, output: str | None, config: Path | None, command: tuple[str, ...], *, as_json: bool
) -> None:
    """Show every call that providers get, with its arguments, answer and time.

    With COMMAND, of that command, which gets a broker of its own as with `p11host run`; the exit code is its.
    Else of applications that run, and of those that start, until interrupted; with --pid of one, until it has
    ended. Of byte strings only the length is shown, but of what names an object; of PINs not even that. No
    call waits for what is shown: what could not be told is counted. On a terminal a call may take several
    lines, elsewhere each takes one.
    """
    if command and pid is not None:
        raise click.UsageError("give a command, or a process with --pid, not both")
    with _opened(output) as file:
        printer = Printer(file, as_json=as_json)
        status = _of_command(printer, command, config) if command else _of_running(printer, pid)
        printer.finish(output or "standard output")
    if status < 0:
        from p11host.cli.run import end_by_signal  # noqa: PLC0415

        end_by_signal(-status)
    raise SystemExit(status)


@contextlib.contextmanager
def _opened(output: str | None) -> Iterator[TextIO]:
    if output in (None, "-"):
        yield sys.stdout
        return
    try:
        descriptor = os.open(str(output), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise P11HostError(f"{output}: cannot be written: {error.strerror}") from error
    file = os.fdopen(descriptor, "w", encoding="utf-8")
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # why it cannot be written has been told
            file.close()


def _of_running(printer: Printer, pid: int | None) -> int:
    """Show calls until interrupted, until the process has ended, or until they can no more be shown."""
    from p11host.start import open_door  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        ended = None if pid is None else stack.enter_context(_process(pid))
        door = stack.enter_context(open_door(start=False))
        channel = stack.enter_context(door.open("p11host trace"))
        if pid is not None:
            _check_uses(channel, pid)
        watch = Watch(channel, pid, printer)
        with contextlib.suppress(KeyboardInterrupt):
            while not printer.failed and not (ended and ended()):
                watch.look()
        watch.finish()
    return 0


@contextlib.contextmanager
def _process(pid: int) -> Iterator[Callable[[], bool]]:
    """Yield what tells whether a process has ended; P11HostError if it is not there or somebody else's."""
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, OverflowError) as error:
        raise P11HostError(
            f"there is no process {pid}; see which use p11host with: p11host status"
        ) from error
    try:
        uid = Path(f"/proc/{pid}").stat().st_uid
        if os.geteuid() not in (0, uid):
            raise P11HostError(
                f"process {pid} belongs to {owner_name(uid)}; only its user and root may see its calls"
            )
        yield lambda: bool(select.select([descriptor], [], [], 0)[0])
    except FileNotFoundError:
        raise P11HostError(f"process {pid} has ended") from None
    finally:
        os.close(descriptor)


def _check_uses(channel: "Channel", pid: int) -> None:
    applications = channel.call("status", [{}])["applications"]
    helpers = [helper for application in applications for helper in application["helpers"]]
    known = {each["pid"] for each in (*applications, *helpers)}
    known |= {shared for helper in helpers for shared in helper.get("shared", [])}
    if pid not in known:
        raise P11HostError(
            f"process {pid} uses no p11host, as far as this broker knows; see who does with: p11host status"
        )


def _of_command(printer: Printer, command: tuple[str, ...], config: Path | None) -> int:
    """Run a command with a broker of its own, and return how it ended."""
    from p11host.cli.run import run_command  # noqa: PLC0415
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
    return status


class Watch:
    """Asks the broker for helpers until `stop` is set; each has a thread that hears what it tells."""

    def __init__(self, channel: "Channel", pid: int | None, printer: Printer) -> None:
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
