"""`p11host sandbox`: what a module may do, in words; and learning what it needs."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11host.cli.options import complete_module, config_option, json_option
from p11host.cli.screen import screen
from p11host.config import Module, choose, load
from p11host.errors import P11HostError
from p11host.sandbox.settings import EVERY
from p11host.text import nearest, printable

if TYPE_CHECKING:
    from p11host.sandbox.explain import Statement
    from p11host.sandbox.resolve import Profile

_PIPE_WIDTH = 120


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True},
    short_help="Tell in words what a module may do, and who allows it.",
)
@config_option
@json_option
@click.option("--learn", is_flag=True, help="Run COMMAND, deny the module nothing, and print what it needs.")
@click.argument("name", metavar="NAME", shell_complete=complete_module)
@click.argument("command", nargs=-1, metavar="[-- COMMAND]", type=click.UNPROCESSED)
def sandbox(name: str, command: tuple[str, ...], config: Path | None, *, as_json: bool, learn: bool) -> None:
    """Tell in words what the module NAME may do, and who allows it.

    With --learn the module runs for once without being denied anything, with a broker of its own, and what it
    needs beyond its profile is printed as lines for the configuration. COMMAND uses the module as your
    programs do; without one its tokens are listed.
    """
    module = _find(config, name)
    if command and not learn:
        raise click.UsageError("a COMMAND is for --learn")
    if learn:
        _learn(module, config, command, as_json=as_json)
    else:
        _explain(module, as_json=as_json)


def _find(config: Path | None, name: str) -> Module:
    modules = {module.name: module for module in load(choose(config)).modules}
    if name not in modules:
        asked = nearest(name, modules) or f"known are {', '.join(modules)}"
        raise P11HostError(f"no [module.{printable(name)}] in the configuration; {asked}")
    return modules[name]


def _profile(module: Module) -> "Profile":
    from p11host.paths import provider_environment  # noqa: PLC0415
    from p11host.sandbox.resolve import resolve  # noqa: PLC0415

    return resolve(module, provider_environment(module.env, os.environ))


# ---- in words ----


def _explain(module: Module, *, as_json: bool) -> None:
    from p11host.sandbox.explain import explain, shortcomings  # noqa: PLC0415
    from p11host.sandbox.kernel import support  # noqa: PLC0415

    profile = _profile(module)
    exists = {allowed.path: _exists(allowed.path) for allowed in profile.paths}
    statements = list(explain(profile, exists=exists))
    warnings = list(shortcomings(profile, support()))
    if as_json:
        said = {
            "module": module.name,
            "profile": profile.name,
            "enforced": profile.settings.on and not support().missing,
            "required": profile.settings.require,
            "statements": [asdict(each) for each in statements],
            "warnings": warnings,
        }
        click.echo(json.dumps(said, indent=2))
    else:
        _show(module, profile, statements, warnings)


def _exists(path: str) -> bool:
    try:
        return path.startswith("@") or Path(path).exists()
    except OSError:
        return False


def _show(
    module: Module, profile: "Profile", statements: "Sequence[Statement]", warnings: Sequence[str]
) -> None:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = screen(_PIPE_WIDTH)
    head = Text().append(f"module {module.name}", style="bold")
    console.print(head.append(f"  profile {profile.name} ({profile.title})"))
    for warning in warnings:
        console.print(Text(f"! {warning}", style="red"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # What is allowed is whole, and has what room there is.
    for title, most in (("", 24), ("what", None), ("allowed by", 16)):
        narrow = console.width < _PIPE_WIDTH
        table.add_column(title, overflow="fold", max_width=most if narrow else None)
    for each in _shortened(statements):
        detail = printable(each.detail) + (" (not there)" if each.exists is False else "")
        verb = f"may {each.what}" if each.may else f"may not {each.what}".rstrip()
        table.add_row(Text(verb, style="" if each.may else "dim"), Text(detail), Text(printable(each.source)))
    console.print(table)


def _shortened(statements: "Sequence[Statement]") -> "Iterator[Statement]":
    """Yield them with what every program reads as one, where the first of that is."""
    common = [each for each in statements if each.source == EVERY and each.what == "read"]
    for each in statements:
        if common and each is common[0]:
            detail = f"the system's libraries and settings, {len(common)} places (--json names them)"
            yield replace(each, detail=detail, exists=None)
        elif each not in common:
            yield each


# ---- learning ----


def _learn(module: Module, config: Path | None, command: Sequence[str], *, as_json: bool) -> None:
    from p11host.sandbox.learn import MOST_HEARD, heard_in  # noqa: PLC0415
    from p11host.sandbox.lines import lines  # noqa: PLC0415

    if not module.sandbox.on:
        raise P11HostError(
            f"{module.file}: module.{module.name}.sandbox is off; remove that to learn what it needs"
        )
    with tempfile.NamedTemporaryFile(prefix="p11host-learn-") as file:
        status = _run(module, config, command, Path(file.name))
        heard = heard_in(Path(file.name))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in heard], indent=2))
    else:
        for line in lines(module.name, _profile(module), heard):
            click.echo(printable(line))
    if len(heard) >= MOST_HEARD:
        raise P11HostError(f"{module.name} wanted more than these {MOST_HEARD} things; allow it directories")
    if status:
        raise P11HostError(
            f"the command ended with {status}, so this may not be all that {module.name} needs"
        )


def _run(module: Module, config: Path | None, command: Sequence[str], file: Path) -> int:
    """Run the command, or what lists tokens, with a broker of its own that learns; return how it ended."""
    from p11host.cli.run import run_command  # noqa: PLC0415
    from p11host.start import private_broker  # noqa: PLC0415

    with private_broker(config, "warning", "--learn", module.name, str(file)) as broker:
        environ: Mapping[str, str] = os.environ | dict(broker.env)
        if command:
            return run_command(command, environ)
        listing = [sys.executable, "-P", "-m", "p11host", "list"]
        return subprocess.run(listing, env=environ, stdout=subprocess.DEVNULL, check=False).returncode
