"""One module: does it load, in what time, and what does it have? Asked in a helper.

Knows a few functions of Cryptoki by their rows in specs/functions.toml, and one deadline for them all.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from p11host.client import Channel, Door
from p11host.codes import ckr
from p11host.doctor.findings import Finding, Part, ok, problem
from p11host.doctor.mechanisms import Short, shortcomings
from p11host.errors import P11HostError
from p11host.limits import limits
from p11host.probe import too_many
from p11host.tables import Tables
from p11host.view import EVERYBODY, View
from p11host.wire import RefusedError, Value, WireError

#: Seconds that a module may take from its first to its last answer, and of these for a helper's hello.
ALL, START = 30.0, 15.0
#: A start that takes longer, in seconds, is felt by whoever waits for a program.
SLOW = 2.0
MOST_SLOTS, MOST_MECHANISMS = 32, 4096
_SHOWN = 3
_SUCCESS = 0
#: An output that is wanted, and slots with and without a token.
_OUT, _ANY = True, (False,)
_PRESENT, _INITIALIZED, _LOCKED, _LAST_TRY = 1, 0x400, 0x40000, 0x20000


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot under the provider's own number, and its token if it has one."""

    description: str
    token: str | None = None
    model: str = ""
    flags: int = 0
    mechanisms: tuple[int, ...] = ()
    error: str | None = None
    number: int = 0
    slot_manufacturer: str = ""
    manufacturer: str = ""
    serial: str = ""

    def facts(self) -> Mapping[str, Value]:
        """Return what a selector may say of it."""
        facts = {"slot_id": self.number, "slot_description": self.description}
        facts |= {"slot_manufacturer": self.slot_manufacturer}
        token = {
            "token": self.token,
            "model": self.model,
            "manufacturer": self.manufacturer,
            "serial": self.serial,
        }
        return facts | dict.fromkeys(token) if self.token is None else facts | token


@dataclass(frozen=True, slots=True)
class Examined:
    """What a module answered. `start` is in seconds; `interface` is the version of its function list.

    `repeated`: so many slots too many are in its list, as it has some more than once.
    """

    start: float
    bits: int
    interface: str
    library: str
    cryptoki: str
    slots: tuple[Slot, ...]
    more_slots: int
    short: tuple[Short, ...]
    repeated: int = 0


class _Asker:
    """Calls functions of a helper until the time is over."""

    def __init__(self, channel: Channel, end: float) -> None:
        self._channel = channel
        self._end = end

    def ask(self, function: str, *params: Value) -> Value:
        """Return the output of a function; P11HostError with the name of its CK_RV, or TimeoutError."""
        rv, *outputs = self._channel.call(function, list(params), max(0.1, self._end - time.monotonic()))
        if rv != _SUCCESS:
            raise P11HostError(f"{function}: {ckr(rv)}")
        return outputs[0]

    def slots(self) -> list[int]:
        """Return all slots; P11HostError if there are more than a module may have."""
        most = limits().module_slots
        count, _ = self.ask("C_GetSlotList", *_ANY, [not _OUT, 0])
        if not 0 <= count <= most:
            raise P11HostError(too_many(count))
        _, numbers = self.ask("C_GetSlotList", *_ANY, [_OUT, most])
        return list(numbers)


def examine(door: Door, name: str, rows: Tables) -> Examined:
    """Have a helper of a module and ask it; P11HostError or OSError (TimeoutError is one) if it fails."""
    begin = time.monotonic()
    with door.open("p11host doctor", START) as broker:
        attached = broker.open_module(name, START)
    if attached.door is None:
        raise P11HostError(attached.error or "the broker gave no door")
    with Door.of_helper(attached.door) as own, own.open("p11host doctor", START) as channel:
        start = time.monotonic() - begin
        return _examined(_Asker(channel, begin + ALL), channel, start, rows)


def _examined(asker: _Asker, channel: Channel, start: float, rows: Tables) -> Examined:
    cryptoki, maker, _, description, version = asker.ask("C_GetInfo", _OUT)
    listed = asker.slots()
    numbers = list(dict.fromkeys(listed))
    slots = tuple(_slot(asker, number) for number in numbers[:MOST_SLOTS])
    mechanisms = sorted({number for slot in slots for number in slot.mechanisms})
    hello = channel.hello
    return Examined(
        start=start,
        bits=8 * (hello.ulong or 0),
        interface=_version(hello.cryptoki or ()),
        library=f"{_text(description)} {_version(version)} by {_text(maker)}",
        cryptoki=_version(cryptoki),
        slots=slots,
        more_slots=len(numbers) - len(slots),
        short=shortcomings(rows, mechanisms),
        repeated=len(listed) - len(numbers),
    )


def _slot(asker: _Asker, number: int) -> Slot:
    """Return what a slot is; an error of one is no error of the others."""
    slot = Slot(f"slot {number:#x}", number=number)
    try:
        name, maker, flags, *_ = asker.ask("C_GetSlotInfo", number, _OUT)
        slot = replace(slot, description=_text(name) or slot.description, slot_manufacturer=_text(maker))
        return _with_token(asker, slot) if flags & _PRESENT else slot
    except WireError:
        raise
    except P11HostError as error:
        return replace(slot, error=str(error))


def _with_token(asker: _Asker, slot: Slot) -> Slot:
    label, maker, model, serial, flags, *_ = asker.ask("C_GetTokenInfo", slot.number, _OUT)
    _, mechanisms = asker.ask("C_GetMechanismList", slot.number, [_OUT, MOST_MECHANISMS])
    return replace(
        slot,
        token=_text(label),
        model=_text(model),
        flags=flags,
        mechanisms=tuple(mechanisms),
        manufacturer=_text(maker),
        serial=_text(serial),
    )


# ---- as findings ----


def findings(name: str, found: Examined, view: View = EVERYBODY, remedy: str = "") -> Iterator[Finding]:
    """Yield what an examination means for people, of a module that shows what `view` leaves.

    `remedy` is what helps where slots fail or are not there, if that is known already.
    """
    took = f"ready in {found.start * 1000:.0f} ms"
    versions = f"Cryptoki {found.cryptoki}, function list {found.interface}, {found.bits} bits"
    yield ok(f"{found.library}, {versions}, {took}")
    if found.start > SLOW:
        do = f"see what it waits for: applications wait as long as deadlines.start of module.{name} says"
        yield Finding("warning", f"it took {found.start:.1f} s to start", do)
    yield from _about_slots(name, found, remedy, selects=bool(view.selectors))
    for slot in found.slots:
        yield from _about_token(slot, remedy)
    yield from _about_selectors(name, found, view)
    yield from _about_mechanisms(name, found)


def _about_slots(name: str, found: Examined, remedy: str, *, selects: bool) -> Iterator[Finding]:
    total = len(found.slots) + found.more_slots
    if not total and selects:
        do = f"put in a token that `tokens` of module.{name} fits, or correct these: docs/configuration.md"
        yield Finding("warning", "its token selectors leave it no slots", do)
        return
    if not total:
        do = f"see docs/providers.md for its env, and: p11host sandbox --learn {name}"
        yield Finding("warning", "it has no slots", remedy or do)
        return
    tokens = [slot for slot in found.slots if slot.token is not None]
    named = _some([repr(slot.token) for slot in tokens if slot.flags & _INITIALIZED])
    with_tokens = f"{len(tokens)} with a token{': ' if named else ''}{named}"
    if blank := sum(not slot.flags & _INITIALIZED for slot in tokens):
        with_tokens += f", {blank} not initialised"
    yield ok(f"{total} slot{'' if total == 1 else 's'}, {with_tokens}")
    if found.repeated:
        said = f"it lists slots more than once, {found.repeated} too many; applications see each once"
        yield Finding("note", said)


def _about_selectors(name: str, found: Examined, view: View) -> Iterator[Finding]:
    """Yield the selectors that fit nothing, where all that they leave was looked at."""
    if found.more_slots or view.selectors != view.tokens:
        return
    for uri in view.tokens:
        if not any(uri.fits(slot.facts()) for slot in found.slots):
            do = f"correct it in `tokens` of module.{name}, if its token should be there"
            yield Finding("note", f"nothing that is there fits {uri}", do)


def _about_token(slot: Slot, remedy: str) -> Iterator[Finding]:
    if slot.error is not None:
        do = remedy or "see that the token is fit: list it with its own tool"
        yield Finding("problem", f"{slot.description}: {slot.error}", do)
    elif slot.flags & _LOCKED:
        do = "set a new PIN as the token's security officer"
        yield Finding("warning", f"the PIN of {slot.token!r} is locked", do)
    elif slot.flags & _LAST_TRY:
        do = "make sure of the PIN before the next login"
        yield Finding("warning", f"{slot.token!r} has one try left for its PIN", do)


def _about_mechanisms(name: str, found: Examined) -> Iterator[Finding]:
    count = len({number for slot in found.slots for number in slot.mechanisms})
    if not count:
        return
    whole = (
        "all of them carried whole"
        if not found.short
        else f"{count - len(found.short)} of them carried whole"
    )
    yield ok(f"{count} mechanisms, {whole}")
    reasons = {short.reason for short in found.short}
    for reason in sorted(reasons):
        names = [short.name for short in found.short if short.reason == reason]
        do = f"give module.{name} its vendor's rows (docs/vendors.md), if a program uses these"
        yield Finding("warning", f"{_some(names)}: {reason}", do)


def _some(names: Iterable[str]) -> str:
    """Return a few of the names, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more


def part(
    name: str,
    found: Examined | P11HostError | OSError,
    around: Iterable[Finding],
    view: View = EVERYBODY,
    remedy: str = "",
) -> Part:
    """Return what was found of a module and around it."""
    if isinstance(found, Examined):
        return Part(f"module {name}", (*findings(name, found, view, remedy), *around), _facts(found))
    if isinstance(found, RefusedError):
        return Part(f"module {name}", (Finding("note", found.text), *around))
    said = problem(found.text if isinstance(found, WireError) else found)
    do = said.do or f"see the broker's log, and: p11host sandbox {name}"
    if "CKR_ARGUMENTS_BAD" in said.text:
        do = (
            f"it may want a string for its start: module.{name}.reserved, as docs/providers.md has it for NSS"
        )
    return Part(f"module {name}", (Finding("problem", said.text, do), *around))


def _facts(found: Examined) -> dict[str, Any]:
    facts = asdict(found)
    facts["start"] = round(found.start, 4)
    return facts


def _text(data: bytes) -> str:
    return data.decode(errors="replace").rstrip("\0 ")


def _version(parts: Iterable[int]) -> str:
    return ".".join(map(str, parts))
