"""Which tokens and objects a URI names.

Knows how Cryptoki's structures and a URI's attributes answer each other (RFC 7512, section 2.3).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pkcs11
from pkcs11 import Attribute, ObjectClass, TokenFlag

from p11host.errors import NotFoundError, P11HostError
from p11host.inventory import owners
from p11host.probe import Probe
from p11host.text import printable
from p11host.tokens.failure import explain, slot_failure
from p11host.uri import Kind, Uri, UriError, Value

CLASSES: Mapping[Kind, ObjectClass] = {
    "public": ObjectClass.PUBLIC_KEY,
    "private": ObjectClass.PRIVATE_KEY,
    "cert": ObjectClass.CERTIFICATE,
    "secret-key": ObjectClass.SECRET_KEY,
    "data": ObjectClass.DATA,
}
KINDS: Mapping[ObjectClass, Kind] = {each: kind for kind, each in CLASSES.items()}


@dataclass(frozen=True, slots=True)
class Shim:
    """The slots that are there, and what their modules said, if a URI needs to know that.

    `card_errors` asks what PC/SC says is wrong with readers, where slots fail.
    """

    slots: Sequence[pkcs11.Slot]
    probes: Sequence[Probe] = ()
    card_errors: Callable[[], Sequence[P11HostError]] = list


def asks_of_modules(uri: Uri) -> bool:
    """Tell whether modules must be asked to know what a URI names."""
    library = (uri.library_manufacturer, uri.library_description, uri.library_version)
    return uri.module_name is not None or library != (None, None, None)


def refuse_path(uri: Uri) -> None:
    """Raise UriError if a URI names a module by its path, which only the configuration may do."""
    if uri.module_path is not None:
        raise UriError("module-path: modules have names here; use module-name=NAME, and see: p11host list")


def find_slots(shim: Shim, uri: Uri) -> list[pkcs11.Slot]:
    """Return the slots that a URI names, with a token or without."""
    refuse_path(uri)
    slots = [slot for slot in shim.slots if uri.fits(_of_slot(slot))]
    if not asks_of_modules(uri):
        return slots
    names = list(owners(shim.probes, [slot.slot_description for slot in shim.slots]))
    owner = {slot.slot_id: name for slot, name in zip(shim.slots, names, strict=True)}
    fitting = {probe.name for probe in shim.probes if fits_module(uri, probe)}
    return [slot for slot in slots if owner[slot.slot_id] in fitting]


def fits_module(uri: Uri, probe: Probe) -> bool:
    """Tell whether a URI names a module, as far as it says anything of modules."""
    if uri.module_name not in (None, probe.name):
        return False
    if probe.library is None:
        return (uri.library_manufacturer, uri.library_description, uri.library_version) == (None, None, None)
    major, _, minor = probe.library.version.partition(".")
    facts: Mapping[str, Value] = {
        "library_manufacturer": probe.library.manufacturer,
        "library_description": probe.library.description,
        "library_version": (int(major), int(minor)),
    }
    return uri.fits(facts)


def find_tokens(shim: Shim, uri: Uri, *, blank: bool | None = False) -> list[pkcs11.Token]:
    """Return the tokens that a URI names: the initialised ones, those that are not (`blank`), or all (None).

    NotFoundError if there is none, with what is wrong with slots that might have had it.
    """
    looks = [(slot, _look(slot)) for slot in find_slots(shim, uri)]
    found = [
        look
        for _, look in looks
        if isinstance(look, pkcs11.Token) and uri.fits(token_facts(look)) and blank in (None, is_blank(look))
    ]
    if not found:
        ill = [f"slot {slot.slot_id}: {look}" for slot, look in looks if isinstance(look, str)]
        why = "; ".join(_reasons(shim, uri, ill)) or "see what there is with: p11host list --uri"
        raise NotFoundError(f"{shown(uri)}: names no token; {why}")
    return found


def _look(slot: pkcs11.Slot) -> pkcs11.Token | str | None:
    """Return a slot's token, None if it has none, or in words why that cannot be told."""
    try:
        return slot_failure(slot) or slot.get_token()
    except pkcs11.TokenNotPresent:
        return None
    except pkcs11.PKCS11Error as error:
        return explain(error)


def _reasons(shim: Shim, uri: Uri, ill: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong where a token may be: with modules, with slots, with readers and cards."""
    for probe in shim.probes:
        if probe.error and fits_module(uri, probe):
            yield f"module {probe.name}: {probe.error}"
    yield from ill
    if ill:
        yield from map(str, shim.card_errors())


def find_token(shim: Shim, uri: Uri, *, blank: bool | None = False) -> pkcs11.Token:
    """Return the one token that a URI names; NotFoundError if there is none, or another."""
    found = find_tokens(shim, uri, blank=blank)
    if len(found) > 1:
        which = ", ".join(f"{name(token)} serial {serial(token)}" for token in found[:4])
        raise NotFoundError(f"{shown(uri)}: names {len(found)} tokens ({which}); add token=… or serial=…")
    return found[0]


def find_objects(session: pkcs11.Session, uri: Uri) -> list[pkcs11.Object]:
    """Return the objects of a session's token that a URI names, as far as whoever is logged in sees them."""
    template: dict[Attribute, object] = {}
    if uri.type is not None:
        template[Attribute.CLASS] = CLASSES[uri.type]
    if uri.object is not None:
        template[Attribute.LABEL] = uri.object
    if uri.id is not None:
        template[Attribute.ID] = uri.id
    try:
        return list(session.get_objects(template))
    except ValueError as error:
        raise P11HostError(
            f"{shown(uri)}: names objects of a class unknown here; say which are meant with type=…"
        ) from error


def find_object(session: pkcs11.Session, uri: Uri, kinds: Sequence[Kind], hint: str = "") -> pkcs11.Object:
    """Return the one object of these kinds that a URI names; NotFoundError if there is none, or another."""
    if uri.type is not None and uri.type not in kinds:
        raise UriError(f"{shown(uri)}: type is {uri.type}; this needs {' or '.join(kinds)}")
    found = [each for kind in kinds if uri.type in (None, kind) for each in _of_kind(session, uri, kind)]
    if not found:
        why = hint or f"see what there is with: p11host list --uri --login '{shown(uri)}'"
        raise NotFoundError(f"{shown(uri)}: names no object of type {' or '.join(kinds)}; {why}")
    if len(found) > 1:
        raise NotFoundError(f"{shown(uri)}: names {len(found)} objects; add type=…, object=… or id=…")
    return found[0]


def _of_kind(session: pkcs11.Session, uri: Uri, kind: Kind) -> list[pkcs11.Object]:
    return find_objects(session, replace(uri, type=kind))


def is_blank(token: pkcs11.Token) -> bool:
    """Tell whether a token is still to be initialised."""
    return TokenFlag.TOKEN_INITIALIZED not in token.flags


def name(token: pkcs11.Token) -> str:
    """Return what a token is called in a message."""
    return f"'{printable(token.label)}'" if token.label else f"the token in slot {token.slot.slot_id}"


def serial(token: pkcs11.Token) -> str:
    """Return a token's serial number as text."""
    return token.serial.decode(errors="replace").rstrip("\0 ")


def shown(uri: Uri) -> str:
    """Return a URI for a message: without its PIN, or where that is."""
    return str(replace(uri, pin_source=None, pin_value=None))


def token_facts(token: pkcs11.Token) -> Mapping[str, Value]:
    """Return what a URI may say of a token."""
    return {
        "token": token.label,
        "manufacturer": token.manufacturer_id,
        "serial": serial(token),
        "model": token.model,
    }


def _of_slot(slot: pkcs11.Slot) -> Mapping[str, Value]:
    return {
        "slot_id": slot.slot_id,
        "slot_description": slot.slot_description,
        "slot_manufacturer": slot.manufacturer_id,
    }


def uri_of_token(token: pkcs11.Token) -> Uri:
    """Return a URI that names a token."""
    return Uri(**token_facts(token))  # type: ignore[arg-type]


def uri_of(token: pkcs11.Token, found: pkcs11.Object) -> Uri:
    """Return a URI that names an object of a token, as exactly as its label, type and id allow."""
    kind = KINDS.get(read(found, Attribute.CLASS))
    label = read(found, Attribute.LABEL) or None
    return replace(uri_of_token(token), object=label, type=kind, id=read(found, Attribute.ID) or None)


def read(found: pkcs11.Object, attribute: Attribute) -> Any:
    """Return an attribute, None where the object does not have it, keeps it, or has it in a broken form."""
    try:
        return found[attribute]
    except (pkcs11.PKCS11Error, ValueError, NotImplementedError):
        return None
