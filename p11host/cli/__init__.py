"""The command line: `p11host COMMAND`. Each command is a module beside this one, imported when it is named.

What goes wrong is told in one line on standard error; the exit codes are those of p11host.errors, but `run`
and `trace` of a command give that command's.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from p11host import __version__
from p11host.errors import EXIT_CODES, EXIT_FAILED, EXIT_INTERRUPTED, P11HostError
from p11host.text import nearest, printable

#: By this variable a shell asks for completions.
COMPLETE_VARIABLE = "_P11HOST_COMPLETE"
#: Where the click command of each name is.
COMMANDS = {
    "add": "p11host.cli.add:add",
    "bench": "p11host.bench:bench",
    "completion": "p11host.cli.completion:completion",
    "config": "p11host.cli.config:config",
    "delete": "p11host.cli.delete:delete",
    "discover": "p11host.cli.discover:discover",
    "doctor": "p11host.cli.doctor:doctor",
    "events": "p11host.cli.events:events",
    "explain": "p11host.cli.explain:explain",
    "export": "p11host.cli.transfer:export",
    "import": "p11host.cli.transfer:import_",
    "init-token": "p11host.cli.token_pins:init_token",
    "keygen": "p11host.cli.keygen:keygen",
    "list": "p11host.cli.list:list_",
    "metrics": "p11host.cli.metrics:metrics",
    "path": "p11host.cli.path:path",
    "random": "p11host.cli.random:random",
    "readers": "p11host.cli.readers:readers",
    "reload": "p11host.cli.reload:reload",
    "restart": "p11host.cli.restart:restart",
    "run": "p11host.cli.run:run",
    "sandbox": "p11host.cli.sandbox:sandbox",
    "serve": "p11host.cli.serve:serve",
    "set-pin": "p11host.cli.token_pins:set_pin",
    "show": "p11host.cli.show:show",
    "sign": "p11host.cli.sign:sign",
    "status": "p11host.cli.status:status",
    "top": "p11host.cli.top:top",
    "trace": "p11host.cli.trace:trace",
    "verify": "p11host.cli.sign:verify",
}


EXITS = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names in the order of the help."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, None if there is none."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant; an unknown one is told with the nearest that there is."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            asked = nearest(args[0], COMMANDS)
            ctx.fail(f"no command is called '{printable(args[0])}'" + (f"; {asked}" if asked else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. Ctrl-C ends it as it ends a question that click asks."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise click.exceptions.Abort from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run PKCS#11 providers in processes of their own, behind one library.\n\n"
    f"Exit codes: {EXITS}; of `run`, and of `trace` with a command, those of that command.",
)
@click.version_option(__version__, "-V", "--version", prog_name="p11host", message="%(prog)s %(version)s")
def cli() -> None:
    """Have the commands below it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        end_interrupted()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = error.exit_code
    except click.ClickException as error:
        _say(_usage(error))
        status = error.exit_code
    except P11HostError as error:
        for line in str(error).splitlines():
            _say(line)
        status = error.exit_code
    except BrokenPipeError:
        status = EXIT_FAILED  # whoever read has enough
    except OSError as error:
        _say(str(error) if error.filename else f"cannot write: {error.strerror or error}")
        status = EXIT_FAILED
    _flush()
    sys.exit(status)


def _run(arguments: Sequence[str] | None) -> int:
    """Run the command and return its exit code."""
    # https://no-color.org; rich knows it by itself.
    color = False if os.environ.get("NO_COLOR") else None
    try:
        status = cli.main(
            args=arguments,
            prog_name="p11host",
            complete_var=COMPLETE_VARIABLE,
            standalone_mode=False,
            color=color,
        )
    except SystemExit as end:
        status = end.code
    return status if isinstance(status, int) else 0


def _say(line: str) -> None:
    with suppress(OSError):
        click.echo(f"p11host: {line}", err=True)


def _usage(error: click.ClickException) -> str:
    """Return what was wrong with the command line in one line, and where to read how it is right."""
    said = " ".join(error.format_message().split()).removesuffix(".")
    context = getattr(error, "ctx", None)
    return f"{said}; see: {context.command_path} --help" if context else said


def _flush() -> None:
    """Write what is left, if it can be written; it must not fail once more when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_interrupted() -> NoReturn:
    """End at once: a call into a provider may still run in a thread; its helper ends with this process."""
    with suppress(OSError):
        click.echo("\n" if sys.stderr.isatty() else "", err=True, nl=False)  # behind the ^C of the terminal
    _say("interrupted")
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(EXIT_INTERRUPTED)
