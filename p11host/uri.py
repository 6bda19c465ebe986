"""PKCS#11 URIs as RFC 7512 has them: read, written and compared.

Knows the grammar of section 2.3 and the rules of 2.4 and 2.5. Must not know any token.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from p11host.errors import P11HostError
from p11host.text import nearest, printable

Kind = Literal["public", "private", "cert", "secret-key", "data"]
Value = str | int | bytes | tuple[int, int]

_UNRESERVED = r"A-Za-z0-9._~\-"
#: What may stand unencoded in a value (pk11-pchar, pk11-qchar).
_PATH = _UNRESERVED + r":\[\]@!$'()*+,=&"
_QUERY = _UNRESERVED + r":\[\]@!$'()*+,=/?|"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ULONG_MOST = 2**64 - 1


class UriError(P11HostError):
    """A URI that is none, in a line that says where and what to do."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Uri:
    """What a URI names: an attribute that is None is not in it, and fits everything."""

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    library_manufacturer: str | None = None
    library_description: str | None = None
    library_version: tuple[int, int] | None = None
    slot_manufacturer: str | None = None
    slot_description: str | None = None
    slot_id: int | None = None
    object: str | None = None
    type: Kind | None = None
    id: bytes | None = None
    pin_source: str | None = None
    pin_value: str | None = field(default=None, repr=False)
    module_name: str | None = None
    module_path: str | None = None

    def path(self) -> Mapping[str, Value]:
        """Return the attributes of the path that are in it, by their names in Python."""
        values = {each.name: getattr(self, each.name) for each in fields(self)[:_PATH_COUNT]}
        return {name: value for name, value in values.items() if value is not None}

    def fits(self, facts: Mapping[str, Value]) -> bool:
        """Tell whether what `facts` says of a thing is all that the path asks for of these names."""
        return all(facts[name] == value for name, value in self.path().items() if name in facts)

    def names_object(self) -> bool:
        """Tell whether it says anything of an object."""
        return not (self.object is None and self.type is None and self.id is None)

    def __str__(self) -> str:
        return write(self)


_PATH_COUNT = 13
_NAMES = {each.name.replace("_", "-"): each.name for each in fields(Uri)}
_PATH_NAMES = tuple(_NAMES)[:_PATH_COUNT]
_QUERY_NAMES = tuple(_NAMES)[_PATH_COUNT:]


def parse(text: str) -> Uri:
    """Return the URI that `text` is; UriError, saying what to do, if it is none."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() != "pkcs11":
        raise _wrong(text, "a PKCS#11 URI begins with pkcs11: as in 'pkcs11:token=mine;object=key'")
    path, _, query = rest.partition("?")
    found: dict[str, Any] = _attributes(text, path, ";", _PATH_NAMES, _PATH)
    return Uri(**found, **_attributes(text, query, "&", _QUERY_NAMES, _QUERY))


def write(uri: Uri) -> str:
    """Return a URI as text, each byte encoded that must be; an id is encoded whole."""
    path = [f"{_dashed(name)}={_text(value, _PATH)}" for name, value in uri.path().items()]
    query = [
        f"{name}={_text(value, _QUERY)}"
        for name in _QUERY_NAMES
        if (value := getattr(uri, _NAMES[name])) is not None
    ]
    return "pkcs11:" + ";".join(path) + ("?" + "&".join(query) if query else "")


def _attributes(text: str, part: str, mark: str, names: tuple[str, ...], allowed: str) -> dict[str, Any]:
    """Return the values of one component of a URI, by their names in Python."""
    found: dict[str, Any] = {}
    for attribute in part.split(mark) if part else []:
        name, equals, value = attribute.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise _wrong(text, f"{_quoted(attribute)} is not NAME=VALUE; attributes are parted by '{mark}'")
        if name not in names:
            raise _wrong(text, _unknown(name, names))
        if _NAMES[name] in found:
            raise _wrong(text, f"'{name}' stands there twice; leave one")
        found[_NAMES[name]] = _value(text, name, value, allowed)
    return found


def _value(text: str, name: str, value: str, allowed: str) -> Value:
    if bad := re.search(rf"[^{allowed}%]|%(?![0-9A-Fa-f]{{2}})", value):
        code = "".join(f"%{byte:02X}" for byte in bad[0].encode(errors="replace"))
        raise _wrong(text, f"'{name}' has {_quoted(bad[0])}, to be written {code}")
    data = _decoded(value)
    if name == "id":
        return data
    try:
        words = data.decode()
    except UnicodeDecodeError:
        raise _wrong(text, f"'{name}' is not UTF-8 once decoded; write each byte as %XX") from None
    if "\0" in words:
        raise _wrong(text, f"'{name}' has a zero byte, which none may have; leave %00 out")
    read = _READERS.get(name)
    return read(text, words) if read else words


def _decoded(value: str) -> bytes:
    return re.sub(rb"%(..)", lambda code: bytes.fromhex(code[1].decode()), value.encode())


def _kind(text: str, words: str) -> Value:
    if words not in get_args(Kind):
        raise _wrong(text, f"type {_quoted(words)} is none of {', '.join(get_args(Kind))}")
    return words


def _version(text: str, words: str) -> Value:
    match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,3}))?", words)
    version = (int(match[1]), int(match[2] or 0)) if match else (256, 0)
    if max(version) > 255:
        raise _wrong(text, f"library-version {_quoted(words)} is not MAJOR or MAJOR.MINOR, each below 256")
    return version


def _slot_id(text: str, words: str) -> Value:
    if not re.fullmatch(r"[0-9]{1,20}", words) or int(words) > _ULONG_MOST:
        raise _wrong(text, f"slot-id {_quoted(words)} is not a decimal number below 2^64")
    return int(words)


_READERS: Mapping[str, Callable[[str, str], Value]] = {
    "type": _kind,
    "library-version": _version,
    "slot-id": _slot_id,
}


def _unknown(name: str, names: tuple[str, ...]) -> str:
    if name in _NAMES:
        where = "before the '?'" if name in _PATH_NAMES else "after a '?'"
        return f"'{name}' belongs {where}"
    return f"no attribute is called '{name}'; {nearest(name, names) or 'there are ' + ', '.join(names)}"


def _wrong(text: str, what: str) -> UriError:
    """Return the error; the query, which may hold a PIN, is not told."""
    shown = printable(text.partition("?")[0])
    return UriError(f"{shown}: {what}")


def _quoted(words: str) -> str:
    return f"'{printable(words)}'"


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _text(value: Value, allowed: str) -> str:
    """Return a value as it stands in a URI."""
    if isinstance(value, bytes):
        return "".join(f"%{byte:02X}" for byte in value)
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    safe = re.compile(f"[{allowed}]")
    return "".join(
        char if safe.fullmatch(char) else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in str(value)
    )
