"""`p11host path`."""

import click

from p11host import shim_path


@click.command()
def path() -> None:
    """Print the path of the library to load, and nothing else."""
    click.echo(shim_path())
