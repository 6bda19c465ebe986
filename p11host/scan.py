"""Where a message ends, and whether its bytes may be believed: MessagePack seen as lengths alone.

Knows the heads of MessagePack's formats and the limits of a frame. Builds no value, so a peer that claims a
billion elements costs nothing. Must not know what a message means.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

from p11host.limits import limits


class FrameError(Exception):
    """Bytes that are no message. `code` is one of section 7 of PROTOCOL.md: malformed or limit."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Frame:
    """What one message may hold: its length and that of a byte string, elements of an array, nesting."""

    message: int
    length: int
    elements: int
    depth: int


@cache
def call_frame() -> Frame:
    """Return the frame of a channel to a helper."""
    bound = limits()
    return Frame(bound.message, bound.bytes, bound.elements, bound.depth)


@cache
def control_frame() -> Frame:
    """Return the frame of what is sent to a broker: a method and a module's name, so a few hellos long."""
    bound = limits()
    return Frame(4 * bound.hello, bound.hello, bound.modules, bound.nesting)


@cache
def report_frame() -> Frame:
    """Return the frame of a broker's answers: a status names every application and every helper."""
    bound = limits()
    return replace(control_frame(), message=bound.report, length=bound.reported, elements=bound.reported)


class Kind(Enum):
    """What follows a head."""

    VALUE = "value"
    BYTES = "byte string"
    ARRAY = "array"
    MAP = "map"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Head:
    """A format of MessagePack: how many bytes give a length, or the number that the head itself gives."""

    kind: Kind
    width: int
    number: int
    why: str = ""


_SIZED = {
    0xC0: Head(Kind.VALUE, 0, 0),
    0xC1: Head(Kind.BAD, 0, 0, "the byte 0xc1, which MessagePack never uses"),
    0xC2: Head(Kind.VALUE, 0, 0),
    0xC3: Head(Kind.VALUE, 0, 0),
    0xC4: Head(Kind.BYTES, 1, 0),
    0xC5: Head(Kind.BYTES, 2, 0),
    0xC6: Head(Kind.BYTES, 4, 0),
    0xCA: Head(Kind.BAD, 0, 0, "floating point"),
    0xCB: Head(Kind.BAD, 0, 0, "floating point"),
    0xCC: Head(Kind.VALUE, 0, 1),
    0xCD: Head(Kind.VALUE, 0, 2),
    0xCE: Head(Kind.VALUE, 0, 4),
    0xCF: Head(Kind.VALUE, 0, 8),
    0xD0: Head(Kind.VALUE, 0, 1),
    0xD1: Head(Kind.VALUE, 0, 2),
    0xD2: Head(Kind.VALUE, 0, 4),
    0xD3: Head(Kind.VALUE, 0, 8),
    0xD9: Head(Kind.BYTES, 1, 0),
    0xDA: Head(Kind.BYTES, 2, 0),
    0xDB: Head(Kind.BYTES, 4, 0),
    0xDC: Head(Kind.ARRAY, 2, 0),
    0xDD: Head(Kind.ARRAY, 4, 0),
    0xDE: Head(Kind.MAP, 2, 0),
    0xDF: Head(Kind.MAP, 4, 0),
}
_EXTENSION = Head(Kind.BAD, 0, 0, "an extension type")


def _head(byte: int) -> Head:
    """Return the format that `byte` begins."""
    if byte <= 0x7F or byte >= 0xE0:
        return Head(Kind.VALUE, 0, 0)
    if byte <= 0x8F:
        return Head(Kind.MAP, 0, byte & 0x0F)
    if byte <= 0x9F:
        return Head(Kind.ARRAY, 0, byte & 0x0F)
    if byte <= 0xBF:
        return Head(Kind.BYTES, 0, byte & 0x1F)
    return _SIZED.get(byte, _EXTENSION)


_HEADS = tuple(_head(byte) for byte in range(256))


class Scanner:
    """Walks one message as its bytes arrive; what was walked once is never walked again."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._position = 0
        # How many values are still to come at each level; the message itself is the only one of the first.
        self._left = [1]
        self._kinds: dict[Kind, Callable[[int], int]] = {
            Kind.VALUE: lambda size: size,
            Kind.BYTES: self._bytes,
            Kind.ARRAY: self._array,
            Kind.MAP: self._map,
        }

    def advance(self, data: bytes | bytearray | memoryview) -> int | None:
        """Walk on through `data`, which begins where the message does. Return its length once it is whole."""
        while self._left:
            if self._left[-1] == 0:
                self._left.pop()
            elif not self._step(data):
                return None
        return self._position

    def _step(self, data: bytes | bytearray | memoryview) -> bool:
        """Walk over one value, or the head of one that holds others. Return False to wait for more bytes."""
        start = self._position
        if start >= len(data):
            return False
        head = _HEADS[data[start]]
        if head.kind is Kind.BAD:
            raise FrameError("malformed", f"{head.why} at byte {start}")
        body = start + 1 + head.width
        if body > len(data):
            return False
        number = int.from_bytes(data[start + 1 : body], "big") if head.width else head.number
        depth = len(self._left)
        size = self._kinds[head.kind](number)
        self._bound("message", body + size, self._frame.message)
        if body + size > len(data):
            return False
        self._position = body + size
        self._left[depth - 1] -= 1
        return True

    def _bytes(self, size: int) -> int:
        self._bound("byte string", size, self._frame.length)
        return size

    def _array(self, count: int) -> int:
        self._bound("array", count, self._frame.elements)
        self._bound("nesting", len(self._left), self._frame.depth)
        self._left.append(count)
        return 0

    def _map(self, count: int) -> int:
        self._array(count)
        self._left[-1] = 2 * count
        return 0

    def _bound(self, what: str, number: int, most: int) -> None:
        if number > most:
            raise FrameError("limit", f"{what} of {number}, at most {most}")
