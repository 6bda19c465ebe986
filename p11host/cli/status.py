"""`p11host status`."""

import json
from typing import Any

import click

from p11host.cli.options import json_option
from p11host.text import printable


@click.command()
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


def _show(state: dict[str, Any]) -> None:
    click.echo(f"broker {state['pid']}  configuration {', '.join(map(printable, state['config']))}")
    for module in state["modules"]:
        click.echo(f"module {module['name']}  {printable(module['path'])}")
    for application in state["applications"]:
        click.echo(f"application {application['pid']}  {printable(application['program'])}")
        for helper in application["helpers"]:
            shared = ", ".join(map(str, helper.get("shared", [])))
            by = f"  shared by {shared}" if shared else ""
            click.echo(f"  helper {helper['pid']}  module {helper['module']}{by}")
