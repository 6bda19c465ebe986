"""`p11host events`: what happens to slots, readers and cards, in one stream."""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import broker_for
from p11host.text import printable

if TYPE_CHECKING:
    from p11host.cards.serving import Serving
    from p11host.cards.slots import Slot, Slots
    from p11host.cards.subscriber import Subscriber

Event = Mapping[str, Any]
Told = queue.Queue[Event]
#: Events that wait to be printed. Who tells of more waits himself: the broker keeps them, or says how many.
_MOST = 256
#: Seconds until slots are waited for again, where a wait fails.
_PAUSE = 1.0
_PROGRAM = "p11host events"


@click.command(short_help="Print what happens to slots, readers and cards.")
@config_option
@json_option
def events(config: Path | None, *, as_json: bool) -> None:
    """Print what happens to slots, readers and cards, until interrupted.

    Slot events are those that any application gets by C_WaitForSlotEvent, of all modules; with each stands
    the token that is there then. Events of readers and cards are the broker's, where a module reaches PC/SC:
    first what there is, then each change.
    With --json there is one object a line.
    """
    from p11host import shim_path  # noqa: PLC0415
    from p11host.cards.serving import Serving  # noqa: PLC0415
    from p11host.cards.slots import Slots  # noqa: PLC0415
    from p11host.cards.subscriber import Subscriber, connector  # noqa: PLC0415
    from p11host.cli.readers import change_data  # noqa: PLC0415
    from p11host.start import open_door  # noqa: PLC0415

    told: Told = queue.Queue(_MOST)
    with contextlib.ExitStack() as stack:
        stack.enter_context(broker_for(config))
        door = stack.enter_context(open_door(start=True))
        channel = stack.enter_context(door.open(_PROGRAM))
        modules = [module["name"] for module in channel.call("status", [{}])["modules"]]
        owners = Owners(stack.enter_context(Serving(channel, modules)))
        slots = stack.enter_context(Slots(shim_path()))
        slots.numbers(with_token=True)  # what changes from now on is an event
        if channel.call("readers", [{}])["modules"]:
            subscriber = stack.enter_context(Subscriber(connector(door, _PROGRAM)))
            told.put(_now() | {"source": "readers"} | change_data(subscriber.begin()))
            threading.Thread(target=_tell_readers, args=(subscriber, told), daemon=True).start()
        threading.Thread(target=_tell_slots, args=(slots, owners, told), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                event = told.get()
                click.echo(json.dumps(event) if as_json else line(event))


class Owners:
    """Whose a slot is, by its description."""

    def __init__(self, serving: "Serving") -> None:
        self._serving = serving
        self._known: dict[str, set[str]] = {}
        self._ask()

    def of(self, slot: "Slot") -> str | None:
        """Return the one module that has a slot of that description; None if there are more, or none."""
        if slot.description not in self._known:
            self._ask()
        names = self._known.setdefault(slot.description, set())
        return next(iter(names)) if len(names) == 1 else None

    def _ask(self) -> None:
        for served in self._serving.ask():
            self._known.setdefault(served.description, set()).add(served.module)


def _tell_slots(slots: "Slots", owners: Owners, told: Told) -> None:
    """Tell of every slot event; of waits that fail, once for each way in which they do."""
    from p11host.cards.slots import WaitError  # noqa: PLC0415

    last = ""
    while True:
        try:
            slot = slots.wait()
        except WaitError as error:
            if str(error) != last:
                last = str(error)
                told.put(_now() | {"source": "slots", "error": last})
            time.sleep(_PAUSE)
            continue
        last = ""
        said = asdict(slot)
        module = said.pop("module") or owners.of(slot)
        told.put(_now() | {"source": "slot", "slot": said.pop("number"), "module": module} | said)


def _tell_readers(subscriber: "Subscriber", told: Told) -> None:
    from p11host.cli.readers import change_data, change_line  # noqa: PLC0415

    while (said := subscriber.hear(None)) is not None:
        told.put(_now() | {"source": "reader", "text": change_line(said)} | change_data(said))


def _now() -> dict[str, Any]:
    return {"time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}


def line(event: Event) -> str:
    """Return an event in words."""
    clock = datetime.fromisoformat(event["time"]).astimezone()
    return f"{clock:%H:%M:%S}.{clock.microsecond // 1000:03d}  {printable(_words(event))}"


def _words(event: Event) -> str:
    if event["source"] == "reader":
        return str(event["text"])
    if event["source"] == "readers":
        full = sum(reader["card"] for reader in event["readers"])
        return f"PC/SC: {event['service']}, {len(event['readers'])} readers, {full} with a card"
    if event["source"] == "slots":
        return f"slots cannot be waited for: {event['error']}"
    token = f"token {event['token']!r}" if event["token"] is not None else "no token"
    where = ", ".join(filter(None, (event["module"], event["description"])))
    return f"slot {event['slot']} ({where})  {event['error'] or token}"
