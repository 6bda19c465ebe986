"""`p11host list`: what an application will find, for people and as JSON."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11host import shim_path
from p11host.cli.options import config_option, json_option
from p11host.facts import facts
from p11host.provider import NARROW
from p11host.text import printable

if TYPE_CHECKING:
    import pkcs11
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from p11host.inventory import Certificate, Item, Module, Slot, Token

_PIPE_WIDTH = 120
_SHOWN_FLAGS = ("login_required", "write_protected", "user_pin_locked", "user_pin_final_try", "error_state")


@click.command("list")
@config_option
@json_option
@click.option("--login", is_flag=True, help="Ask for each token's PIN and show private objects too.")
def list_(config: Path | None, *, as_json: bool, login: bool) -> None:
    """Show modules, slots, tokens and objects, as an application sees them.

    A module that fails is shown with its error, and the others as ever.
    """
    shim = shim_path()
    with _broker(config):
        modules = [replace(each, file=facts(Path(each.path))) for each in _take(shim, login=login)]
    if as_json:
        click.echo(json.dumps({"modules": [asdict(module) for module in modules]}, indent=2, default=str))
    else:
        _show(modules)
    if modules and all(module.error for module in modules):
        raise SystemExit(1)


@contextlib.contextmanager
def _broker(config: Path | None) -> Iterator[None]:
    """Have the shim in this process find a broker: a private one for `config`, else the user's."""
    from p11host.start import private_broker  # noqa: PLC0415

    if config is None:
        yield
        return
    with private_broker(config, "off") as broker:
        os.environ.update(broker.env)
        yield


def _take(shim: Path, *, login: bool) -> "list[Module]":
    from p11host.inventory import take  # noqa: PLC0415 (python-pkcs11: 80 ms)
    from p11host.probe import probe  # noqa: PLC0415
    from p11host.start import open_door  # noqa: PLC0415

    with open_door(start=True) as door, door.open("p11host list") as channel:
        paths = {module["name"]: module["path"] for module in channel.call("status", [{}])["modules"]}
        probes = [probe(module) for module in channel.attach()]
        # Within the door, so that an impatient broker does not end before the shim has one of its own.
        return take(probes, paths, str(shim), _ask_pin if login else _no_pin)


def _no_pin(_: "pkcs11.Token") -> None:
    return None


def _ask_pin(token: "pkcs11.Token") -> str | None:
    pin: str = click.prompt(
        f"PIN of {printable(token.label)} (empty: no login)",
        hide_input=True,
        default="",
        show_default=False,
        err=True,
    )
    return pin or None


def _show(modules: "list[Module]") -> None:
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    for module in modules:
        console.print(_headline(module))
        for slot in module.slots:
            _show_slot(console, slot)


def _headline(module: "Module") -> "Text":
    from rich.text import Text  # noqa: PLC0415

    line = Text().append(f"module {module.name}", style="bold")
    if module.library is not None:
        line.append(printable(f"  {module.library.description} {module.library.version}"))
        line.append("  32-bit" if module.library.bits == NARROW else "")
    if module.path:
        line.append(printable(f"  {module.path}"), style="dim")
    if module.file is not None:
        line.append("\n  file: ", style="dim").append(printable(str(module.file)), style="dim")
    if module.error is not None:
        line.append("\n  error: ", style="red").append(printable(module.error))
    elif not module.slots:
        line.append("\n  no slots", style="dim")
    return line


def _show_slot(console: "Console", slot: "Slot") -> None:
    from rich.text import Text  # noqa: PLC0415

    line = Text(printable(f"  slot {slot.id}  {slot.description}"))
    if slot.error is not None:
        line.append("\n    error: ", style="red").append(printable(slot.error))
    elif slot.token is None:
        line.append("  (no token)", style="dim")
    console.print(line)
    if slot.token is not None:
        _show_token(console, slot.token)


def _show_token(console: "Console", token: "Token") -> None:
    from rich.padding import Padding  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if "token_initialized" not in token.flags:
        console.print(Text("    token not initialised", style="dim"))
        return
    flags = ", ".join(flag.replace("_", " ") for flag in _SHOWN_FLAGS if flag in token.flags)
    head = f"    token {token.label!r}  {token.manufacturer} {token.model}  serial {token.serial}  {flags}"
    console.print(Text(printable(head)))
    if token.error is not None:
        console.print(Text().append("    error: ", style="red").append(printable(token.error)))
    elif token.objects:
        console.print(Padding(_table(token), (0, 0, 0, 4), expand=False))
    else:
        console.print(Text("    no public objects", style="dim"))


def _table(token: "Token") -> "Table":
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("object", "label", "id", "type", "subject", "expires")
    for item in token.objects:
        words = [item.kind, item.label, item.id, _type(item), *_subject(item)]
        table.add_row(*(Text(printable(word)) for word in words))
    return table


def _type(item: "Item") -> str:
    return f"{item.key_type or ''} {item.bits or ''}".strip()


def _subject(item: "Item") -> tuple[str, str]:
    if item.certificate is None:
        return item.error or "", ""
    return item.certificate.subject, _expiry(item.certificate)


def _expiry(certificate: "Certificate") -> str:
    day = f"{certificate.not_after:%Y-%m-%d}"
    return f"{day} (expired)" if certificate.not_after < datetime.now(UTC) else day
