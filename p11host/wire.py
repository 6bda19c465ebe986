"""MessagePack-RPC messages as bytes and as values: PROTOCOL.md sections 1, 3 and 7.

Sans I/O: knows bytes and messages. Must not know sockets, methods, or what a result means.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import msgpack

from p11host.errors import P11HostError
from p11host.limits import limits
from p11host.scan import Frame, FrameError, Scanner

PROTOCOL = 1
#: What MessagePack can say: None, bool, int, str, bytes, and lists and dicts of these.
Value = Any
REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2
_MSGIDS = 1 << 32
_WORDS = 1 << 64


class WireError(P11HostError):
    """A message that was not understood or not granted; `code` is one of section 7."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class LocalError(WireError):
    """Our own fault: we sent, or were about to send, what the protocol does not allow."""


class RemoteError(WireError):
    """The peer's fault: its bytes are no message, or it failed."""


class RefusedError(WireError):
    """Nobody's fault: the broker's configuration says no."""


class ClosedError(RemoteError):
    """The peer closed the channel before it answered. What was asked may or may not have been done."""

    def __init__(self, text: str = "the peer closed the channel") -> None:
        super().__init__("closed", text)


@dataclass(frozen=True, slots=True)
class Request:
    """A call that wants an answer."""

    msgid: int
    method: str
    params: list[Value]


@dataclass(frozen=True, slots=True)
class Fault:
    """The `error` of a response: a code of section 7 and a text for people."""

    code: str
    text: str

    def exception(self) -> WireError:
        """Return the error to raise at the caller that was answered so."""
        kinds = {"malformed": LocalError, "limit": LocalError, "unknown": LocalError, "refused": RefusedError}
        return kinds.get(self.code, RemoteError)(self.code, self.text)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to the request of the same msgid."""

    msgid: int
    error: Fault | None
    result: Value


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that is not answered."""

    method: str
    params: list[Value]


Message = Request | Response | Notification


def encode(message: Message, frame: Frame) -> bytes:
    """Return the bytes of one message; LocalError if the peer would have to refuse them."""
    try:
        data: bytes = msgpack.packb(_array_of(message), use_bin_type=True)
        Scanner(frame).advance(data)
    except FrameError as error:
        raise LocalError(error.code, error.text) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalError("malformed", str(error)) from error
    return data


def decode(data: bytes, frame: Frame) -> Message:
    """Return the one message that `data` is, whole and without a rest; RemoteError if it is not."""
    decoder = Decoder(frame)
    decoder.feed(data)
    message = decoder.next_message()
    if message is None or decoder.pending:
        raise RemoteError(
            "malformed", "a message cut short" if message is None else "bytes after the message"
        )
    return message


class Decoder:
    """Turns a stream of bytes into messages. Holds what has arrived of one message, and never more memory."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._buffer = bytearray()
        self._scanner = Scanner(frame)

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes as they arrived."""
        self._buffer += data

    def next_message(self) -> Message | None:
        """Return the next whole message, None if more bytes are needed; RemoteError, then and ever after."""
        try:
            end = self._scanner.advance(self._buffer)
        except FrameError as error:
            raise RemoteError(error.code, error.text) from error
        if end is None:
            return None
        with memoryview(self._buffer) as whole, whole[:end] as part:
            message = _message_of(_unpack(part))
        del self._buffer[:end]
        self._scanner = Scanner(self._frame)
        return message

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages that are whole."""
        while (message := self.next_message()) is not None:
            yield message


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message in each direction (section 3). What a peer did not say is None."""

    protocol: int
    ulong: int | None = None
    tables: int | None = None
    program: str | None = None
    module: str | None = None
    pid: int | None = None
    cryptoki: tuple[int, int] | None = None
    error: str | None = None
    rv: int | None = None
    serial: bool | None = None

    def message(self) -> Notification:
        """Return the hello as a message."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        said["cryptoki"] = self.cryptoki and list(self.cryptoki)
        return Notification("hello", [{key: value for key, value in said.items() if value is not None}])

    @classmethod
    def of(cls, message: Message) -> Self:
        """Return the hello that `message` is; RemoteError if it is none. Unknown keys are ignored."""
        if not isinstance(message, Notification) or message.method != "hello":
            raise RemoteError("malformed", "the first message is no hello")
        said = map_of(message.params)
        for key, check in _HELLO.items():
            if key in said and not check(said[key]):
                raise RemoteError("malformed", f"hello with a {key} that is none")
        if "protocol" not in said:
            raise RemoteError("malformed", "hello without protocol")
        known = {key: value for key, value in said.items() if key in _HELLO}
        if "cryptoki" in known:
            known["cryptoki"] = tuple(known["cryptoki"])
        return cls(**known)


def map_of(params: list[Value]) -> Mapping[str, Value]:
    """Return the one map that `params` of a control method or a hello holds; RemoteError if it does not."""
    if len(params) != 1 or not isinstance(params[0], dict):
        raise RemoteError("malformed", "params must hold one map")
    return params[0]


def short_text(text: str) -> str:
    """Return `text` as every peer has room for it: not too long, no NUL."""
    text = text.replace("\0", "")
    data = text.encode(errors="replace")
    most = limits().text
    return text if len(data) <= most else data[: most - 3].decode(errors="ignore") + "…"


def is_number(value: object, end: int = _WORDS) -> bool:
    """Tell whether `value` is an unsigned integer below `end`; a bool, for Python a number, is none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end


def is_name(value: object) -> bool:
    """Tell whether `value` is a string no longer than a name may be."""
    return isinstance(value, str) and len(value.encode(errors="replace")) <= limits().name


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_version(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_number(part, 256) for part in value)


_HELLO = {
    "protocol": is_number,
    "ulong": lambda value: value in (4, 8),
    "tables": is_number,
    "program": _is_text,
    "module": is_name,
    "pid": lambda value: is_number(value, 1 << 31),
    "cryptoki": _is_version,
    "serial": lambda value: isinstance(value, bool),
    "error": _is_text,
    "rv": is_number,
}


def _unpack(data: memoryview) -> Value:
    """Return the value of bytes that the scanner found whole and within the limits."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise RemoteError("malformed", str(error)) from error


def _array_of(message: Message) -> list[Any]:
    """Return a message as section 1 writes it, checked as a peer would check it."""
    if isinstance(message, Response):
        error = None if message.error is None else [message.error.code, message.error.text]
        array = [RESPONSE, message.msgid, error, message.result]
    elif isinstance(message, Request):
        array = [REQUEST, message.msgid, message.method, message.params]
    else:
        array = [NOTIFICATION, message.method, message.params]
    try:
        _message_of(array)
    except RemoteError as error:
        raise LocalError(error.code, error.text) from error
    return array


def _message_of(value: Value) -> Message:
    """Return the message that a decoded value is."""
    match value:
        case [bool(), *_]:  # which Python counts as 0 and 1
            pass
        case [0, msgid, method, params]:
            _check_call(method, params)
            return Request(_msgid(msgid), method, params)
        case [1, msgid, error, result]:
            return Response(_msgid(msgid), _fault_of(error), result)
        case [2, method, params]:
            _check_call(method, params)
            return Notification(method, params)
    raise RemoteError("malformed", "not a message of MessagePack-RPC")


def _msgid(value: Value) -> int:
    if not is_number(value, _MSGIDS):
        raise RemoteError("malformed", "a msgid that is no unsigned integer below 2^32")
    return int(value)


def _check_call(method: Value, params: Value) -> None:
    if not isinstance(method, str):
        raise RemoteError("malformed", "a method that is no string")
    if not is_name(method):
        raise RemoteError("limit", f"a method's name longer than {limits().name} bytes")
    if not isinstance(params, list | tuple):
        raise RemoteError("malformed", "params that are no array")


def _fault_of(value: Value) -> Fault | None:
    match value:
        case None:
            return None
        case [str(code), str(text)]:
            return Fault(code, text)
    raise RemoteError("malformed", "an error that is neither nil nor [code, text]")
