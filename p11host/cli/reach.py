"""What the commands on tokens share: a broker, the shim's slots, the URI that is named, and what is printed.

Knows click, and how a shim finds a broker. Imports nothing heavy until it is used.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p11host.cli.hush import hush
from p11host.cli.interrupt import ending_soon
from p11host.errors import EXIT_USAGE, P11HostError
from p11host.uri import Uri, parse

if TYPE_CHECKING:
    from p11host.cards.codes import CardError
    from p11host.tokens.find import Shim


class UriType(click.ParamType[Uri]):
    """A PKCS#11 URI."""

    name = "URI"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Uri:
        """Parse it; what is wrong with it is told in the words of uri.py."""
        del param, ctx
        return value if isinstance(value, Uri) else parse(str(value))


uri_argument = click.argument("uri", type=UriType())
login_option = click.option("--login", is_flag=True, help="Log in, for private objects too.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
_output = click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Write to FILE, whole or not at all; '-': standard output, the default.",
)
_force = click.option("--force", is_flag=True, help="Replace FILE if it is there.")


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where what comes is written."""
    return _output(_force(command))


class UsageError(P11HostError):
    """What was asked for cannot be meant."""

    exit_code = EXIT_USAGE


@contextlib.contextmanager
def broker_for(config: Path | None) -> Iterator[None]:
    """Have the shim in this process find a broker: a private one for `config`, else the user's."""
    from p11host.start import private_broker  # noqa: PLC0415

    if config is None:
        yield
        return
    with private_broker(config, "off") as broker:
        os.environ.update(broker.env)
        yield


@contextlib.contextmanager
def reaching(config: Path | None, uri: Uri) -> Iterator["Shim"]:
    """Yield the slots of all modules; what modules refuse meanwhile becomes an error in a line."""
    from p11host import lib  # noqa: PLC0415
    from p11host.probe import probe  # noqa: PLC0415
    from p11host.start import open_door  # noqa: PLC0415
    from p11host.tokens.failure import telling  # noqa: PLC0415 (python-pkcs11: 80 ms)
    from p11host.tokens.find import Shim, asks_of_modules, refuse_path  # noqa: PLC0415

    refuse_path(uri)
    hush()
    with ending_soon(), broker_for(config), telling():
        # Within the door, so that an impatient broker does not end before the shim has one of its own.
        with open_door(start=True) as door, door.open("p11host") as channel:
            probes = [probe(each) for each in channel.attach()] if asks_of_modules(uri) else []
            shim = Shim(lib().get_slots(), probes, _reader_errors)
        yield shim


def _reader_errors() -> "Sequence[CardError]":
    """Return what PC/SC says is wrong with readers, none where nobody can say that."""
    from p11host import card_errors  # noqa: PLC0415

    try:
        return [error for error in card_errors() if error.where]
    except (P11HostError, OSError):
        return []


def tell(facts: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print what was done: `facts` as JSON, or `text` for people."""
    click.echo(json.dumps(facts, indent=2, default=str) if as_json else text)


def confirm(question: str, *, yes: bool) -> None:
    """Have a person agree on a terminal; without one only `yes` will do."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to ask on: add --yes")
    if not click.confirm(question, err=True):
        raise P11HostError("nothing was changed")


def give(data: bytes, output: str | None, *, force: bool, mode: int, binary: bool) -> None:
    """Write bytes to a file or to standard output; such as a terminal cannot show never to a terminal."""
    from p11host.tokens.files import write_whole  # noqa: PLC0415

    if output not in (None, "-"):
        write_whole(Path(str(output)), data, mode, force=force)
        return
    if binary and sys.stdout.isatty():
        raise UsageError("what comes is bytes, and this is a terminal; name a file with -o, or add --json")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
