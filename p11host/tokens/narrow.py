"""What is left of a listing when a URI says which part of it is meant.

Knows inventory's records. Asks no token for anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from p11host.inventory import Item, Module, Slot, Token
from p11host.probe import Probe
from p11host.tokens.find import asks_of_modules, fits_module
from p11host.uri import Kind, Uri, Value

_KINDS: Mapping[str, Kind] = {
    "public key": "public",
    "private key": "private",
    "certificate": "cert",
    "secret key": "secret-key",
    "data": "data",
}


def narrow(modules: Sequence[Module], uri: Uri) -> list[Module]:
    """Return the modules, slots, tokens and objects that a URI names."""
    return [kept for module in modules if _of_module(module, uri) if (kept := _module(module, uri))]


def _of_module(module: Module, uri: Uri) -> bool:
    probe = Probe(module.name, module.error, module.library, ())
    return not asks_of_modules(uri) or fits_module(uri, probe)


def _module(module: Module, uri: Uri) -> Module | None:
    slots = tuple(kept for slot in module.slots if (kept := _slot(slot, uri)) is not None)
    everything = not uri.path()
    return replace(module, slots=slots) if slots or everything else None


def _slot(slot: Slot, uri: Uri) -> Slot | None:
    facts: Mapping[str, Value] = {
        "slot_id": slot.id,
        "slot_description": slot.description,
        "slot_manufacturer": slot.manufacturer,
    }
    of_token = replace(
        uri, slot_id=None, slot_description=None, slot_manufacturer=None, library_manufacturer=None,
        library_description=None, library_version=None,
    ).path()  # fmt: skip
    if not uri.fits(facts) or (slot.token is None and of_token):
        return None
    if slot.token is None:
        return slot
    token = _token(slot.token, uri)
    return None if token is None else replace(slot, token=token)


def _token(token: Token, uri: Uri) -> Token | None:
    facts: Mapping[str, Value] = {
        "token": token.label,
        "manufacturer": token.manufacturer,
        "serial": token.serial,
        "model": token.model,
    }
    if not uri.fits(facts):
        return None
    objects = tuple(item for item in token.objects if uri.fits(_of_item(item)))
    # A token that failed is told of, whatever it might have had.
    return replace(token, objects=objects) if objects or token.error or not uri.names_object() else None


def _of_item(item: Item) -> Mapping[str, Value]:
    return {"object": item.label, "type": _KINDS.get(item.kind, ""), "id": bytes.fromhex(item.id)}


def uris(modules: Sequence[Module], uri: Uri) -> Iterator[Uri]:
    """Yield the URIs of a listing's tokens and their objects; of objects alone if `uri` names such."""
    for module in modules:
        for slot in module.slots:
            if slot.token is not None and "token_initialized" in slot.token.flags:
                yield from _uris(slot.token, objects_only=uri.names_object())


def _uris(token: Token, *, objects_only: bool) -> Iterator[Uri]:
    whole = Uri(token=token.label, manufacturer=token.manufacturer, serial=token.serial, model=token.model)
    if not objects_only:
        yield whole
    for item in token.objects:
        yield replace(
            whole,
            object=item.label or None,
            type=_KINDS.get(item.kind),
            id=bytes.fromhex(item.id) or None,
        )
