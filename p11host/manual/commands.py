"""p11host(1) and a page for each command, from what `--help` is made of.

Knows click's commands. Must not know what one does.
"""

import inspect
from collections.abc import Iterator, Sequence

import click

from p11host.cli import cli
from p11host.errors import EXIT_CODES
from p11host.manual.roff import bold, heading, page, paragraph, subheading, tagged, text

_ENVIRONMENT = {
    "P11HOST_CONFIG": "The configuration, instead of the user's and the system's.",
    "P11HOST_SOCKET": "Where the broker listens.",
    "P11HOST_LOG": "`1` makes the library say on standard error what went wrong.",
}
_FILES = {
    "/etc/p11host/p11host.toml": "The system's configuration; see p11host.toml(5).",
    "~/.config/p11host/p11host.toml": "The user's, or below `$XDG_CONFIG_HOME`. Root has none.",
    "$XDG_RUNTIME_DIR/p11host/broker.sock": "The socket of the user's broker.",
    "/run/p11host/broker.sock": "The socket of the system's broker.",
}


def pages() -> Iterator[tuple[str, str]]:
    """Yield p11host(1), and the page of each command."""
    context = click.Context(cli, info_name="p11host")
    yield "p11host.1", page("p11host", 1, _short(cli), _main(context))
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command is not None and not command.hidden:
            own = click.Context(command, info_name=name, parent=context)
            yield f"p11host-{name}.1", page(f"p11host-{name}", 1, _short(command), _command(own))


def _main(context: click.Context) -> list[str]:
    commands = [
        tagged(f"p11host-{name}(1)", _short(command))
        for name in cli.list_commands(context)
        if (command := cli.get_command(context, name)) is not None and not command.hidden
    ]
    return [
        *_synopsis(context),
        heading("DESCRIPTION"),
        *_said(cli),
        heading("COMMANDS"),
        *commands,
        *_options(context),
        heading("EXIT STATUS"),
        *(tagged(str(code), f"{said[0].upper()}{said[1:]}.") for code, said in EXIT_CODES.items()),
        paragraph("`p11host run`, and `p11host trace` with a command, give that of the command."),
        heading("ENVIRONMENT"),
        *(tagged(name, said) for name, said in _ENVIRONMENT.items()),
        heading("FILES"),
        *(tagged(name, said) for name, said in _FILES.items()),
        heading("SEE ALSO"),
        paragraph("p11host.toml(5), p11host.so(7)"),
    ]


def _command(context: click.Context) -> list[str]:
    body = [*_synopsis(context), heading("DESCRIPTION"), *_said(context.command), *_options(context)]
    for own in _subcommands(context):
        body += [subheading(own.command_path), *_usage(own), *_said(own.command), *_records(own)]
    return [*body, heading("SEE ALSO"), paragraph("p11host(1), p11host.toml(5), p11host.so(7)")]


def _subcommands(context: click.Context) -> Iterator[click.Context]:
    """Yield the commands below a group, and those below these."""
    if not isinstance(context.command, click.Group):
        return
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        if command is not None and not command.hidden:
            own = click.Context(command, info_name=name, parent=context)
            yield own
            yield from _subcommands(own)


def _short(command: click.Command) -> str:
    """Return a command's line of the help, else its first sentence, as the words for a list."""
    if command.short_help:
        return command.short_help.removesuffix(".")
    first = " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())
    return first.partition(". ")[0].removesuffix(".")


def _said(command: click.Command) -> Iterator[str]:
    paragraphs = inspect.cleandoc(command.help or "").replace("\f", "").split("\n\n")
    yield from (paragraph(each.removeprefix("\b")) for each in paragraphs)


def _synopsis(context: click.Context) -> Sequence[str]:
    return [heading("SYNOPSIS"), *_usage(context)]


def _usage(context: click.Context) -> Sequence[str]:
    pieces = context.command.collect_usage_pieces(context)
    return [".PP", f"{bold(context.command_path)} {text(' '.join(pieces))}"]


def _options(context: click.Context) -> list[str]:
    records = _records(context)
    return [heading("OPTIONS"), *records] if records else []


def _records(context: click.Context) -> list[str]:
    options = (param.get_help_record(context) for param in context.command.get_params(context))
    return [tagged(*record) for record in options if record is not None and record[1]]
