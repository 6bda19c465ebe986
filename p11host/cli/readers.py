"""`p11host readers`: card readers and cards, who uses them and which module serves them."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import broker_for
from p11host.errors import EXIT_FAILED
from p11host.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from p11host.cards.serving import Served, Serving
    from p11host.cards.subscriber import State, Subscriber
    from p11host.client import Channel

#: What makes a module's slot another.
_MOVES = ("inserted", "removed", "added", "gone", "fault")
_PIPE_WIDTH = 100
_PROGRAM = "p11host readers"


@dataclass
class Screen:
    """Everything that is shown: readers by their names, and what is known around them."""

    service: str = "unknown"
    modules: list[str] = field(default_factory=list)
    readers: "dict[bytes, State]" = field(default_factory=dict)
    served: "list[Served]" = field(default_factory=list)
    errors: Mapping[str, str] = field(default_factory=dict)
    holders: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)


@click.command(short_help="Show card readers, the cards in them, and who uses these.")
@click.option("--watch", is_flag=True, help="Go on, and show every change as it comes.")
@click.option("--no-ask", is_flag=True, help="Do not ask modules which slots and tokens they see.")
@config_option
@json_option
def readers(config: Path | None, *, watch: bool, no_ask: bool, as_json: bool) -> None:
    """Show card readers, the cards in them, who uses these and which module serves them.

    What a card is, is told from its answer to reset: it is not asked anything. Modules that reach
    PC/SC are asked, in helpers, which token they see in it. With --watch and --json there is a line for the
    state and one for each change.

    Exit codes: 0 PC/SC answers; 1 it does not.
    """
    from p11host.cards.serving import Serving  # noqa: PLC0415
    from p11host.cards.subscriber import Subscriber, connector  # noqa: PLC0415
    from p11host.start import open_door  # noqa: PLC0415

    with (
        broker_for(config),
        open_door(start=True) as door,
        door.open(_PROGRAM) as channel,
        Subscriber(connector(door, _PROGRAM)) as subscriber,
    ):
        screen = Screen()
        _take(screen, subscriber.begin())
        with Serving(channel, [] if no_ask else screen.modules) as serving:
            _ask(screen, serving, channel)
            if not watch:
                _show_once(screen, as_json=as_json)
                raise SystemExit(0 if screen.service == "ok" else EXIT_FAILED)
            with contextlib.suppress(KeyboardInterrupt):
                _watch(screen, subscriber, serving, channel, as_json=as_json)


def _take(screen: Screen, said: "State") -> None:
    """Take over a state or a change."""
    from p11host.cards.subscriber import apply  # noqa: PLC0415

    screen.service = said.get("service", screen.service)
    screen.modules = said.get("modules", screen.modules)
    apply(screen.readers, said)


def _ask(screen: Screen, serving: "Serving", channel: "Channel") -> None:
    """Ask modules for their slots, and who may be using cards."""
    screen.served, screen.errors = serving.ask(), serving.errors
    _ask_for_holders(screen, channel)


def _ask_for_holders(screen: Screen, channel: "Channel") -> None:
    """Ask the broker who has helpers that reach cards; where one is kept from others, who else is there."""
    from p11host.cards.holders import applications, programs  # noqa: PLC0415
    from p11host.errors import P11HostError  # noqa: PLC0415

    with contextlib.suppress(P11HostError, OSError):
        status = channel.call("status", [{}])
        screen.holders = list(applications(status, screen.modules, _PROGRAM))
        exclusive = any(reader.get("use") == "exclusive" for reader in screen.readers.values())
        screen.programs = list(programs(status["pid"])) if exclusive else []


# ---- once ----


def _show_once(screen: Screen, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_data(screen), indent=2))
        return
    _console().print(_rendered(screen))


def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def _data(screen: Screen) -> dict[str, Any]:
    return {
        "service": screen.service,
        "modules": screen.modules,
        "errors": [*(f"module {name}: {said}" for name, said in screen.errors.items()), *_nowhere(screen)],
        "readers": [_reader_data(reader, screen) for reader in screen.readers.values()],
        "applications": screen.holders,
        "programs": screen.programs,
    }


def _reader_data(reader: "State", screen: Screen) -> dict[str, Any]:
    slots = [
        {"module": each.module, "slot": each.slot, "token": each.token, "error": each.error}
        for each in _slots(reader, screen)
    ]
    return _plain(reader) | {"slots": slots}


def _plain(reader: "State") -> dict[str, Any]:
    """Return a reader for JSON, with what its card is."""
    from p11host.cards.atr import described  # noqa: PLC0415

    atr = reader.get("atr", b"")
    said = {"name": _name(reader), "card": reader["card"], "atr": atr.hex() or None}
    said |= {"is": described(atr) or None, "use": reader.get("use"), "fault": reader.get("fault")}
    said |= {"error": reader.get("error")}
    return said | {"flapping": reader.get("flapping", False), "count": reader.get("count", 0)}


def _name(reader: "State") -> str:
    name: bytes = reader["name"]
    return name.decode(errors="surrogateescape")


def _slots(reader: "State", screen: Screen) -> "list[Served]":
    return [each for each in screen.served if each.is_of(_name(reader))]


def _rendered(screen: Screen) -> "RenderableType":
    from rich import box  # noqa: PLC0415
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    lines: list[RenderableType] = [Text(text) for text in _service(screen)]
    if screen.readers:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for title in ("reader", "card", "used", "module: token"):
            table.add_column(title, overflow="fold")
        for reader in screen.readers.values():
            cells = (_card(reader), reader.get("use") or "", "\n".join(_tokens(reader, screen)))
            table.add_row(Text(printable(_name(reader)), style="bold"), *map(Text, cells))
        lines.append(table)
    lines += [Text(printable(said)) for said in _kept(screen)]
    lines += [Text(f"may be using cards: {printable(holder)}") for holder in screen.holders]
    if screen.programs:
        lines.append(Text(f"may be using cards, without p11host: {printable(', '.join(screen.programs))}"))
    lines += [Text(f"module {name}: {printable(said)}") for name, said in screen.errors.items()]
    lines += [Text(printable(said)) for said in _nowhere(screen)]
    return Group(*lines)


def _nowhere(screen: Screen) -> Iterator[str]:
    """Yield the errors of slots that do not even say which reader they are."""
    for each in screen.served:
        if not each.description and each.error:
            yield f"module {each.module}, slot {each.slot}: {each.error}"


def _kept(screen: Screen) -> Iterator[str]:
    """Yield the readers whose cards are not to be had, and by which error of PC/SC."""
    from p11host.cards.codes import error_named  # noqa: PLC0415

    for reader in screen.readers.values():
        if "error" in reader:
            yield str(error_named(reader["error"], _name(reader)))


def _service(screen: Screen) -> Iterator[str]:
    """Yield how PC/SC does, where there is something to say of it."""
    from p11host.cards.codes import error_named  # noqa: PLC0415

    if screen.service == "unknown":
        yield "PC/SC does not answer: see what pcscd logs: journalctl -u pcscd"
    elif screen.service != "ok":
        yield str(error_named(screen.service))
    elif not screen.readers:
        yield "PC/SC answers, and has no reader: plug one in (its driver: apt-get install libccid)"


def _card(reader: "State") -> str:
    """Return what is in a reader, or what is wrong with it."""
    from p11host.cards.atr import described  # noqa: PLC0415

    atr = reader.get("atr", b"")
    words = [described(atr), atr.hex()] if reader["card"] else ["none"]
    words += [_FAULTS.get(reader.get("fault", ""), ""), "flapping" if reader.get("flapping") else ""]
    return "\n".join(printable(word) for word in words if word)


_FAULTS = {
    "mute": "does not answer: take it out and insert it the right way round",
    "unavailable": "the reader's driver has failed: plug the reader in again",
}


def _tokens(reader: "State", screen: Screen) -> Iterator[str]:
    for each in _slots(reader, screen):
        said = each.error or (repr(each.token) if each.token is not None else "no token")
        yield f"{each.module}: {printable(said)}"


# ---- live ----


def _watch(
    screen: Screen, subscriber: "Subscriber", serving: "Serving", channel: "Channel", *, as_json: bool
) -> None:
    """Show every change until interrupted."""
    console = _console()
    if as_json or not console.is_terminal:
        _lines(screen, subscriber, as_json=as_json)
        return
    from rich.live import Live  # noqa: PLC0415

    with Live(_rendered(screen), console=console, auto_refresh=False) as live:
        while (said := subscriber.hear(None)) is not None:
            _take(screen, said)
            live.update(_rendered(screen), refresh=True)
            if said.get("change") in _MOVES or "readers" in said:
                _ask(screen, serving, channel)
                live.update(_rendered(screen), refresh=True)
            elif said.get("change") == "used":
                _ask_for_holders(screen, channel)
                live.update(_rendered(screen), refresh=True)


def _lines(screen: Screen, subscriber: "Subscriber", *, as_json: bool) -> None:
    """Print the state, and a line for each change."""
    if as_json:
        click.echo(json.dumps(_data(screen)))
    else:
        _console().print(_rendered(screen))
    while (said := subscriber.hear(None)) is not None:
        _take(screen, said)
        click.echo(json.dumps(change_data(said)) if as_json else change_line(said))


def change_data(said: "State") -> dict[str, Any]:
    """Return a change, or a whole state after a broker that forgot some, for JSON."""
    if "readers" in said:
        readers = [_plain(reader) for reader in said["readers"]]
        return {"sequence": said["sequence"], "service": said["service"], "readers": readers}
    reader = {"reader": _plain(said["reader"])} if "reader" in said else {}
    return {key: value for key, value in said.items() if key != "reader"} | reader


def change_line(said: "State") -> str:
    """Return the same in words."""
    if "readers" in said:
        return f"the broker is another; {len(said['readers'])} readers"
    if said["change"] == "service":
        return "PC/SC answers" if said["service"] == "ok" else f"PC/SC: {said['service']}"
    reader = said["reader"]
    words = [printable(_name(reader)), _WORDS[said["change"]]]
    words += [_card(reader).replace("\n", " ")] if reader["card"] or reader.get("fault") else []
    words += [f"used: {reader.get('use') or 'by nobody'}"] if said["change"] == "used" else []
    words += [f"({reader['error']})"] if "error" in reader else []
    words += [f"and {said['missed']} changes before that"] if said.get("missed") else []
    return "  ".join(words)


_WORDS = {
    "added": "reader is there",
    "gone": "reader is gone",
    "inserted": "card inserted",
    "removed": "card removed",
    "used": "card",
    "fault": "card or reader",
    "flapping": "changes too often: looked at once a second",
    "calm": "is calm again",
}
