"""`p11host show`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import login_option, reaching, uri_argument
from p11host.uri import Uri

if TYPE_CHECKING:
    import pkcs11
    from rich.console import Console


@click.command(short_help="Show all that is known of tokens or objects, but secrets.")
@uri_argument
@login_option
@config_option
@json_option
def show(uri: Uri, config: Path | None, *, login: bool, as_json: bool) -> None:
    """Show all that is known of the tokens or objects that URI names, but for secrets.

    Of a certificate also its names, validity and chain, as far as the token has it; no signature is
    checked. A URI without object, type and id names tokens.
    """
    from p11host.errors import NotFoundError  # noqa: PLC0415
    from p11host.tokens.find import find_tokens  # noqa: PLC0415

    with reaching(config, uri) as shim:
        found = [facts for token in find_tokens(shim, uri) for facts in _token(token, uri, login=login)]
    if not found:
        raise NotFoundError("no object there has this name; private ones are seen with --login")
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
    else:
        _print(found)


def _token(token: "pkcs11.Token", uri: Uri, *, login: bool) -> list[dict[str, Any]]:
    from dataclasses import replace  # noqa: PLC0415

    from p11host.tokens.describe import describe, describe_token  # noqa: PLC0415
    from p11host.tokens.find import find_objects  # noqa: PLC0415
    from p11host.tokens.login import log_in, opened, wants_login  # noqa: PLC0415

    if not uri.names_object():
        return [describe_token(token)]
    with opened(token) as session:
        if wants_login(token) and (login or uri.pin_source is not None or uri.pin_value is not None):
            log_in(session, uri)
        certificates = find_objects(session, replace(uri, object=None, id=None, type="cert"))
        return [describe(token, each, certificates) for each in find_objects(session, uri)]


def _print(found: list[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True)
    for number, facts in enumerate(found):
        if number:
            console.print()
        _print_one(console, dict(facts))


def _print_one(console: "Console", facts: dict[str, Any]) -> None:
    from rich.text import Text  # noqa: PLC0415

    from p11host.tokens.describe import attributes_for_people, for_people  # noqa: PLC0415

    console.print(Text(facts.pop("uri"), style="bold"))
    parts = {name: facts.pop(name, None) for name in ("certificate", "chain", "attributes")}
    _print_facts(console, facts, "")
    if parts["certificate"]:
        _print_facts(console, for_people(parts["certificate"]), "certificate")
    _print_facts(console, {str(n): _link(each) for n, each in enumerate(parts["chain"] or [])}, "chain")
    if parts["attributes"]:
        _print_facts(console, attributes_for_people(parts["attributes"]), "attributes")


def _link(link: dict[str, Any]) -> str:
    from p11host.tokens.describe import validity  # noqa: PLC0415

    return f"{link['subject']}; {validity(link)}"


def _print_facts(console: "Console", facts: dict[str, Any] | None, title: str) -> None:
    """Print one part: for people in columns, into a pipe one fact a line."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from p11host.tokens.describe import lines  # noqa: PLC0415

    if not facts:
        return
    if title:
        console.print(Text(title, style="cyan"))
    pairs = list(lines(facts))
    width = max((len(name) for name, _ in pairs), default=0)
    if not console.is_terminal:
        click.echo("".join(f"  {name:<{width}}  {words}\n" for name, words in pairs), nl=False)
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=width + 2)
    table.add_column(overflow="fold")
    for name, words in pairs:
        table.add_row(Text(f"  {name}", style="dim"), Text(words))
    console.print(table, soft_wrap=False)
