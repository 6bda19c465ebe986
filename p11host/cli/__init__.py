"""The command line: `p11host COMMAND`. Each command is a module beside this one, imported when it is named.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong configuration; `run` gives its command's.
"""

import importlib
import sys
from collections.abc import Sequence

import click

from p11host import __version__
from p11host.errors import EXIT_FAILED, P11HostError

#: Where the click command of each name is.
COMMANDS = {
    "add": "p11host.cli.add:add",
    "bench": "p11host.bench:bench",
    "discover": "p11host.cli.discover:discover",
    "doctor": "p11host.cli.doctor:doctor",
    "explain": "p11host.cli.explain:explain",
    "list": "p11host.cli.list:list_",
    "metrics": "p11host.cli.metrics:metrics",
    "path": "p11host.cli.path:path",
    "restart": "p11host.cli.restart:restart",
    "run": "p11host.cli.run:run",
    "sandbox": "p11host.cli.sandbox:sandbox",
    "serve": "p11host.cli.serve:serve",
    "status": "p11host.cli.status:status",
    "top": "p11host.cli.top:top",
}


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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="p11host", message="%(prog)s %(version)s")
def cli() -> None:
    """Run PKCS#11 providers in processes of their own, behind one library.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong configuration.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        cli.main(args=arguments, prog_name="p11host")
    except P11HostError as error:
        for line in str(error).splitlines():
            click.echo(f"p11host: {line}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"p11host: {error}", err=True)
        sys.exit(EXIT_FAILED)
