"""`p11host path`."""

import click

from p11host import conf_path, shim_path


@click.command()
@click.option("--conf", is_flag=True, help="Print the directory of the sample files instead.")
def path(*, conf: bool) -> None:
    """Print the path of the library to load, and nothing else.

    The sample files are a configuration with every key, modules for known providers, and vendors' rows.
    """
    click.echo(conf_path() if conf else shim_path())
