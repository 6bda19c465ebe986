"""`p11host config`: what the configuration is, where it comes from, and whether it is right."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11host.cli.options import config_option, json_option
from p11host.config import Config, choose, load
from p11host.errors import ConfigError
from p11host.text import printable

if TYPE_CHECKING:
    from p11host.config_told import Told


@click.group("config")
def config() -> None:
    """Show the configuration, or check it.

    It is made of ~/.config/p11host/p11host.toml, /etc/p11host/p11host.toml, the *.toml in the directory
    p11host.d beside each, and of p11-kit's own configuration.
    """


@config.command()
@config_option
@json_option
@click.option("--all", "every", is_flag=True, help="Show the keys too that have their default.")
@click.option("--secrets", is_flag=True, help="Show what may be secret: values of env, and reserved.")
@click.argument("names", nargs=-1, metavar="[NAME]…")
def show(config: Path | None, names: Sequence[str], *, as_json: bool, every: bool, secrets: bool) -> None:
    """Show what all files say together, and where each value comes from; of modules NAME alone, or of all."""
    from p11host.config_told import BY_DEFAULT, remarks, told, told_broker  # noqa: PLC0415

    found = load(choose(config))
    known = [module.name for module in found.modules]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError([f"no module {name}; known are {', '.join(known)}" for name in unknown])
    chosen = [module for module in found.modules if not names or module.name in names]
    tables = [(f"module.{module.name}", told(module, secrets=secrets)) for module in chosen]
    tables += [] if names else [("broker", told_broker(found))]
    if as_json:
        said = {name: {each.key: asdict(each) for each in keys} for name, keys in tables}
        click.echo(json.dumps({"tables": said, "remarks": list(remarks(found))}, indent=2))
        return
    for name, keys in tables:
        _table(name, [each for each in keys if every or each.origin != BY_DEFAULT])
    _remark(found, err=False)


@config.command()
@config_option
@json_option
def check(config: Path | None, *, as_json: bool) -> None:
    """Say everything that is wrong with the configuration, or that it is right.

    Each fault is a line with file, line, key and what was expected. What p11-kit's files have that is not
    taken over is told, and is no fault. Exit codes: 0 right, 3 wrong.
    """
    try:
        found = load(choose(config))
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"right": False, "problems": error.problems}, indent=2))
        raise SystemExit(error.exit_code) from error
    if as_json:
        names = [module.name for module in found.enabled]
        remarks = list(map(str, found.remarks))
        said = {"right": True, "modules": names, "files": list(map(str, found.files)), "remarks": remarks}
        click.echo(json.dumps(said, indent=2))
        return
    _remark(found, err=True)
    files, modules = len(found.files), len(found.enabled)
    click.echo(f"right: {modules} module{'s' * (modules != 1)} in {files} file{'s' * (files != 1)}")


def _table(name: str, keys: Sequence["Told"]) -> None:
    """Print a table in the form of the file, each key below the place it comes from."""
    click.echo(f"[{name}]")
    for each in keys:
        click.echo(f"# {printable(each.origin)}\n{each.key} = {printable(_toml(each.value))}")
    click.echo()


def _toml(value: object) -> str:
    """Return a value as a file would have it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)


def _remark(config: Config, *, err: bool) -> None:
    for remark in config.remarks:
        click.echo(f"{'not taken over' if remark.refused else 'note'}: {printable(str(remark))}", err=err)
