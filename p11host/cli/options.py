"""Options that several commands have, with one wording."""

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)

config_option = click.option(
    "--config",
    type=_PATH,
    metavar="FILE",
    help="Use this configuration alone, not the user's and the system's.  [env: P11HOST_CONFIG]",
)
socket_option = click.option(
    "--socket",
    type=_PATH,
    metavar="PATH",
    help="Where the broker listens.  [env: P11HOST_SOCKET]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
