"""The command line: `p11host COMMAND`. Each command is a module beside this one, imported when it is named.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong configuration, 4 what a URI names is not there or not
one, 5 no login, 6 a signature is not valid, 130 ended by Ctrl-C; `run` gives its command's.
"""

import importlib
import os
import sys
from collections.abc import Sequence

import click

from p11host import __version__
from p11host.errors import EXIT_FAILED, EXIT_INTERRUPTED, P11HostError

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

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong configuration, 4 what a URI names is not there or not
    one, 5 no login, 6 a signature is not valid, 130 ended by Ctrl-C.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        status = cli.main(
            args=arguments, prog_name="p11host", complete_var=COMPLETE_VARIABLE, standalone_mode=False
        )
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        _end_interrupted()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except P11HostError as error:
        for line in str(error).splitlines():
            click.echo(f"p11host: {line}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read has enough. What is left in the buffer must not fail a second time at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:
        click.echo(f"p11host: {error}", err=True)
        sys.exit(EXIT_FAILED)


def _end_interrupted() -> None:
    """End at once: a call into a provider may still run in a thread; its helper ends with this process."""
    click.echo("p11host: interrupted", err=True)
    sys.stdout.flush()
    os._exit(EXIT_INTERRUPTED)
