"""`p11host discover`: the providers of this machine, for people and as JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.progress import progress
from p11host.cli.screen import screen
from p11host.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.text import Text

    from p11host.discover.find import Found, Passed
    from p11host.probe import Probe


@click.command(short_help="Find the PKCS#11 providers that are installed here.")
@config_option
@json_option
@click.option("--no-ask", is_flag=True, help="Load none of them, not even in a helper, to ask who made it.")
@click.argument("directories", metavar="[DIRECTORY]...", nargs=-1, type=click.Path(path_type=Path))
def discover(config: Path | None, directories: tuple[Path, ...], *, as_json: bool, no_ask: bool) -> None:
    """Find the PKCS#11 providers that are installed here, or in each DIRECTORY.

    They are looked for where p11-kit's files say, and where known providers are usually put. Each is then
    asked who made it, in a helper under the profile it would run under. Any of them becomes a module by its
    name: p11host add NAME
    """
    from p11host.discover.ask import ask  # noqa: PLC0415 (asking imports the configuration)
    from p11host.discover.find import find  # noqa: PLC0415
    from p11host.discover.places import places  # noqa: PLC0415

    found, passed = find(places(), _directories(directories))
    good = [] if no_ask else [each for each in found if each.error is None]
    with progress(f"asking {len(good)} providers", len(good)) as advance:
        probes = {}
        for name, probe in ask(good):
            probes[name] = probe
            advance(name)
    rows = [_row(each, probes.get(each.name), _configured(config)) for each in found]
    if as_json:
        click.echo(json.dumps({"providers": rows, "passed": _passed(passed)}, indent=2))
    else:
        _show(rows)


def _directories(directories: "Sequence[Path]") -> "Sequence[Path]":
    for directory in directories:
        if not directory.is_dir():
            raise click.BadParameter(f"{directory}: no such directory", param_hint="DIRECTORY")
    return directories


def _configured(config: Path | None) -> "Mapping[Path, str]":
    """Return the names of the modules that there are, by their files; none if the configuration is wrong."""
    from p11host.config import choose, load  # noqa: PLC0415
    from p11host.errors import ConfigError  # noqa: PLC0415

    try:
        return {module.path.resolve(): module.name for module in load(choose(config)).modules}
    except ConfigError:
        return {}


def _row(found: "Found", probe: "Probe | None", configured: "Mapping[Path, str]") -> "dict[str, Any]":
    library = probe.library if probe else None
    return {
        "name": found.name,
        "path": str(found.path),
        "title": found.title,
        "profile": found.profile,
        "source": found.source,
        "library": asdict(library) if library else None,
        "error": found.error or (probe and probe.error and probe.error.removeprefix(f"{found.path}: ")),
        "hint": found.hint,
        "module": configured.get(found.path.resolve()),
    }


def _passed(passed: "Sequence[Passed]") -> "list[dict[str, str]]":
    return [{"path": str(each.path), "reason": each.reason} for each in passed]


def _show(rows: "Sequence[dict[str, Any]]") -> None:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not rows:
        click.echo("No provider was found. Name the directory that has one:  p11host discover DIRECTORY")
        return
    console = screen()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("name", "provider", "profile"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(Text(row["name"], style="bold"), _described(row), row["profile"])
    console.print(table)
    new = [row["name"] for row in rows if row["module"] is None and row["error"] is None]
    if new:
        click.echo(f"Make one a module with its name, for example:  p11host add {new[0]}")


def _described(row: "dict[str, Any]") -> "Text":
    from rich.text import Text  # noqa: PLC0415

    lines = Text(printable(_maker(row))).append("\n" + printable(row["path"]), style="dim")
    if row["module"] is not None:
        lines.append(f"\nconfigured as [module.{row['module']}]", style="green")
    if row["error"]:
        lines.append("\n" + printable(row["error"]), style="red")
    return lines


def _maker(row: "dict[str, Any]") -> str:
    """Return in words who made a provider: what it says, else what its name says."""
    library = row["library"]
    if library is None:
        return row["title"] or "unknown"
    maker = f" by {library['manufacturer']}" if library["manufacturer"] else ""
    return f"{library['description'] or row['title'] or 'nameless'} {library['version']}{maker}"
