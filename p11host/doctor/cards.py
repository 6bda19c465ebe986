"""Readers and cards, as the broker that serves us sees them, and what keeps them from being used.

Knows the broker's `readers`, and how a card is tried: by a connection that leaves it as it is.
"""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from p11host.cards.atr import described
from p11host.cards.codes import (
    AccessError,
    CardError,
    NoPyscardError,
    NoServiceError,
    SharingError,
    error_named,
    error_of,
)
from p11host.cards.holders import applications, programs
from p11host.cards.layer import Pyscard
from p11host.cards.reach import service_of
from p11host.cards.subscriber import name_of
from p11host.client import Door
from p11host.config import Module
from p11host.doctor.findings import Finding, Part, ok, problem
from p11host.doctor.surroundings import kept_from
from p11host.errors import P11HostError
from p11host.together import together

#: Seconds in which the broker answers, and in which PC/SC has tried a card.
PATIENCE, TRIAL = 10.0, 10.0
SHARE = "end the program that has it, often GnuPG's scdaemon (gpgconf --kill scdaemon), or have it share"
_PROGRAM = "p11host doctor"
_DRIVER = "unplug the reader and plug it in again; see what pcscd logs of its driver: journalctl -u pcscd"


@dataclass(frozen=True, slots=True)
class Cards:
    """What was found of readers, None where it is left alone.

    `remedies` are by modules that reach PC/SC: what helps where their slots fail, as far as readers tell.
    """

    part: Part | None = None
    remedies: Mapping[str, str] = field(default_factory=dict)


def cards(modules: Sequence[Module], door: Door | None) -> Cards:
    """Return what there is to say of readers. Where no module reaches PC/SC nobody asks."""
    if door is None or all(service_of(module) is None for module in modules):
        return Cards()
    try:
        with door.open(_PROGRAM, PATIENCE) as channel:
            said = channel.call("readers", [{}], PATIENCE)
            status = channel.call("status", [{}], PATIENCE)
    except (P11HostError, OSError) as error:
        return Cards(Part("cards", (problem(error),)))
    facts = {"service": said["service"], "readers": [_facts(reader) for reader in said["readers"]]}
    of_readers = tuple(_of_readers(said, status))
    remedy = next((finding.do for finding in of_readers if finding.do), "")
    remedies = dict.fromkeys(said["modules"], remedy)
    return Cards(Part("cards", (*_findings(said), *of_readers), facts), remedies)


def _findings(said: Mapping[str, Any]) -> Iterator[Finding]:
    service, readers = said["service"], said["readers"]
    if service == "unknown":
        do = "see what it hangs in: journalctl -u pcscd; then: systemctl restart pcscd"
        yield Finding("problem", "PC/SC does not answer", do)
    elif service != "ok":
        yield _of_service(service, Path(said["place"]))
    elif not readers:
        do = "plug one in; if it is, install its driver: apt-get install libccid; see: journalctl -u pcscd"
        yield Finding("warning", "PC/SC answers and has no reader", do)
    else:
        full = sum(reader["card"] for reader in readers)
        count = f"{len(readers)} reader{'' if len(readers) == 1 else 's'}"
        yield ok(f"PC/SC answers: {count}, {full} with a card")


def _of_readers(said: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Finding]:
    readers = said["readers"]
    trials = {name_of(each): partial(_of_card, each, said["place"]) for each in readers if _is_tried(each)}
    tried = dict(together(trials))
    for reader in readers:
        yield from _of_reader(reader, tried)
    if any(finding.do == SHARE for finding in tried.values()):
        yield from _of_holders(status, said["modules"])


def _of_holders(status: Mapping[str, Any], modules: Sequence[str]) -> Iterator[Finding]:
    """Yield who may have a card for itself: PC/SC does not say who has."""
    found = [*applications(status, modules, _PROGRAM), *programs(status["pid"])]
    if found:
        yield Finding("note", f"who may have it: {', '.join(found)}")


def _of_service(name: str, place: Path) -> Finding:
    """Return why there are no readers. Where nobody has PC/SC that may be as it should."""
    error = error_named(name)
    if isinstance(error, AccessError):
        return kept_from(place, error.name)
    mild = isinstance(error, NoServiceError | NoPyscardError)
    return Finding("warning" if mild else "problem", error.brief, error.do)


def _of_reader(reader: Mapping[str, Any], tried: Mapping[str, Finding]) -> Iterator[Finding]:
    name = name_of(reader)
    if name in tried:
        yield tried[name]
    elif reader.get("fault") == "unavailable":
        error = error_named(reader["error"], name)
        yield Finding("problem", f"{name}: the reader is known and its driver fails ({error.name})", _DRIVER)
    if reader.get("flapping"):
        yield Finding("warning", f"{name}: changes too often, and is looked at once a second", _DRIVER)


def _of_card(reader: Mapping[str, Any], place: str) -> Finding:
    """Return what PC/SC says to one more that wants the card."""
    error = trial(name_of(reader), place)
    if isinstance(error, SharingError):
        return Finding("warning", error.brief, SHARE)
    if error is not None:
        return Finding("problem", error.brief, error.do)
    what = described(reader.get("atr", b"")) or "a card"
    return ok(f"{name_of(reader)}: {what}{', in use' if reader.get('use') else ''}")


def _is_tried(reader: Mapping[str, Any]) -> bool:
    return bool(reader["card"]) and reader.get("fault") != "unavailable"


def trial(name: str, place: str) -> CardError | None:
    """Try a card; return what is wrong. PC/SC that does not return is left to itself."""
    told: queue.SimpleQueue[CardError | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            try_card(name, place)
        except CardError as error:
            told.put(error_of(error.code, name))
        else:
            told.put(None)

    threading.Thread(target=run, daemon=True).start()
    try:
        return told.get(timeout=TRIAL)
    except queue.Empty:
        return error_named("SCARD_E_TIMEOUT", name)


def try_card(name: str, place: str) -> None:
    """Connect to a card as one of several, and leave it as it is. Raises CardError."""
    layer = Pyscard(place)
    context = layer.establish()
    try:
        layer.try_card(context, name)
    finally:
        layer.release(context)


def _facts(reader: Mapping[str, Any]) -> dict[str, Any]:
    said = dict(reader) | {"name": name_of(reader)}
    return said | {"atr": reader["atr"].hex()} if "atr" in said else said
