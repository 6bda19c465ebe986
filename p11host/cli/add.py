"""`p11host add`."""

import os
from pathlib import Path

import click

from p11host import shim_path
from p11host.errors import P11HostError
from p11host.paths import SYSTEM_CONFIG, user_config


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


@click.command()
@click.argument("provider", type=click.Path(path_type=Path))
@click.option("--name", metavar="N", help="The module's name; by default after the file.")
@click.option(
    "--env", type=Variable(), multiple=True, help="A variable of the provider's environment.  [repeatable]"
)
@click.option(
    "--system/--user", "system", default=None, help="For all users, or for yours; for root always all."
)
def add(provider: Path, name: str | None, env: tuple[tuple[str, str], ...], *, system: bool | None) -> None:
    """Add PROVIDER, a PKCS#11 library (.so), to the configuration."""
    from p11host.enroll import derive_name, enroll  # noqa: PLC0415 (pydantic, tomlkit and pyelftools)
    from p11host.provider import check  # noqa: PLC0415

    provider = provider.absolute()
    check(provider)
    file = _file(system=system)
    name = name or derive_name(provider)
    enroll(file, name, provider, dict(env))
    click.echo(f"{file}: added [module.{name}]")
    click.echo("See its tokens with:  p11host list")
    click.echo(f"Use it in a program as the PKCS#11 library:  {_shim()}")


def _file(*, system: bool | None) -> Path:
    """Return the file to write; root's modules are decided in /etc alone."""
    root = os.geteuid() == 0
    if system is False and root:
        raise P11HostError(
            "root has no configuration of its own; use --system, or run this as the user it is for"
        )
    return SYSTEM_CONFIG if system or root else user_config(os.environ)


def _shim() -> str:
    try:
        return str(shim_path())
    except P11HostError:
        return "(see: p11host path)"
