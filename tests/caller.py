"""Makes the calls that it reads, as MessagePack, from its standard input, and writes what came of them.

    python caller.py MODULE TOKEN_LABEL

An input is a list of calls `[function, [argument…]]`; for each call there is one output, `[rv, [output…]]`.
Run once for each way to a provider, with the same calls, it shows whether the ways differ. Handles have
names, as their numbers are each way's own: "slot", and whatever the calls name in their outputs.

An argument, by its kind in the tables:

    session, slot, object         a name, or a number that no handle has
    ulong, flags, bool            a number
    bytes, fixed                  bytes; None for NULL; {"null": n} for NULL with length n
    template                      [[type, bytes or {"null": n}]…], None, {"null": n}
    inout template                [[type, capacity]…] with {"null": n} for no buffer, None, {"null": n}
    mechanism                     None, or [type, parameter]: None, bytes, {"null": n}, number, name of a
                                  handle, {"struct": …}
    out bytes, ulongs, slots      {"capacity": n or None, "length": n or None}: None for NULL pointers
    out exact                     {"capacity": n or None, "length": n}
    out objects                   {"capacity": n or None, "length": n, "cell": bool}
    out session, out object       the name that the handle gets; None for NULL
    out ulong, out struct         is there a cell
"""

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import msgpack
from cryptoki import ULONG, Library, constant, struct

from p11host.tables import Arg, tables

CKR_OK = 0
FILL, GUARD = 0xA5, 16
UNKNOWN = 0xFFFF_FFFF_0000_0001
TIMES = {"CK_TOKEN_INFO": ("utcTime",)}  # fields that change while nobody looks


@dataclass
class Words:
    """The C arguments of one logical argument, and how to read its output after the call."""

    values: list[Any]
    output: Callable[[int], Any] = lambda _: None


@dataclass
class Caller:
    """A library, and the names of the handles it gave."""

    library: Library
    handles: dict[str, int] = field(default_factory=dict)

    def start(self, label: str) -> None:
        """Initialise the library and name the slot of the token."""
        args = struct("CK_C_INITIALIZE_ARGS")(flags=2)
        self._must("C_Initialize", ctypes.byref(args))
        slots, count = (ULONG * 64)(), ULONG(64)
        self._must("C_GetSlotList", 1, slots, ctypes.byref(count))
        for slot in slots[: count.value]:
            info = struct("CK_TOKEN_INFO")()
            self._must("C_GetTokenInfo", slot, ctypes.byref(info))
            name = "slot" if bytes(info.label).rstrip(b" ") == label.encode() else "free"
            self.handles[name] = slot

    def _must(self, name: str, *words: Any) -> None:
        rv = self.library.call(name, *words)
        assert rv == CKR_OK, f"{name} returned {rv:#x}"

    def run(self, calls: list[Any]) -> Iterator[Any]:
        """Make the calls and yield their outcomes; then close every session and forget the handles."""
        for name, arguments in calls:
            yield self.call(name, arguments)
        self.library.call("C_CloseAllSessions", self.handles["slot"])
        self.handles = {name: self.handles[name] for name in ("slot", "free")}

    def call(self, name: str, arguments: list[Any]) -> list[Any]:
        """Make one call."""
        row = tables().functions[name]
        words = [self.words(arg, given) for arg, given in zip(row.args, arguments, strict=True)]
        rv = self.library.call(name, *(value for word in words for value in word.values))
        return [rv, [word.output(rv) for word in words]]

    def words(self, arg: Arg, given: Any) -> Words:
        """Return the C arguments for one argument, by its kind."""
        make: Callable[[Caller, Arg, Any], Words] = getattr(Caller, "put_" + arg.kind.replace(" ", "_"))
        return make(self, arg, given)

    def resolve(self, handle: str | int) -> int:
        """Return the number of a handle; of a name that none got, one that no handle has."""
        return self.handles.get(handle, UNKNOWN) if isinstance(handle, str) else handle

    def name(self, handle: int) -> str:
        """Return the name of a handle."""
        return next((name for name, number in self.handles.items() if number == handle), "?")

    # ---- inputs ----

    def put_session(self, _arg: Arg, given: str | int) -> Words:
        """Make a handle."""
        return Words([self.resolve(given)])

    put_slot = put_object = put_ulong = put_flags = put_bool = put_session

    def put_local(self, _arg: Arg, _given: None) -> Words:
        """Make what stays here: NULL."""
        return Words([None])

    put_reserved = put_local

    def put_bytes(self, _arg: Arg, given: Any) -> Words:
        """Make a pointer and a length."""
        return Words(list(buffer_of(given)))

    def put_fixed(self, _arg: Arg, given: Any) -> Words:
        """Make a pointer alone."""
        return Words([buffer_of(given)[0]])

    def put_template(self, _arg: Arg, given: Any) -> Words:
        """Make an array of attributes and their number."""
        if given is None or isinstance(given, dict):
            return Words([None, 0 if given is None else given["null"]])
        array = (struct("CK_ATTRIBUTE") * len(given))()
        for item, (kind, value) in zip(array, given, strict=True):
            pointer, item.ulValueLen = buffer_of(value)
            item.type, item.pValue = kind, address(pointer)
            keep(array, pointer)
        return Words([array, len(given)])

    def put_mechanism(self, _arg: Arg, given: Any) -> Words:
        """Make a pointer to a CK_MECHANISM."""
        if given is None:
            return Words([None])
        mechanism = struct("CK_MECHANISM")(mechanism=given[0])
        pointer, mechanism.ulParameterLen = self.parameter(given[1])
        mechanism.pParameter = address(pointer)
        keep(mechanism, pointer)
        return Words([ctypes.pointer(mechanism)], lambda _: changed(pointer, given[1]))

    def parameter(self, given: Any) -> tuple[Any, int]:
        """Return the parameter of a mechanism and its length."""
        if isinstance(given, int | str):
            return ULONG(self.resolve(given)), ctypes.sizeof(ULONG)
        if isinstance(given, dict) and "struct" in given:
            value = self.struct(given["struct"], given["fields"])
            return value, ctypes.sizeof(value)
        return buffer_of(given)

    def struct(self, name: str, fields: Mapping[str, Any]) -> ctypes.Structure:
        """Return a struct with these fields: numbers, names of handles, bytes, fields of an inner struct."""
        value = struct(name)()
        for row in tables().structs[name].fields:
            given = fields[row.name]
            if row.pointer:
                pointer, _ = buffer_of(given)
                keep(value, pointer)
                setattr(value, row.name, address(pointer))
            elif row.kind == "fixed":
                ctypes.memmove(getattr(value, row.name), given, row.array)
            elif row.kind == "struct":
                setattr(value, row.name, self.struct(row.base, given))
            else:
                setattr(value, row.name, self.resolve(given))
        return value

    # ---- outputs ----

    def put_out_bytes(self, _arg: Arg, given: Mapping[str, Any]) -> Words:
        """Make a buffer and a pointer to its length."""
        buffer, cell = guarded(given["capacity"]), cell_of(given["length"])
        return Words([buffer, reference(cell)], lambda rv: filled(rv, buffer, given["capacity"], cell))

    def put_out_exact(self, _arg: Arg, given: Mapping[str, Any]) -> Words:
        """Make a buffer and its length."""
        buffer, length = guarded(given["capacity"]), given["length"]
        return Words([buffer, length], lambda rv: filled(rv, buffer, given["capacity"], ULONG(length)))

    def put_out_ulongs(self, _arg: Arg, given: Mapping[str, Any]) -> Words:
        """Make an array of numbers and a pointer to its length in elements."""
        array, cell = array_of(given["capacity"]), cell_of(given["length"])
        return Words([array, reference(cell)], lambda rv: [number(cell), counted(rv, array, cell)])

    def put_out_slots(self, arg: Arg, given: Mapping[str, Any]) -> Words:
        """Make an array of slots and a pointer to its length in elements."""
        words = self.put_out_ulongs(arg, given)
        numbers = words.output
        words.output = lambda rv: self.named(numbers(rv))
        return words

    def put_out_objects(self, _arg: Arg, given: Mapping[str, Any]) -> Words:
        """Make an array of handles, its size and a pointer to the number of those that were found."""
        array, cell = array_of(given["capacity"]), ULONG(0) if given["cell"] else None
        words = [array, given["length"], reference(cell)]
        return Words(words, lambda rv: self.named([number(cell), counted(rv, array, cell)]))

    def named(self, found: list[Any]) -> list[Any]:
        """Return a count and handles with the handles' names."""
        count, handles = found
        return [count, None if handles is None else [self.name(handle) for handle in handles]]

    def put_out_session(self, _arg: Arg, given: str | None) -> Words:
        """Make a cell for a handle, which gets a name."""
        if given is None:
            return Words([None])
        cell = ULONG(UNKNOWN)

        def output(rv: int) -> bool | None:
            if rv != CKR_OK:
                return None
            self.handles[given] = cell.value
            return cell.value != UNKNOWN

        return Words([ctypes.byref(cell)], output)

    put_out_object = put_out_slot = put_out_session

    def put_out_ulong(self, _arg: Arg, given: bool) -> Words:  # noqa: FBT001 (data, not a switch)
        """Make a cell for a number."""
        cell = ULONG(UNKNOWN) if given else None
        return Words([reference(cell)], lambda rv: number(cell) if rv == CKR_OK else None)

    def put_out_struct(self, arg: Arg, given: bool) -> Words:  # noqa: FBT001 (data, not a switch)
        """Make a struct."""
        value = struct(arg.struct)() if given else None
        return Words(
            [reference(value)], lambda rv: self.fields(arg.struct, value) if value and rv == CKR_OK else None
        )

    def fields(self, name: str, value: ctypes.Structure) -> dict[str, Any]:
        """Return the fields of a struct: numbers, bytes, names of slots."""
        found = {}
        for row in tables().structs[name].fields:
            part = getattr(value, row.name)
            if row.kind == "slot":
                part = self.name(part)
            found[row.name] = bytes(part) if isinstance(part, ctypes.Array | ctypes.Structure) else part
        return {key: part for key, part in found.items() if key not in TIMES.get(name, ())}

    def put_inout_template(self, _arg: Arg, given: Any) -> Words:
        """Make attributes with buffers."""
        if given is None or isinstance(given, dict):
            return Words([None, 0 if given is None else given["null"]])
        array = (struct("CK_ATTRIBUTE") * len(given))()
        buffers = []
        for item, (kind, capacity) in zip(array, given, strict=True):
            null = isinstance(capacity, dict)
            buffers.append(None if null else guarded(capacity))
            if buffers[-1] is not None and is_template(kind):
                ctypes.memset(buffers[-1], 0, capacity)  # attributes without buffers, whatever their number
            item.type, item.pValue = kind, address(buffers[-1])
            item.ulValueLen = capacity["null"] if null else capacity
        return Words([array, len(given)], lambda rv: attributes(rv, array, buffers, given))


def answered(rv: int) -> bool:
    """Tell whether C_GetAttributeValue has filled its template, as the standard says of these."""
    codes = ("CKR_OK", "CKR_ATTRIBUTE_SENSITIVE", "CKR_ATTRIBUTE_TYPE_INVALID", "CKR_BUFFER_TOO_SMALL")
    return rv in {constant(code) for code in codes}


def is_template(kind: int) -> bool:
    """Tell whether the value of an attribute is an array of attributes."""
    row = tables().attribute(kind)
    return row is not None and row.kind == "template"


def attributes(rv: int, array: Any, buffers: list[Any], given: list[Any]) -> Any:
    """Return what C_GetAttributeValue wrote: for each attribute its length, and its value if that fits."""
    if not answered(rv):
        return None
    found = []
    for item, buffer, (_, capacity) in zip(array, buffers, given, strict=True):
        cell = ULONG(item.ulValueLen)
        found.append([cell.value, None if buffer is None else filled(CKR_OK, buffer, capacity, cell)])
    return found


def buffer_of(given: Any) -> tuple[Any, int]:
    """Return a pointer to bytes, and their length."""
    if given is None or isinstance(given, dict):
        return None, 0 if given is None else given["null"]
    return (ctypes.c_ubyte * max(1, len(given))).from_buffer_copy(given or b"\0"), len(given)


def guarded(capacity: int | None) -> Any:
    """Return a buffer with a guard behind it."""
    return None if capacity is None else (ctypes.c_ubyte * (capacity + GUARD))(*[FILL] * (capacity + GUARD))


def array_of(capacity: int | None) -> Any:
    """Return an array of numbers."""
    return None if capacity is None else (ULONG * max(1, capacity))()


def cell_of(length: int | None) -> ctypes.c_ulong | None:
    """Return a cell with a number, None for NULL."""
    return None if length is None else ULONG(length)


def number(cell: ctypes.c_ulong | None) -> int | None:
    """Return the number in a cell."""
    return None if cell is None else cell.value


def reference(value: Any) -> Any:
    """Return a pointer to a cell or struct, NULL if there is none."""
    return None if value is None else ctypes.byref(value)


def filled(rv: int, buffer: Any, capacity: int | None, cell: ctypes.c_ulong | None) -> list[Any]:
    """Return the length that was written, the bytes if they are an answer, and whether the guard stands."""
    length = number(cell)
    whole = rv == CKR_OK and buffer is not None and length is not None and length <= (capacity or 0)
    intact = buffer is None or bytes(buffer)[-GUARD:] == bytes([FILL]) * GUARD
    return [length, bytes(buffer)[:length] if whole else None, intact]


def counted(rv: int, array: Any, cell: ctypes.c_ulong | None) -> list[int] | None:
    """Return the numbers that were written."""
    return list(array[: cell.value]) if rv == CKR_OK and array is not None and cell is not None else None


def changed(pointer: Any, given: Any) -> bytes | None:
    """Return the bytes of a parameter, if the provider changed them."""
    return bytes(pointer) if isinstance(given, bytes) and given and bytes(pointer) != given else None


def address(pointer: Any) -> int | None:
    """Return the address that a pointer field holds."""
    return None if pointer is None else ctypes.addressof(pointer)


def keep(owner: Any, part: Any) -> None:
    """Keep `part` as long as `owner`, which only holds its address."""
    owner.__dict__.setdefault("parts", []).append(part)


def main(module: str, label: str) -> None:
    """Read calls and write outcomes until the input ends."""
    caller = Caller(Library(module))
    caller.start(label)
    with open(0, "rb", buffering=0) as calls_in:
        for calls in msgpack.Unpacker(calls_in):
            for outcome in caller.run(calls):
                sys.stdout.buffer.write(msgpack.packb(outcome))
                sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
