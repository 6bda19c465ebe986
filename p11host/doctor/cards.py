"""Readers and cards, as the broker that serves us sees them, and what keeps them from being used.

Knows the broker's `readers`, and how a card is tried: by a connection that leaves it as it is.
"""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from p11host.cards.atr import described
from p11host.cards.codes import CardError, NoPyscardError, NoServiceError, SharingError, error_named
from p11host.cards.layer import Pyscard
from p11host.cards.reach import service_of
from p11host.client import Door
from p11host.config import Module
from p11host.doctor.findings import Finding, Part, ok, problem
from p11host.errors import P11HostError
from p11host.together import together

#: Seconds in which the broker answers, and in which PC/SC has tried a card.
PATIENCE, TRIAL = 10.0, 10.0
_HOLDERS = "end the program that has it, often GnuPG's scdaemon (gpgconf --kill scdaemon), or have it share"
_DRIVER = "unplug the reader and plug it in again; see what pcscd logs of its driver: journalctl -u pcscd"


def cards(modules: Sequence[Module], door: Door | None) -> Part | None:
    """Return what there is to say of readers; None where no module reaches PC/SC: it is left alone."""
    if door is None or all(service_of(module) is None for module in modules):
        return None
    try:
        with door.open("p11host doctor", PATIENCE) as channel:
            said = channel.call("readers", [{}], PATIENCE)
    except (P11HostError, OSError) as error:
        return Part("cards", (problem(error),))
    facts = {"service": said["service"], "readers": [_facts(reader) for reader in said["readers"]]}
    return Part("cards", tuple(_findings(said)), facts)


def _findings(said: Mapping[str, Any]) -> Iterator[Finding]:
    service, readers = said["service"], said["readers"]
    if service == "unknown":
        do = "see what it hangs in: journalctl -u pcscd; then: systemctl restart pcscd"
        yield Finding("problem", "PC/SC does not answer", do)
    elif service != "ok":
        yield _of_service(service)
    elif not readers:
        do = "plug one in; if it is, install its driver: apt-get install libccid; see: journalctl -u pcscd"
        yield Finding("warning", "PC/SC answers and has no reader", do)
    else:
        full = sum(reader["card"] for reader in readers)
        count = f"{len(readers)} reader{'' if len(readers) == 1 else 's'}"
        yield ok(f"PC/SC answers: {count}, {full} with a card")
    trials = {_name(each): partial(_of_card, each, said["place"]) for each in readers if _is_tried(each)}
    tried = dict(together(trials))
    for reader in readers:
        yield from _of_reader(reader, tried)


def _of_service(name: str) -> Finding:
    """Return why there are no readers. Where nobody has PC/SC that may be as it should."""
    error = error_named(name)
    found = problem(error)
    mild = isinstance(error, NoServiceError | NoPyscardError)
    return Finding("warning" if mild else "problem", found.text, found.do)


def _of_reader(reader: Mapping[str, Any], tried: Mapping[str, Finding]) -> Iterator[Finding]:
    name = _name(reader)
    if name in tried:
        yield tried[name]
    elif reader.get("fault") == "unavailable":
        yield Finding("problem", f"{name}: the reader is known and its driver fails", _DRIVER)
    if reader.get("flapping"):
        yield Finding("warning", f"{name}: changes too often, and is looked at once a second", _DRIVER)


def _of_card(reader: Mapping[str, Any], place: str) -> Finding:
    """Return what PC/SC says to one more that wants the card."""
    name = _name(reader)
    error = trial(name, place)
    if isinstance(error, SharingError):
        return Finding("warning", f"{name}: {error.said} ({error.name})", _HOLDERS)
    if error is not None:
        return Finding("problem", f"{name}: {error.said} ({error.name})", error.do)
    what = described(reader.get("atr", b"")) or "a card"
    return ok(f"{name}: {what}{', in use' if reader.get('use') else ''}")


def _is_tried(reader: Mapping[str, Any]) -> bool:
    return bool(reader["card"]) and reader.get("fault") != "unavailable"


def _name(reader: Mapping[str, Any]) -> str:
    name: bytes = reader["name"]
    return name.decode(errors="surrogateescape")


def trial(name: str, place: str) -> CardError | None:
    """Try a card; return what is wrong. PC/SC that does not return is left to itself."""
    told: queue.SimpleQueue[CardError | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            try_card(name, place)
        except CardError as error:
            told.put(error)
        else:
            told.put(None)

    threading.Thread(target=run, daemon=True).start()
    try:
        return told.get(timeout=TRIAL)
    except queue.Empty:
        return error_named("SCARD_E_TIMEOUT")


def try_card(name: str, place: str) -> None:
    """Connect to a card as one of several, and leave it as it is. Raises CardError."""
    layer = Pyscard(place)
    context = layer.establish()
    try:
        layer.try_card(context, name)
    finally:
        layer.release(context)


def _facts(reader: Mapping[str, Any]) -> dict[str, Any]:
    said = dict(reader) | {"name": _name(reader)}
    return said | {"atr": reader["atr"].hex()} if "atr" in said else said
