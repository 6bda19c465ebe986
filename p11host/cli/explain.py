"""`p11host explain`: what the tables know of a name or a number, for people and as JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11host.cli.options import complete_module, config_option, json_option
from p11host.cli.screen import screen
from p11host.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from p11host.explain.entries import Entry

_PIPE_WIDTH = 120


@click.command(short_help="Tell what is known of a name or number of PKCS#11.")
@click.argument("word", metavar="NAME|NUMBER")
@click.option(
    "--module",
    metavar="NAME",
    shell_complete=complete_module,
    help="Besides the standard's rows look at this module's alone.",
)
@config_option
@json_option
def explain(word: str, module: str | None, config: Path | None, *, as_json: bool) -> None:
    """Tell what is known of a function, mechanism, attribute, struct, return value or any number.

    For example CKM_AES_GCM, C_Sign, CKA_LABEL, CKR_DEVICE_REMOVED, CK_GCM_PARAMS, 0x103. Rows that the
    configuration has of vendors count too.
    """
    from p11host.config import choose  # noqa: PLC0415
    from p11host.explain.vendors import explain_all, find_modules  # noqa: PLC0415 (all of specs/: 60 ms)

    modules = find_modules(choose(config), module)
    entries = list(explain_all(word, modules))
    if not entries:
        raise click.BadParameter(_unknown(word), param_hint="NAME|NUMBER")
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
    else:
        _show(entries)


def _unknown(word: str) -> str:
    from p11host.explain.entries import parse_number, suggest  # noqa: PLC0415
    from p11host.tables import tables  # noqa: PLC0415

    if parse_number(word) is not None:
        return f"nothing has the number {word}; a vendor's needs rows in the configuration (docs/vendors.md)"
    question = suggest(tables(), word) or "names are as in the standard, such as CKM_AES_GCM or C_Sign"
    return f"nothing is called {printable(word)!r}; {question}"


def _show(entries: "list[Entry]") -> None:
    console = screen(_PIPE_WIDTH)
    for number, entry in enumerate(entries):
        if number:
            console.print()
        _show_entry(console, entry)


def _show_entry(console: "Console", entry: "Entry") -> None:
    from rich.padding import Padding  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    line = Text().append(entry.name, style="bold")
    if entry.value is not None:
        line.append(f"  {entry.value:#x}" if entry.value >= 0 else "  all ones")
    since = f"since {entry.since}" if entry.since and entry.since != "vendor" else ""
    words = [entry.kind, since, f"in module {entry.module}" if entry.module else ""]
    console.print(line.append(f"  {', '.join(filter(None, words))}", style="dim"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for label, said in entry.facts.items():
        lines = [said] if isinstance(said, str) else said
        # Names alone are read in a row, sentences one below the other.
        joined = ", ".join(lines) if all(" " not in each for each in lines) else "\n".join(lines)
        table.add_row(Text(label, style="cyan"), Text(printable_lines(joined)))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def printable_lines(text: str) -> str:
    """Return text that is safe for a terminal, its lines as they were."""
    return "\n".join(printable(line) for line in text.split("\n"))
