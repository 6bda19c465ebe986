"""What one module says for itself: its helper asked directly, as any Python program can ask it.

Knows three functions of Cryptoki by their rows in specs/functions.toml. Must not know the shim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from p11host.client import ULONG, Attached, Channel, Door
from p11host.codes import ckr
from p11host.limits import limits
from p11host.wire import Value, WireError

_CKR_OK = 0


@dataclass(frozen=True, slots=True)
class Library:
    """CK_INFO of a provider, and how many bits it has."""

    manufacturer: str
    description: str
    version: str
    cryptoki: str
    bits: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A module's answer, or its `error` in a line.

    `slots` are the descriptions of its slots, in order, None for one that it does not describe.
    """

    name: str
    error: str | None
    library: Library | None
    slots: tuple[str | None, ...]


def probe(module: Attached, timeout: float | None = None, *, slots: bool = True) -> Probe:
    """Ask the helper of an attached module, whose door this closes.

    It is waited for `timeout` seconds, without one as long as limits.toml says. `slots`: about these too.
    """
    if module.door is None:
        return Probe(module.name, module.error or "the broker gave no door", None, ())
    try:
        with Door.of_helper(module.door) as door, door.open("p11host list", timeout) as channel:
            found = tuple(_slots(channel, module)) if slots else ()
            return Probe(module.name, None, _library(channel, module), found)
    except WireError as error:
        return Probe(module.name, error.text, None, ())
    except OSError as error:
        return Probe(module.name, str(error), None, ())


def _library(channel: Channel, module: Attached) -> Library:
    (cryptoki, manufacturer, _, description, version) = _call(channel, module, "C_GetInfo", [True])
    return Library(
        _text(manufacturer),
        _text(description),
        _version(version),
        _version(cryptoki),
        8 * (channel.hello.ulong or ULONG),
    )


def _slots(channel: Channel, module: Attached) -> Sequence[str | None]:
    most = limits().module_slots
    count, _ = _list(channel, module, [False, [False, 0]])
    if not 0 <= count <= most:
        raise WireError("failed", too_many(count))
    _, listed = _list(channel, module, [False, [True, most]])
    numbers = dict.fromkeys(listed)  # an application sees none twice
    return [_description(channel, module, number) for number in numbers]


def _description(channel: Channel, module: Attached, number: int) -> str | None:
    """Return a slot's description; an error of one is none of the others'."""
    rv, *outputs = channel.call("C_GetSlotInfo", [number, True], timeout=module.short / 1000 or None)
    return _text(outputs[0][0]) if rv == _CKR_OK else None


def too_many(count: int) -> str:
    """Return why a module that says it has so many slots shows none."""
    said = count % (1 << 64)
    return (
        f"it has {said} slots, and applications see none of them: a module may have {limits().module_slots}; "
        "name those that are needed in `tokens` (docs/configuration.md)"
    )


def _list(channel: Channel, module: Attached, params: Sequence[Value]) -> Value:
    """Return the slots, for which a module is waited for no longer than any list waits."""
    most = min((ms for ms in (module.short, module.list) if ms), default=0)
    try:
        return _call(channel, module, "C_GetSlotList", params, most)
    except TimeoutError:
        text = f"C_GetSlotList: no answer in {most / 1000:g} s; its slots come when it has answered"
        raise WireError("failed", text) from None


def _call(
    channel: Channel, module: Attached, function: str, params: Sequence[Value], most: int | None = None
) -> Value:
    """Return the one output of a function, or raise WireError with the name of its CK_RV."""
    milliseconds = module.short if most is None else most
    rv, *outputs = channel.call(function, params, timeout=milliseconds / 1000 or None)
    if rv != _CKR_OK:
        raise WireError("failed", f"{function}: {ckr(rv)}")
    return outputs[0]


def _text(data: bytes) -> str:
    return data.decode(errors="replace").rstrip("\0 ")


def _version(parts: Sequence[int]) -> str:
    return ".".join(map(str, parts))
