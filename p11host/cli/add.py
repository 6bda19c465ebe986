"""`p11host add`."""

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11host import shim_path
from p11host.cli.options import config_option, json_option
from p11host.cli.screen import put, screen
from p11host.config import choose
from p11host.errors import P11HostError
from p11host.paths import SYSTEM_CONFIG, user_config
from p11host.text import nearest, printable

if TYPE_CHECKING:
    from rich.console import Console

    from p11host.discover.find import Found


class Variable(click.ParamType[tuple[str, str]]):
    """An environment variable as KEY=VALUE."""

    name = "K=V"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split KEY=VALUE at the first equals sign."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return key, text


@click.command(short_help="Add a provider to the configuration.")
@config_option
@click.argument("provider", metavar="PROVIDER|NAME", type=click.Path(path_type=Path))
@click.option("--name", metavar="N", help="The module's name; by default after the file.")
@click.option(
    "--profile", metavar="P", help="What it may do: as which provider of p11host sandbox, or strict."
)
@click.option(
    "--env", type=Variable(), multiple=True, help="A variable of the provider's environment.  [repeatable]"
)
@click.option(
    "--system/--user", "system", default=None, help="For all users, or for yours; for root always all."
)
@json_option
def add(  # noqa: PLR0913 (its options)
    config: Path | None,
    provider: Path,
    name: str | None,
    profile: str | None,
    env: tuple[tuple[str, str], ...],
    *,
    system: bool | None,
    as_json: bool,
) -> None:
    """Add PROVIDER, a PKCS#11 library (.so), or what p11host discover calls NAME, to the configuration.

    What stands in the file stays as it is. A broker that runs sees the change by itself.
    """
    from p11host.enroll import Extras, derive_name, enroll  # noqa: PLC0415 (pydantic, tomlkit and pyelftools)
    from p11host.facts import facts  # noqa: PLC0415
    from p11host.provider import check  # noqa: PLC0415
    from p11host.sandbox.known import profiles  # noqa: PLC0415

    found = _discovered(provider)
    if found is not None:
        provider, name = found.path, name or found.name
    provider = provider.parent.resolve() / provider.name  # a link to the present version stays one
    check(provider)
    file = _file(config, system=system)
    name = name or derive_name(provider)
    reserved = found.given if found else None
    enroll(file, name, provider, Extras(dict(env), reserved, profile))
    if as_json:
        added = {"file": file, "module": name, "path": provider, "library": _shim()}
        click.echo(json.dumps(added, indent=2, default=str))
        return
    say = partial(_say, screen())
    say(f"{file}: added [module.{name}]")
    say(f"{provider}: {facts(provider)}")
    known = profiles().providers.get(profile) if profile else profiles().of(provider)
    who = known.title if known else "a provider that nobody knows"
    say(f"It may do what {who} may:  p11host sandbox {name}")
    if found is not None and found.hint is not None:
        say(f"Look at it once more: {found.hint}")
    say("See its tokens with:  p11host list")
    say(f"Give programs this PKCS#11 library instead of it:  {_shim()}")


def _say(console: "Console", line: str) -> None:
    from rich.text import Text  # noqa: PLC0415

    put(console, Text(printable(line)))


def _discovered(provider: Path) -> "Found | None":
    """Return the provider of this machine that is meant, if it is named and not a file."""
    if provider.name != str(provider) or ".so" in provider.name or provider.exists():
        return None
    from p11host.discover.find import find  # noqa: PLC0415
    from p11host.discover.places import places  # noqa: PLC0415

    found = {each.name: each for each in find(places())[0]}
    if provider.name in found:
        return found[provider.name]
    asked = nearest(provider.name, found) or "see which are found with: p11host discover"
    raise P11HostError(f"{printable(provider.name)}: no file and no provider of that name; {asked}")


def _file(config: Path | None, *, system: bool | None) -> Path:
    """Return the file to write: the one that is named, else the user's, for root the system's."""
    choice = choose(config)
    root = os.geteuid() == 0
    if choice.named and system is None:
        return choice.paths[0]
    if system is False and root:
        raise P11HostError("root has no file of its own; use --system, or run this as the user it is for")
    return SYSTEM_CONFIG if system or root else user_config(os.environ)


def _shim() -> str:
    try:
        return str(shim_path())
    except P11HostError:
        return "(see: p11host path)"
