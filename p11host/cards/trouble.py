"""What PC/SC says is wrong with readers and cards, told to whoever finds that a token cannot be had.

Knows the method `readers` of PROTOCOL.md section 6. Asks no card for anything.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from p11host.cards.codes import CardError, error_named
from p11host.cards.serving import is_of
from p11host.cards.subscriber import State, name_of
from p11host.client import Channel
from p11host.errors import P11HostError
from p11host.inventory import Module, Slot

#: Seconds in which the broker answers.
PATIENCE = 10.0


def ask(channel: Channel) -> list[CardError]:
    """Ask a broker what keeps others from readers and cards; nothing does where no module reaches PC/SC."""
    return list(errors_in(channel.call("readers", [{}], PATIENCE)))


def errors_in(said: State) -> Iterator[CardError]:
    """Yield the errors that a broker has told of: PC/SC's own, or those of readers."""
    if said["modules"] and said["service"] not in ("ok", "unknown"):
        yield error_named(said["service"])
    elif said["modules"]:
        yield from (error_named(each["error"], name_of(each)) for each in said["readers"] if "error" in each)


def explain_slots(modules: Sequence[Module], channel: Channel) -> list[Module]:
    """Return modules with what PC/SC says of their slots that fail. It is asked only if there are such.

    Where nobody can say that, they are as they were.
    """
    if not any(slot.error for module in modules for slot in module.slots):
        return list(modules)
    try:
        said: State = channel.call("readers", [{}], PATIENCE)
    except (P11HostError, OSError):
        return list(modules)
    # Without PC/SC a module that uses it has no slots: these fail for another reason.
    found = [error for error in errors_in(said) if error.where]
    return [_explained(module, found) if module.name in said["modules"] else module for module in modules]


def _explained(module: Module, errors: Sequence[CardError]) -> Module:
    known = [slot.description for slot in module.slots]
    return replace(module, slots=tuple(_with_reason(slot, errors, known) for slot in module.slots))


def _with_reason(slot: Slot, errors: Iterable[CardError], known: Sequence[str]) -> Slot:
    """Return a slot whose error has those of its reader beside it.

    One that is not described may be of any reader that no slot is known to be of.
    """
    mine = [slot.description] if slot.description else []
    reasons = [
        error.brief
        for error in errors
        if any(is_of(each, error.where) for each in mine)
        or not (mine or any(is_of(each, error.where) for each in known))
    ]
    if slot.error is None or not reasons:
        return slot
    return replace(slot, error="; ".join([slot.error.partition(":")[0], *reasons]))
