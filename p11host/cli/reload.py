"""`p11host reload`."""

import json

import click

from p11host.cli.options import json_option
from p11host.errors import ConfigError
from p11host.text import printable


@click.command(short_help="Have the broker read its configuration now.")
@json_option
def reload(*, as_json: bool) -> None:
    """Have the broker read its configuration now; it does so by itself when a file has changed.

    Helpers that run go on as they were started, and the next ones are started by the new configuration. One
    that is wrong does not count: it is told, and that of before stays.
    """
    from p11host.start import open_door  # noqa: PLC0415

    with open_door(start=False) as door, door.open("p11host reload") as channel:
        done = channel.call("reload", [{}])
    if done["problems"]:
        raise ConfigError([printable(problem) for problem in done["problems"]])
    modules = done["modules"]
    click.echo(json.dumps({"modules": modules}) if as_json else f"read: {', '.join(map(printable, modules))}")
