"""`p11host list`: what an application will find, for people and as JSON."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11host import shim_path
from p11host.cli.hush import hush
from p11host.cli.interrupt import ending_soon
from p11host.cli.options import config_option, json_option
from p11host.cli.reach import UriType, broker_for
from p11host.cli.screen import put, screen
from p11host.errors import EXIT_FAILED, EXIT_LOGIN, LoginError, NotFoundError
from p11host.facts import facts
from p11host.provider import NARROW
from p11host.text import printable
from p11host.uri import Uri

if TYPE_CHECKING:
    import pkcs11
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from p11host.inventory import Certificate, Item, Module, Slot, Token

#: Columns from which on a certificate leaves room for a whole id.
_WIDE = 120
_SHOWN_FLAGS = ("login_required", "write_protected", "user_pin_locked", "user_pin_final_try", "error_state")


@click.command("list", short_help="Show modules, slots, tokens and objects.")
@click.argument("uri", type=UriType(), required=False)
@click.option(
    "--uri", "as_uris", is_flag=True, help="Print the URIs of tokens and objects alone, one a line."
)
@click.option("--login", is_flag=True, help="Ask for each token's PIN and show private objects too.")
@config_option
@json_option
def list_(uri: Uri | None, config: Path | None, *, as_uris: bool, login: bool, as_json: bool) -> None:
    """Show modules, slots, tokens and objects, as an application sees them: all, or what URI names.

    A module that fails is shown with its error, and the others as ever.
    """
    wanted = uri or Uri()
    refused: list[LoginError] = []
    hush()
    with ending_soon(), broker_for(config):
        taken = _take(shim_path(), wanted, refused, login=login or _has_pin(wanted))
    modules = [replace(each, file=facts(Path(each.path))) for each in _narrowed(taken, wanted)]
    if as_uris:
        _print_uris(modules, wanted, as_json=as_json)
    elif as_json:
        click.echo(json.dumps({"modules": [asdict(module) for module in modules]}, indent=2, default=str))
    else:
        _show(modules)
    if refused:
        raise SystemExit(EXIT_LOGIN)
    if modules and all(module.error for module in modules):
        raise SystemExit(EXIT_FAILED)


def _has_pin(uri: Uri) -> bool:
    return uri.pin_source is not None or uri.pin_value is not None


def _take(shim: Path, uri: Uri, refused: list[LoginError], *, login: bool) -> "list[Module]":
    from p11host.cards.trouble import explain_slots  # noqa: PLC0415
    from p11host.inventory import take  # noqa: PLC0415 (python-pkcs11: 80 ms)
    from p11host.probe import probe  # noqa: PLC0415
    from p11host.start import open_door  # noqa: PLC0415
    from p11host.tokens.find import refuse_path  # noqa: PLC0415
    from p11host.tokens.login import opened  # noqa: PLC0415

    refuse_path(uri)
    session = partial(_logged_in, uri=uri, refused=refused) if login else opened
    with open_door(start=True) as door, door.open("p11host list") as channel:
        paths = {module["name"]: module["path"] for module in channel.call("status", [{}])["modules"]}
        probes = [probe(module) for module in channel.attach()]
        # Within the door, so that an impatient broker does not end before the shim has one of its own.
        return explain_slots(take(probes, paths, str(shim), session), channel)


@contextlib.contextmanager
def _logged_in(token: "pkcs11.Token", uri: Uri, refused: list[LoginError]) -> "Iterator[pkcs11.Session]":
    """Open a session on a token, logged in if the URI names it and somebody gives its PIN."""
    from p11host.tokens.find import token_facts  # noqa: PLC0415
    from p11host.tokens.login import NoPinError, log_in, opened, wants_login  # noqa: PLC0415

    with opened(token) as session:
        if wants_login(token) and uri.fits(token_facts(token)):
            try:
                log_in(session, uri)
            except NoPinError:
                pass
            except LoginError as error:
                refused.append(error)
                raise
        yield session


def _narrowed(modules: "list[Module]", uri: Uri) -> "list[Module]":
    """Return what the URI names; NotFoundError if that is nothing."""
    from p11host.tokens.find import shown  # noqa: PLC0415
    from p11host.tokens.narrow import narrow  # noqa: PLC0415

    kept = narrow(modules, uri)
    if kept or not modules or uri == Uri():
        return kept
    why = "; ".join(map(printable, _errors(modules)))
    raise NotFoundError(f"{shown(uri)}: names nothing that is there; {why or 'see: p11host list --uri'}")


def _print_uris(modules: "list[Module]", uri: Uri, *, as_json: bool) -> None:
    from p11host.tokens.narrow import uris  # noqa: PLC0415

    found = [str(each) for each in uris(modules, uri)]
    if as_json:
        click.echo(json.dumps({"uris": found}, indent=2))
    elif found:
        click.echo("\n".join(found))
    for line in _errors(modules):
        click.echo(f"p11host: {printable(line)}", err=True)


def _errors(modules: "list[Module]") -> Iterator[str]:
    """Yield what URIs alone cannot tell: why there are no more of them."""
    for module in modules:
        if module.error is not None:
            yield f"module {module.name}: {module.error}"
        for slot in module.slots:
            error = slot.error or (slot.token.error if slot.token is not None else None)
            if error is not None:
                yield f"module {module.name}, slot {slot.id}: {error}"


def _show(modules: "list[Module]") -> None:
    console = screen()
    for module in modules:
        put(console, _headline(module))
        for slot in module.slots:
            _show_slot(console, slot)


def _headline(module: "Module") -> "Text":
    from rich.text import Text  # noqa: PLC0415

    line = Text().append(f"module {module.name}", style="bold")
    if module.library is not None:
        line.append(printable(f"  {module.library.description} {module.library.version}"))
        line.append("  32-bit" if module.library.bits == NARROW else "")
    if module.path:
        line.append("\n  " + printable(module.path), style="dim")
    if module.file is not None:
        line.append("\n  file: ", style="dim").append(printable(str(module.file)), style="dim")
    if module.error is not None:
        line.append("\n  error: ", style="red").append(printable(module.error))
    elif not module.slots:
        line.append("\n  no slots", style="dim")
    return line


def _show_slot(console: "Console", slot: "Slot") -> None:
    from rich.text import Text  # noqa: PLC0415

    line = Text(printable(f"  slot {slot.id}  {slot.description}".rstrip()))
    if slot.error is not None:
        line.append("\n    error: " if slot.description else "  error: ", style="red")
        line.append(printable(slot.error))
    elif slot.token is None:
        line.append("  (no token)", style="dim")
    put(console, line)
    if slot.token is not None:
        _show_token(console, slot.token)


def _show_token(console: "Console", token: "Token") -> None:
    from rich.padding import Padding  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if "token_initialized" not in token.flags:
        put(console, Text("    token not initialised", style="dim"))
        return
    flags = [flag.replace("_", " ") for flag in _SHOWN_FLAGS if flag in token.flags]
    head = f"    token {token.label!r}  {token.manufacturer} {token.model}  serial {token.serial}"
    put(console, Text(printable(head)))
    if flags:
        put(console, Text(printable(f"      {', '.join(flags)}")))
    if token.error is not None:
        put(console, Text().append("    error: ", style="red").append(printable(token.error)))
    elif token.objects:
        console.print(Padding(_table(console, token.objects), (0, 0, 0, 4), expand=False))
    else:
        put(console, Text("    no public objects", style="dim"))


def _table(console: "Console", items: "Sequence[Item]") -> "Table":
    """Return objects as a table without lines; on a terminal long ids give way to names of certificates."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    certified = any(item.certificate or item.error for item in items)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("object", no_wrap=True)
    table.add_column("label", overflow="fold")
    table.add_column("key", no_wrap=True)
    cut = certified and console.is_terminal and console.width < _WIDE
    table.add_column("id", no_wrap=cut, overflow="ellipsis" if cut else "fold", max_width=8 if cut else None)
    if certified:
        table.add_column("subject")
        table.add_column("until", no_wrap=True)
    for item in items:
        words = [item.kind, item.label, _type(item), item.id, *(_subject(item) if certified else ())]
        late = item.certificate is not None and item.certificate.not_after < datetime.now(UTC)
        table.add_row(*(Text(printable(word)) for word in words), style="red" if late else "")
    return table


def _type(item: "Item") -> str:
    return f"{item.key_type or ''} {item.bits or ''}".strip()


def _subject(item: "Item") -> tuple[str, str]:
    if item.certificate is None:
        return item.error or "", ""
    return item.certificate.name, _validity(item.certificate)


def _validity(certificate: "Certificate") -> str:
    """Return the day on which a certificate ends, and in a word if it does not count today."""
    now, day = datetime.now(UTC), f"{certificate.not_after:%Y-%m-%d}"
    if certificate.not_after < now:
        return f"{day} expired"
    return f"{day} not yet valid" if certificate.not_before > now else day
