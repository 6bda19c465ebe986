"""`python -m p11host.manual DIRECTORY`: write the manual pages."""

import sys
from pathlib import Path

import click

from p11host.errors import EXIT_USAGE
from p11host.manual import write


def main(arguments: list[str]) -> None:
    """Write the pages into the directory that is named."""
    if len(arguments) != 1:
        click.echo("usage: python -m p11host.manual DIRECTORY", err=True)
        sys.exit(EXIT_USAGE)
    for file in write(Path(arguments[0])):
        click.echo(file)


if __name__ == "__main__":
    main(sys.argv[1:])
