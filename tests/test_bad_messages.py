"""What a helper makes of bytes that are no requests: an error, and the end of that channel alone."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptoki import constant
from lone import Lone, lone_helper

from p11host.limits import limits

pytest_plugins = ["life_fixtures"]

NIL, FLOAT = b"\xc0", b"\xcb" + bytes(8)
ARRAY_OF_4, ARRAY_OF_2 = b"\x94", b"\x92"
#: A claimed length of 2^63, where MessagePack has room for it: on a shelf, which this channel has not.
SHELVED = b"\xd8\x01" + bytes(8) + (1 << 63).to_bytes(8)
MOST_32 = b"\xff\xff\xff\xff"
EXTRA = 17 << 20
#: Memory that a helper may keep for the next call, and some for itself.
KEPT = 16 << 20

Bad = tuple[bytes, str]


def request(method: str, params: bytes) -> bytes:
    """Return a request with params as they go over the wire."""
    return ARRAY_OF_4 + pack(0) + pack(7) + pack(method) + params


def nested(depth: int) -> bytes:
    """Return arrays within arrays."""
    return b"\x91" * depth + NIL


def nested_template(depth: int) -> bytes:
    """Return templates within templates."""
    value: Any = []
    for _ in range(depth):
        value = [[constant("CKA_WRAP_TEMPLATE"), value]]
    return params([1, value, True])


def params(values: list[Any]) -> bytes:
    """Return params that MessagePack has words for."""
    return pack(values)


def pack(value: Any) -> bytes:
    """Return a value as MessagePack."""
    packed: bytes = msgpack.packb(value)
    return packed


BAD: dict[str, Bad] = {
    # not MessagePack-RPC
    "no array": (b"\x07", "malformed"),
    "unused byte": (b"\xc1", "malformed"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
    "float": (request("C_GetInfo", b"\x91" + FLOAT), "malformed"),
    "extension": (request("C_GetInfo", b"\x91\xd4\x05\x00"), "malformed"),
    "extension in what is unknown": (request("C_Unknown", b"\x91\xd4\x05\x00"), "malformed"),
    "response": (ARRAY_OF_4 + pack(1) + pack(7) + NIL + NIL, "malformed"),
    "msgid of 2^32": (ARRAY_OF_4 + pack(0) + pack(1 << 32), "malformed"),
    "method of bytes": (
        ARRAY_OF_4 + pack(0) + pack(7) + pack(b"C_GetInfo"),
        "malformed",
    ),
    "method with a NUL": (request("C_GetInfo\0", params([True])), "malformed"),
    # not what the tables say
    "too few": (request("C_GetInfo", params([])), "malformed"),
    "too many": (request("C_GetInfo", params([True, True])), "malformed"),
    "map": (request("C_GetInfo", pack({})), "malformed"),
    "text for a number": (request("C_CloseSession", params(["1"])), "malformed"),
    "negative number": (request("C_CloseSession", params([-2])), "malformed"),
    "number for a struct": (request("C_GetInfo", params([1])), "malformed"),
    "label of 31 bytes": (request("C_InitToken", params([0, b"", bytes(31)])), "malformed"),
    "unknown struct": (request("C_DigestInit", params([1, [1, ["CK_UNKNOWN", []]]])), "malformed"),
    "claimed 2^63 bytes": (request("C_DigestUpdate", ARRAY_OF_2 + b"\x01" + SHELVED), "malformed"),
    # over the limits
    "long name": (request("C" * (limits().name + 1), params([])), "limit"),
    "claimed 4 GiB of name": (ARRAY_OF_4 + pack(0) + pack(7) + b"\xdb" + MOST_32, "limit"),
    "claimed 4 GiB of bytes": (request("C_DigestUpdate", ARRAY_OF_2 + b"\x01\xc6" + MOST_32), "limit"),
    "claimed 2^32 params": (request("C_GetInfo", b"\xdd" + MOST_32), "limit"),
    "claimed 2^32 attributes": (request("C_CreateObject", b"\x93\x01\xdd" + MOST_32), "limit"),
    "claimed 2^32 entries of a map": (request("C_Unknown", b"\x91\xdf" + MOST_32), "limit"),
    "nested": (request("C_Unknown", nested(limits().depth + 1)), "limit"),
    "nested where nothing is": (request("C_GetInfo", nested(limits().depth)), "malformed"),
    "nested 100000 times": (request("C_Unknown", nested(100_000)), "limit"),
    "nested templates": (request("C_CreateObject", nested_template(limits().nesting)), "limit"),
    "message of more than 1 GiB": (
        request("C_Verify", b"\x93\x01" + pack(bytes(EXTRA)) + b"\xc6" + limits().bytes.to_bytes(4)),
        "limit",
    ),
}


@pytest.fixture(scope="module")
def helper(workshop: Any) -> Iterator[Lone]:
    """Return a helper that all tests of this file talk to."""
    with lone_helper(workshop.provider("odd")) as helper:
        yield helper


def test_claims(helper: Lone) -> None:
    """What the tests below assume: this helper answers, whatever was said to it on other channels."""
    with helper.open() as channel:
        assert 0 == channel.call("C_GetInfo", [True])[0]


@pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD)
def test_bad_bytes(helper: Lone, data: bytes, code: str) -> None:
    """The sender is told what kind of fault it is, then this channel ends; an older and a newer one serve."""
    with helper.open() as older, helper.open_raw() as bad:
        answers = Answers(bad)
        assert "hello" == answers.next()[1]
        bad.sendall(data)
        kind, _, (told, _), result = answers.next()

        assert [1, code, None] == [kind, told, result]
        assert answers.has_ended()
        assert 0 == older.call("C_GetInfo", [True])[0]
    with helper.open() as newer:
        assert 0 == newer.call("C_GetInfo", [True])[0]


@pytest.mark.parametrize("length", [1, 2, 5, 14])
def test_truncated(helper: Lone, length: int) -> None:
    """A request that ends in the middle ends its channel without an answer: there was no request."""
    whole = request("C_GetInfo", params([True]))
    with helper.open_raw() as bad:
        answers = Answers(bad)
        assert "hello" == answers.next()[1]
        bad.sendall(whole[:length])
        bad.shutdown(socket.SHUT_WR)

        assert answers.has_ended()
    test_claims(helper)


@pytest.mark.parametrize(
    "method", ["C_Unknown", "C_Initialize", "C_Finalize", "C_GetFunctionList", "c_getinfo", ""]
)
def test_unknown_method(helper: Lone, method: str) -> None:
    """A function that is not there, or not for others to call, is said to be unknown; the channel stays."""
    with helper.open_raw() as channel:
        answers = Answers(channel)
        assert "hello" == answers.next()[1]
        channel.sendall(request(method, params([None, {"a": [1, b"", "", -1, True]}])))
        channel.sendall(request("C_GetInfo", params([True])))

        kind, msgid, (told, _), result = answers.next()
        assert [1, 7, "unknown", None] == [kind, msgid, told, result]
        assert [1, 7, None] == answers.next()[:3]


def test_every_encoding(helper: Lone) -> None:
    """A value may come in every encoding that MessagePack has for it, and in pieces of any size."""
    head = b"\xdd\0\0\0\4\xcf" + bytes(8) + b"\xd3" + bytes(7) + b"\7"
    wide = b"".join([head, b"\xdb\0\0\0\x09C_GetInfo", b"\xdc\0\1\xc3"])
    with helper.open_raw() as channel:
        answers = Answers(channel)
        assert "hello" == answers.next()[1]
        for byte in wide:
            channel.sendall(bytes([byte]))

        assert [1, 7, None] == answers.next()[:3]


def test_requests_in_a_row(helper: Lone) -> None:
    """Requests may be sent before the answers are read; these come in their order."""
    with helper.open_raw() as channel:
        answers = Answers(channel)
        assert "hello" == answers.next()[1]
        channel.sendall(b"".join((pack([0, i, "C_GetInfo", [True]])) for i in range(100)))

        assert list(range(100)) == [answers.next()[1] for _ in range(100)]


def test_wild_capacity(helper: Lone) -> None:
    """A claimed capacity of 2^63 bytes is no memory until somebody writes to it."""
    with helper.open() as channel:
        _, session = channel.call("C_OpenSession", [0x7000, 4, True])
        before = memory(helper.process.pid)
        rv, _ = channel.call("C_GetOperationState", [session, [True, 1 << 63]])

        assert constant("CKR_FUNCTION_NOT_SUPPORTED") == rv
        assert memory(helper.process.pid) < before + KEPT


def memory(pid: int) -> int:
    """Return how much memory a process has, in bytes."""
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return int(words[1]) * 4096


class Answers:
    """The messages on a channel, one after the other."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._unpacker = msgpack.Unpacker()

    def next(self) -> Any:
        """Return the next message."""
        while True:
            for message in self._unpacker:
                return message
            data = self._channel.recv(1 << 16)
            assert data, "the channel has ended"
            self._unpacker.feed(data)

    def has_ended(self) -> bool:
        """Tell whether there is nothing more to come."""
        try:
            return self._channel.recv(1) == b""
        except ConnectionResetError:
            return True  # not all that was sent has been read
