"""`p11host restart`."""

import json

import click

from p11host.cli.options import complete_module, json_option
from p11host.text import printable


@click.command(short_help="Begin new lives of a module: end its helpers.")
@click.argument("name", shell_complete=complete_module)
@json_option
def restart(name: str, *, as_json: bool) -> None:
    """Begin new lives of module NAME: end its helpers, and hold no next one back.

    Calls in flight are CKR_DEVICE_REMOVED. Applications get a new helper with the next C_GetSlotList or
    C_OpenSession. Of a system's broker a user's own helpers end; root's command ends all.
    """
    from p11host.start import open_door  # noqa: PLC0415

    with open_door(start=False) as door, door.open("p11host restart") as channel:
        done = channel.call("restart", [{"module": name}])
    if as_json:
        click.echo(json.dumps({"module": done["module"], "helpers": done["helpers"]}))
        return
    helpers = done["helpers"]
    plural = "" if helpers == 1 else "s"
    click.echo(f"module {printable(done['module'])}: {helpers} helper{plural} told to end")
