"""`p11host status`."""

import json
from collections.abc import Iterator
from typing import Any

import click

from p11host.cli.options import json_option
from p11host.cli.screen import put, screen
from p11host.text import printable


@click.command(short_help="Show applications, their helpers, and modules that rest.")
@json_option
def status(*, as_json: bool) -> None:
    """Show which applications the broker serves, and with which helpers. Starts none where none runs."""
    from p11host.start import open_door  # noqa: PLC0415

    with open_door(start=False) as door, door.open("p11host status") as channel:
        state = channel.call("status", [{}])
    if as_json:
        click.echo(json.dumps(state, indent=2))
    else:
        _show(state)


def _circuit(name: str, circuit: dict[str, Any]) -> str:
    """Return in words what holds helpers of a module back."""
    deaths, last = circuit["deaths"], circuit["last"]
    died = f"{deaths} helper{'' if deaths == 1 else 's'} died at once, the last by {last}"
    if not circuit["open"]:
        return died
    when = f"in {circuit['retry'] / 1000:.0f} s" if circuit["retry"] else "when one is asked for"
    return f"circuit open: {died}; next try {when}, or after: p11host restart {name}"


def _life(helper: dict[str, Any]) -> str:
    """Return in words which life of its module this is, and what came of it so far."""
    answered = helper.get("answered", 0)
    calls = f"{answered} call{'' if answered == 1 else 's'}"
    return f"  generation {helper['generation']}, for {_duration(helper['seconds'])}, {calls}"


def _duration(seconds: int) -> str:
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def _show(state: dict[str, Any]) -> None:
    from rich.text import Text  # noqa: PLC0415

    console = screen()
    for line in _lines(state):
        put(console, Text(printable(line)), hanging=4)


def _lines(state: dict[str, Any]) -> Iterator[str]:
    yield f"broker {state['pid']}  configuration {', '.join(state['config'])}"
    for module in state["modules"]:
        yield f"module {module['name']}  {module['path']}  sandbox {module['sandbox']}"
        if module["started"]:
            died = f", {module['died']} died" if module["died"] else ""
            yield f"  helpers: {module['started']} started{died}"
        if circuit := module.get("circuit"):
            yield f"  {_circuit(module['name'], circuit)}"
    for application in state["applications"]:
        yield f"application {application['pid']}  {application['program']}"
        for helper in application["helpers"]:
            shared = ", ".join(map(str, helper.get("shared", [])))
            by = f"  shared by {shared}" if shared else ""
            yield f"  helper {helper['pid']}  module {helper['module']}{_life(helper)}{by}"
