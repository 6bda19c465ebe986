"""`p11host reload`."""

import click

from p11host.errors import ConfigError
from p11host.text import printable


@click.command()
def reload() -> None:
    """Have the broker read its configuration now; it does so by itself when a file has changed.

    Helpers that run go on as they were started, and the next ones are started by the new configuration. One
    that is wrong does not count: it is told, and that of before stays.
    """
    from p11host.start import open_door  # noqa: PLC0415

    with open_door(start=False) as door, door.open("p11host reload") as channel:
        done = channel.call("reload", [{}])
    if done["problems"]:
        raise ConfigError([printable(problem) for problem in done["problems"]])
    click.echo(f"read: {', '.join(map(printable, done['modules']))}")
