"""`p11host path`."""

import json

import click

from p11host import conf_path, shim_path
from p11host.cli.options import json_option


@click.command()
@click.option("--conf", is_flag=True, help="Print the directory of the sample files instead.")
@json_option
def path(*, conf: bool, as_json: bool) -> None:
    """Print the path of the library to load, and nothing else.

    The sample files are a configuration with every key, modules for known providers, and vendors' rows.
    """
    found = str(conf_path() if conf else shim_path())
    click.echo(json.dumps({"path": found}) if as_json else found)
