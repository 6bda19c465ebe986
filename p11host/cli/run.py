"""`p11host run`: a command with a broker of its own."""

import os
import resource
import signal
import subprocess
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from p11host.cli.options import config_option
from p11host.start import private_broker

NOT_EXECUTABLE, NOT_FOUND = 126, 127
#: Signals to `run` that are meant for the command. Those of the terminal reach it by themselves.
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@config_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(config: Path | None, command: tuple[str, ...]) -> None:
    """Run COMMAND with a broker and a configuration of its own.

    In COMMAND's environment the library (see `p11host path`) finds that broker. The exit code is COMMAND's;
    126 and 127 as in a shell if it cannot be run or found.
    """
    with private_broker(config) as broker:
        status = run_command(command, os.environ | dict(broker.env) | _named(config))
    if status < 0:
        end_by_signal(-status)
    raise SystemExit(status)


def _named(config: Path | None) -> dict[str, str]:
    return {} if config is None else {"P11HOST_CONFIG": str(config.absolute())}


def run_command(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command in the foreground and return its exit code, or minus the signal that ended it."""
    try:
        with forwarding() as begin, subprocess.Popen(command, env=environ) as process:
            begin(process)
            return process.wait()
    except FileNotFoundError:
        click.echo(f"p11host: {command[0]}: no such command", err=True)
        return NOT_FOUND
    except OSError as error:
        click.echo(f"p11host: {command[0]}: {error.strerror}", err=True)
        return NOT_EXECUTABLE


@contextmanager
def forwarding() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Signals that come meanwhile are the command's to answer. Those before it begins it gets then.

    What is ignored stays so: a command inherits that, and no handler.
    """
    commands: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: types.FrameType | None) -> None:
        for command in commands:
            command.send_signal(number)
        if not commands:
            early.append(number)

    def begin(command: subprocess.Popen[bytes]) -> None:
        commands.append(command)
        for number in early:
            command.send_signal(number)

    handlers = dict.fromkeys(_FORWARDED, forward) | dict.fromkeys(_FROM_TERMINAL, _leave_alone)
    before = {number: signal.getsignal(number) for number in handlers}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handlers[number])
    try:
        yield begin
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_alone(_: int, __: types.FrameType | None) -> None:
    pass


def end_by_signal(number: int) -> None:
    """End this process as the command ended, for a shell to see the same; a core is the command's to dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
