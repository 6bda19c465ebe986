"""Token selectors: PKCS#11 URIs that say which slots of a module are shown, and how a helper gets them.

Knows which field of which struct a URI's attribute is about (RFC 7512, section 2.3), and section 10 of
PROTOCOL.md. What a slot holds only its helper knows, which keeps to them: shim/view.c.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import msgpack

from p11host.uri import Uri, UriError
from p11host.uri import parse as parse_uri

#: Attributes, as they are called in Python, and the field that says the same of a slot or its token.
_FIELDS: Mapping[str, tuple[str, str]] = {
    "token": ("CK_TOKEN_INFO", "label"),
    "manufacturer": ("CK_TOKEN_INFO", "manufacturerID"),
    "model": ("CK_TOKEN_INFO", "model"),
    "serial": ("CK_TOKEN_INFO", "serialNumber"),
    "slot_description": ("CK_SLOT_INFO", "slotDescription"),
    "slot_manufacturer": ("CK_SLOT_INFO", "manufacturerID"),
}
_SLOT_ID = "slot_id"
_KNOWN = (*_FIELDS, _SLOT_ID)
#: What pads a field.
_PADDING = " \0"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which slots are shown: those that of each of `shown` some selector fits, and none of `hidden`."""

    shown: tuple[tuple[Uri, ...], ...] = ()
    hidden: tuple[Uri, ...] = ()


def parse(text: str) -> Uri:
    """Return the selector that `text` is; UriError, saying what to do, if it is none."""
    uri = parse_uri(text)
    extra = [each.name for each in fields(uri) if getattr(uri, each.name) is not None]
    if wrong := [name for name in extra if name not in _KNOWN]:
        known = ", ".join(map(_dashed, _KNOWN))
        raise _wrong(uri, f"'{_dashed(wrong[0])}' says nothing of a token or slot; there are {known}")
    if not extra:
        raise _wrong(uri, "names nothing, and so every slot; leave it out, or add token=…")
    for name, value in uri.path().items():
        if name in _FIELDS and (most := _size(name)) < len(str(value).encode()):
            raise _wrong(uri, f"'{_dashed(name)}' has at most {most} bytes in a token or slot; shorten it")
    return uri


def pack(selection: Selection) -> bytes:
    """Return a selection as a helper takes it, b"" where all slots are shown."""
    if selection == Selection():
        return b""
    shown = [_packed(each) for each in selection.shown]
    data: bytes = msgpack.packb([shown, _packed(selection.hidden)], use_bin_type=True)
    return data


def without_slot(uri: Uri) -> bool:
    """Tell whether a selector speaks of tokens: an empty slot may come to fit it."""
    return any(_FIELDS.get(name, ("",))[0] == "CK_TOKEN_INFO" for name in uri.path())


def _packed(selectors: Iterable[Uri]) -> list[list[Any]]:
    return [[_condition(name, value) for name, value in uri.path().items()] for uri in selectors]


def _condition(name: str, value: Any) -> Any:
    """Return a condition on the slot's id, or on a field by its place in its struct."""
    if name == _SLOT_ID:
        return value
    struct, place, _ = _field(name)
    return [struct, place, str(value).encode()]


def _field(name: str) -> tuple[str, int, int]:
    """Return the struct, the place in it and the length of the field that an attribute is about."""
    from p11host.tables import tables  # noqa: PLC0415 (all of specs/: 60 ms, for those who have selectors)

    struct, wanted = _FIELDS[name]
    found = tables().structs[struct].fields
    place = next(place for place, each in enumerate(found) if each.name == wanted)
    return struct, place, found[place].array


def _size(name: str) -> int:
    return _field(name)[2]


def _wrong(uri: Uri, what: str) -> UriError:
    """Return the error; the query, which may hold a PIN, is not told."""
    shown = str(uri).partition("?")[0]
    return UriError(f"{shown}: {what}")


def _dashed(name: str) -> str:
    return name.replace("_", "-")
