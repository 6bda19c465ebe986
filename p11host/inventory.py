"""Modules, slots, tokens and objects, as an application sees them through the shim.

Knows python-pkcs11 and asn1crypto. Must not know how any of it is shown, nor keep a PIN.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pkcs11
from pkcs11 import Attribute, ObjectClass, TokenFlag

from p11host.errors import LoginError
from p11host.facts import Facts
from p11host.probe import Library, Probe
from p11host.slot_errors import module_of, want
from p11host.tokens.failure import explain, slot_failure

#: Opens a session on a token, logged in or not.
Open = Callable[[pkcs11.Token], AbstractContextManager[pkcs11.Session]]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a person wants to know of an X.509 certificate; `name` is short for the subject, times are UTC."""

    name: str
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Item:
    """An object of a token. `id` is in hexadecimal, `bits` the length of a key."""

    kind: str
    label: str
    id: str
    key_type: str | None = None
    bits: int | None = None
    certificate: Certificate | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its objects: the public ones, and the private ones where somebody logged in."""

    label: str
    manufacturer: str
    model: str
    serial: str
    flags: tuple[str, ...]
    objects: tuple[Item, ...]
    error: str | None


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot under the number it has in the shim; without a token, or with an `error` for one.

    One that its module fails to describe has an `error` alone.
    """

    id: int
    description: str
    manufacturer: str
    token: Token | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Module:
    """A module with its slots, or with the error that keeps it from any; what its `file` looks like."""

    name: str
    path: str
    error: str | None
    library: Library | None
    slots: tuple[Slot, ...]
    file: Facts | None = None


def take(probes: Sequence[Probe], paths: Mapping[str, str], shim: str, opened: Open) -> list[Module]:
    """Return every probed module with what the shim shows of its slots."""
    modules = [Module(each.name, paths.get(each.name, ""), each.error, each.library, ()) for each in probes]
    want()
    try:
        slots = pkcs11.lib(shim).get_slots()
    except pkcs11.PKCS11Error as error:
        return [
            replace(module, error=module.error or f"through the shim: {explain(error)}") for module in modules
        ]
    owned = list(zip(owners(probes, [slot.slot_description for slot in slots]), slots, strict=True))
    return [
        replace(module, slots=tuple(_slot(slot, opened) for owner, slot in owned if owner == module.name))
        for module in modules
    ]


def owners(probes: Sequence[Probe], descriptions: Sequence[str]) -> Iterator[str | None]:
    """Yield for each slot of the shim the module it belongs to.

    The shim's slots are those of the modules, one module after the other. A slot that came or went since the
    modules were probed is told by its description; one without a description may have one now.
    """
    expected = deque((probe.name, description) for probe in probes for description in probe.slots)
    names = {probe.name for probe in probes}
    for description in descriptions:
        while (
            expected and expected[0][1] != description and any(known == description for _, known in expected)
        ):
            expected.popleft()
        if expected and expected[0][1] in (description, None):
            yield expected.popleft()[0]
        else:
            name = module_of(description)
            yield name if name in names else None


def _slot(slot: pkcs11.Slot, opened: Open) -> Slot:
    failed = slot_failure(slot)
    if failed is not None:
        return Slot(slot.slot_id, "", "", None, failed)
    token, error = None, None
    try:
        token = _token(slot.get_token(), opened)
    except pkcs11.TokenNotPresent:
        pass
    except pkcs11.PKCS11Error as failure:
        error = explain(failure)
    return Slot(slot.slot_id, slot.slot_description, slot.manufacturer_id, token, error)


def _token(token: pkcs11.Token, opened: Open) -> Token:
    objects: tuple[Item, ...] = ()
    error = None
    if TokenFlag.TOKEN_INITIALIZED in token.flags:
        try:
            objects, error = _objects(token, opened)
        except pkcs11.PKCS11Error as failure:
            error = explain(failure)
        except LoginError as failure:
            error = str(failure)
    flags = tuple(flag.name.lower() for flag in TokenFlag if flag in token.flags and flag.name)
    serial = token.serial.decode(errors="replace").rstrip("\0 ")
    return Token(token.label, token.manufacturer_id, token.model, serial, flags, objects, error)


def _objects(token: pkcs11.Token, opened: Open) -> tuple[tuple[Item, ...], str | None]:
    with opened(token) as session:
        items, whole = _items(session.get_objects())
        if not whole:
            items = [
                item
                for known in ObjectClass
                for item in _items(session.get_objects({Attribute.CLASS: known}))[0]
            ]
    return tuple(items), None if whole else "has objects of a class or type unknown here, not shown"


def _items(found: Iterable[pkcs11.Object]) -> tuple[list[Item], bool]:
    """Return objects up to the first whose class or type python-pkcs11 does not know, and if that is all."""
    items: list[Item] = []
    try:
        items.extend(map(_item, found))
    except ValueError:
        return items, False
    return items, True


def _item(found: pkcs11.Object) -> Item:
    kind = _read(found, Attribute.CLASS)
    item = Item(
        kind=_word(kind) or "object",
        label=_read(found, Attribute.LABEL) or "",
        id=(_read(found, Attribute.ID) or b"").hex(),
        key_type=_word(_read(found, Attribute.KEY_TYPE)),
        bits=_bits(found, kind),
    )
    return _with_certificate(item, found) if kind == ObjectClass.CERTIFICATE else item


def _with_certificate(item: Item, found: pkcs11.Object) -> Item:
    data = _read(found, Attribute.VALUE)
    if not data:
        return replace(item, error="no value")
    try:
        return replace(item, certificate=certificate(data))
    except (ValueError, TypeError) as error:
        return replace(item, error=f"not X.509: {str(error).splitlines()[0]}")


def certificate(data: bytes) -> Certificate:
    """Return what matters of an X.509 certificate in DER; ValueError or TypeError if it is none."""
    from asn1crypto import x509  # noqa: PLC0415 (50 ms, for tokens that have one)

    parsed = x509.Certificate.load(data, strict=True)
    common = parsed.subject.native.get("common_name")
    return Certificate(
        common if isinstance(common, str) else parsed.subject.human_friendly,
        parsed.subject.human_friendly,
        parsed.issuer.human_friendly,
        parsed.not_valid_before,
        parsed.not_valid_after,
    )


def _bits(found: pkcs11.Object, kind: object) -> int | None:
    """Return a key's length: of the modulus, of the curve's field, of the value."""
    if kind not in {ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY}:
        return None
    if modulus := _read(found, Attribute.MODULUS):
        return int.from_bytes(modulus, "big").bit_length()
    if kind == ObjectClass.SECRET_KEY:
        length = _read(found, Attribute.VALUE_LEN)
        return None if length is None else int(length) * 8
    return _curve_bits(_read(found, Attribute.EC_PARAMS))


def _curve_bits(params: bytes | None) -> int | None:
    from asn1crypto import keys  # noqa: PLC0415

    try:
        size = keys.ECDomainParameters.load(params or b"").key_size
    except (ValueError, TypeError, KeyError):
        return None
    return int(size) * 8


def _read(found: pkcs11.Object, attribute: Attribute) -> Any:
    """Return an attribute, None where the object does not have it, keeps it, or has it in a broken form."""
    try:
        return found[attribute]
    except (pkcs11.PKCS11Error, ValueError, NotImplementedError):
        return None


def _word(value: int | None) -> str | None:
    """Return PRIVATE_KEY as "private key", and a number that has no name as it is."""
    if value is None:
        return None
    name = getattr(value, "name", None)
    return name.lower().replace("_", " ") if name else f"{value:#x}"
