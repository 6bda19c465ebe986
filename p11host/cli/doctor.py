"""`p11host doctor`: what is wrong here and what to do, for people and as JSON."""

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.progress import progress
from p11host.errors import EXIT_FAILED
from p11host.text import printable

if TYPE_CHECKING:
    from p11host.doctor.findings import Finding, Level, Part

_WIDTH = 80
_MARGIN = 11
_COLOURS = {"ok": "green", "note": "blue", "warning": "yellow", "problem": "red"}


@click.command()
@config_option
@json_option
def doctor(config: Path | None, *, as_json: bool) -> None:
    """Check this machine from end to end, and say what to do.

    Looked at are the kernel, the configuration, the broker and its socket, and of each module whether it
    loads, how long that takes, which slots, tokens and mechanisms it has, and what it needs around it.
    Providers run in helpers, as ever. With --config a broker of its own does it.

    Exit codes: 0 no problem was found, warnings do not count; 1 there is a problem.
    """
    from p11host.doctor.findings import is_well, remedies  # noqa: PLC0415
    from p11host.doctor.look import look  # noqa: PLC0415

    with progress("looking at this machine", None) as advance:
        parts = list(look(config, advance))
    todo, well = list(remedies(parts)), is_well(parts)
    if as_json:
        click.echo(json.dumps({"ok": well, "parts": list(map(_data, parts)), "todo": todo}, indent=2))
    else:
        for line in (*_shown(parts), *_told(todo)):
            click.echo(line)
    if not well:
        sys.exit(EXIT_FAILED)


def _data(part: "Part") -> dict[str, Any]:
    findings = [asdict(finding) for finding in part.findings]
    return {"name": part.name, "findings": findings, "facts": part.facts}


def _shown(parts: "Sequence[Part]") -> Iterator[str]:
    for part in parts:
        yield click.style(printable(part.name), bold=True)
        for finding in part.findings:
            yield from _wrapped(finding)


def _wrapped(finding: "Finding") -> Iterator[str]:
    first, *rest = _lines(printable(finding.text), _MARGIN)
    yield f"  {_level(finding.level)}{first}"
    yield from (" " * _MARGIN + line for line in rest)


def _level(level: "Level") -> str:
    return click.style(f"{level:<{_MARGIN - 2}}", fg=_COLOURS[level])


def _told(todo: Sequence[str]) -> Iterator[str]:
    yield ""
    if not todo:
        yield "Nothing needs to be done."
        return
    yield click.style("What to do", bold=True)
    for number, each in enumerate(todo, 1):
        first, *rest = _lines(printable(each), 5)
        yield f"{number:>3}. {first}"
        yield from ("     " + line for line in rest)


def _lines(text: str, margin: int) -> list[str]:
    width = min(shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stdout.isatty() else _WIDTH, 120)
    return textwrap.wrap(text, max(width - margin, 20), break_long_words=False, break_on_hyphens=False)
