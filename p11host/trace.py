"""What helpers tell of their calls, made readable by the tables.

Knows what is told, and the names of functions, arguments, structs, attributes, mechanisms and constants. Must
not believe it: a helper holds hostile code. Secrets are not here: a helper tells of a byte string its length
alone, but of attributes that their row calls `shown`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from p11host.codes import ckr
from p11host.limits import limits
from p11host.tables import Arg, Field, Function, tables

ENTERED, LEFT = 1, 2
_CONCEALED = 2
_ALL_ONES = (1 << 64) - 1
#: The kind of a constant by the C type that holds it.
_KINDS = {
    "CK_USER_TYPE": "cku",
    "CK_OBJECT_CLASS": "cko",
    "CK_KEY_TYPE": "ckk",
    "CK_CERTIFICATE_TYPE": "ckc",
    "CK_HW_FEATURE_TYPE": "ckh",
}
#: What attributes are that are read as they stand.
_TEXTS = ("UTF-8 string", "CK_DATE")
#: Which flags a function's are, where these are no struct's.
_FLAGS = {"C_OpenSession": "session", "C_WaitForSlotEvent": "wait", "C_SessionCancel": "mechanism"}
#: Arguments that bring nothing back, by their kind.
_PLAIN = {
    *("session", "slot", "object", "ulong", "flags", "bool"),
    *("bytes", "fixed", "string", "template", "reserved"),
}


@dataclass(frozen=True, slots=True)
class Told:
    """One message: a call that begins or has ended. `lost` messages were before it that could not be told."""

    left: bool
    place: int
    nanoseconds: int
    lost: int
    function: str
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call with its arguments and what became of it, in words. `rv` is None if it has not ended.

    `began` is a time of the monotonic clock.
    """

    function: str
    place: int
    began: float | None
    seconds: float | None
    arguments: Mapping[str, Any]
    rv: str | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)


def read(data: bytes) -> Told | None:
    """Return what a message says; None if it is none."""
    try:
        kind, place, nanoseconds, lost, name, values = msgpack.unpackb(data, ext_hook=_extension)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    numbers_fit = all(type(each) is int and each >= 0 for each in (place, nanoseconds, lost))
    if kind not in (ENTERED, LEFT) or not numbers_fit or not isinstance(values, list):
        return None
    if not isinstance(name, str) or name not in tables().functions or not _is_shallow(values):
        return None
    return Told(kind == LEFT, place, nanoseconds, lost, name, values)


def _is_shallow(value: Any) -> bool:
    """Tell whether nothing lies deeper in it than a call's arguments may."""
    level = [value]
    for _ in range(limits().depth):
        lists = [each for each in level if isinstance(each, list | dict)]
        level = [inner for each in lists for inner in (each.values() if isinstance(each, dict) else each)]
    return not level


def _extension(code: int, data: bytes) -> dict[str, Any]:
    """Return what stands for a byte string."""
    if code != _CONCEALED:
        raise ValueError(f"extension type {code}")
    number = int.from_bytes(data, "big")
    return {"secret": True} if number == _ALL_ONES else {"bytes": number}


class Calls:
    """The calls of one helper: brings together what was told before and after each."""

    def __init__(self) -> None:
        self._begun: dict[int, Told] = {}

    def hear(self, told: Told) -> Call | None:
        """Return the call that has ended, if one has."""
        if not told.left:
            # A hostile helper may name any number of places; an honest one has as many as channels.
            if told.place in self._begun or len(self._begun) < limits().channels:
                self._begun[told.place] = told
            return None
        begun = self._begun.pop(told.place, None)
        if begun is None or begun.function != told.function:
            return _call(told.function, told.place, None, told)
        return _call(told.function, told.place, begun, told)

    def unfinished(self) -> Iterator[Call]:
        """Yield the calls that have begun and not ended, the first first."""
        for begun in sorted(self._begun.values(), key=lambda each: each.nanoseconds):
            yield _call(begun.function, begun.place, begun, None)


def _call(name: str, place: int, begun: Told | None, left: Told | None) -> Call:
    function = tables().functions[name]
    seconds = (left.nanoseconds - begun.nanoseconds) / 1e9 if begun and left else None
    return Call(
        name,
        place,
        begun.nanoseconds / 1e9 if begun else None,
        seconds,
        dict(_arguments(function, begun.values)) if begun else {},
        _rv(left.values) if left else None,
        dict(_outputs(function, begun.values if begun else [], left.values)) if left else {},
    )


def _rv(values: Sequence[Any]) -> str:
    number = values[0] if values else None
    return ckr(number) if isinstance(number, int) else "?"


def _arguments(function: Function, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    args = [arg for arg in function.args if arg.kind != "local"]
    for arg, value in zip(args, values, strict=False):
        if not arg.kind.startswith("out ") or value is not True:
            yield arg.name, _argument(arg, value, function.name)


def _outputs(function: Function, given: Sequence[Any], values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield what came back, for what was `given`; what a provider wrote late comes after all arguments'."""
    args = [arg for arg in function.args if arg.kind != "local"]
    inputs = dict(zip((arg.name for arg in args), given, strict=False))
    outs = [arg for arg in args if arg.kind not in _PLAIN]
    for arg, value in zip(outs, values[1:], strict=False):
        output = _output(arg, inputs.get(arg.name), value)
        if output is not None:
            yield arg.name, output
    if late := values[1 + len(outs) :]:
        yield "late", late[0]


def _argument(arg: Arg, value: Any, function: str) -> Any:
    """Return an argument in words: numbers by name, buffers by their room, False where there is none."""
    if value is False and arg.kind.startswith("out "):
        return None
    if type(value) is int:
        return (
            _flags(_FLAGS.get(function, "message"), value) if arg.kind == "flags" else _number_of(arg, value)
        )
    return _list_of(arg, value) if isinstance(value, list) and value else value


def _number_of(arg: Arg, value: int) -> Any:
    """Return a number, or what a number stands for: a length whose pointer is NULL."""
    if arg.kind == "ulong":
        return _number(arg.words[0][0], value)
    return value if arg.kind in ("session", "slot", "object") else None


def _list_of(arg: Arg, value: list[Any]) -> Any:
    if arg.kind in ("template", "inout template"):
        return {_attribute(each): _asked(each) for each in value if isinstance(each, list) and each}
    if arg.kind in ("mechanism", "message") and isinstance(value[0], int):
        name = _mechanism(value[0])
        return name if value[1:] in ([], [None]) else {name: _parameter(value[1])}
    if arg.kind.startswith("out ") and len(value) > 1:
        return {"room": value[1]} if value[0] else None
    return value


def _parameter(value: Any) -> Any:
    """Return a mechanism's parameter: a struct with its fields' names, a number, or bytes."""
    match value:
        case [str(), int() as number]:
            return number
        case [str() as struct, list() as fields]:
            return _struct(struct, fields)
    return value


def _output(arg: Arg, given: Any, value: Any) -> Any:
    match arg.kind, value:
        case "mechanism" | "message", list():
            return _changes(given, value)
        case "out struct", list():
            return _struct(arg.struct, value)
        case "inout template", list():
            return {_attribute(each): _answered(each) for each in value if isinstance(each, list) and each}
        case "out bytes", [length, data, *_]:
            return {"length": length} if data is None else data
        case (("out ulongs" | "out slots" | "out objects"), [length, data, *_]):
            return {"count": length} if data is None else _numbers(arg, data)
    return value


def _changes(given: Any, value: list[Any]) -> Any:
    """Return the fields of a parameter that the provider wrote."""
    match given:
        case [_, [str() as struct, list()]] if isinstance(named := _struct(struct, value), dict):
            return {name: each for name, each in named.items() if each is not None} or None
    return value


def _struct(name: str, values: list[Any]) -> Any:
    """Return the fields of a struct by their names; what does not fit it as it is."""
    struct = tables().structs.get(name)
    fields = [field for field in struct.fields if field.kind != "local"] if struct else []
    if len(fields) != len(values):
        return values
    if name == "CK_VERSION":
        return ".".join(map(text, values))
    domain = name.removeprefix("CK_").removesuffix("_INFO").lower()
    return {field.name: _field(field, domain, each) for field, each in zip(fields, values, strict=True)}


def _field(field: Field, domain: str, value: Any) -> Any:
    if field.kind == "struct" and isinstance(value, list):
        return _struct(field.base, value)
    if field.kind == "structs" and isinstance(value, list):
        return [_struct(field.base, each) if isinstance(each, list) else each for each in value]
    if field.kind == "template" and isinstance(value, list):
        return {_attribute(each): _asked(each) for each in value if isinstance(each, list) and each}
    if type(value) is not int:
        return value
    if field.base == "CK_FLAGS":
        return _flags(domain, value)
    return "unavailable" if value in (-1, _ALL_ONES) else _number(field.base, value)


def _flags(domain: str, value: int) -> str:
    """Return flags by their names, and what is left of them as a number."""
    bits = [1 << bit for bit in range(value.bit_length()) if value >> bit & 1] if value > 0 else []
    known = [(bit, tables().constant("ckf", bit, domain)) for bit in bits]
    rest = value & ~sum(bit for bit, row in known if row) if value > 0 else value
    return " | ".join([row.name for _, row in known if row] + ([hex(rest)] if rest or not known else []))


def _numbers(arg: Arg, data: Any) -> Any:
    if arg.words[0][0].startswith("CK_MECHANISM_TYPE") and isinstance(data, list):
        return [_mechanism(each) if isinstance(each, int) else each for each in data]
    return data


def _attribute(each: list[Any]) -> str:
    row = tables().attribute(each[0]) if isinstance(each[0], int) else None
    return row.name if row else f"CKA {each[0]:#x}" if isinstance(each[0], int) else "?"


def _asked(each: list[Any]) -> Any:
    """Return a value that is given, or the room for one that is asked for."""
    if len(each) == 3:
        return {"room": each[2]} if each[1] else None
    return _value(each[0], each[1] if len(each) > 1 else None)


def _answered(each: list[Any]) -> Any:
    if len(each) < 3 or each[2] is None:
        unavailable = len(each) > 1 and each[1] in (-1, _ALL_ONES)
        return "unavailable" if unavailable else {"length": each[1] if len(each) > 1 else None}
    return _value(each[0], each[2])


def _value(attribute: Any, value: Any) -> Any:
    row = tables().attribute(attribute) if isinstance(attribute, int) else None
    if isinstance(value, bytes):
        return value if row and row.type in _TEXTS else value.hex()
    if row and row.kind == "template" and isinstance(value, list):
        return {_attribute(each): _nested(each) for each in value if isinstance(each, list) and each}
    if row and row.type == "CK_MECHANISM_TYPE array" and isinstance(value, list):
        return [_mechanism(each) if isinstance(each, int) else each for each in value]
    return value if row is None or type(value) is not int else _number(row.type, value)


def _nested(each: list[Any]) -> Any:
    return _asked(each) if len(each) == 2 else _answered(each)


def _number(kind: str, value: int) -> Any:
    if kind == "CK_MECHANISM_TYPE":
        return _mechanism(value)
    return _named(_KINDS[kind], value) if kind in _KINDS else value


def _mechanism(value: int) -> str:
    row = tables().mechanism(value)
    return row.name if row else f"CKM {value:#x}"


def _named(kind: str, value: int) -> str:
    row = tables().constant(kind, value)
    return row.name if row else f"{kind.upper()} {value:#x}"


def text(value: Any) -> str:
    """Return a value in one line."""
    if isinstance(value, dict):
        return _text_of(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    if isinstance(value, bool):
        return "CK_TRUE" if value else "CK_FALSE"
    if isinstance(value, bytes):
        return repr(value.decode(errors="replace").rstrip(" \0"))
    return "NULL" if value is None else str(value)


def _text_of(value: dict[str, Any]) -> str:
    match value:
        case {"secret": True}:
            return "<secret>"
        case {"bytes": int() as length}:
            return f"<{length} bytes>"
        case {"room": room}:
            return f"<room for {room}>"
        case {"length": length} | {"count": length}:
            return f"<of {length}>"
    return "{" + ", ".join(f"{name}={text(each)}" for name, each in value.items()) + "}"
