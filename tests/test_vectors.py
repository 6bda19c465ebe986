"""The conversation vectors of specs/vectors: through wire.py, to a real helper, and beside the tables."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from lone import Lone, lone_helper
from vectors import MESSAGES, Vector, value_of, vectors

from p11host.client import Channel
from p11host.scan import call_frame
from p11host.tables import tables
from p11host.wire import (
    Decoder,
    Hello,
    Message,
    Notification,
    RemoteError,
    Request,
    Response,
    WireError,
    decode,
    encode,
)

pytest_plugins = ["life_fixtures"]

CALLS = vectors("calls") + vectors("structs")
REQUESTS, RESPONSES, HELLOS = vectors("requests"), vectors("responses"), vectors("hellos")
OUTCOMES = {"message", "malformed", "limit", "part"}
#: Arguments and fields that cannot stand in a conversation: these never cross the wire.
NEVER = {"local"}


def named(vector: Vector) -> str:
    """Return what a test is called."""
    return f"{vector.file}: {vector.name}"


def spelled() -> Iterator[tuple[Vector, str]]:
    """Yield the messages that are there as text and as bytes."""
    for vector in vectors():
        for key in MESSAGES:
            if getattr(vector, key):
                yield vector, key


# ---- the vectors themselves ----


@pytest.mark.parametrize(("vector", "key"), list(spelled()), ids=str)
def test_text_and_bytes_agree(vector: Vector, key: str) -> None:
    """The bytes are what msgpack, which is no code of ours, makes of the text; the C tests read them."""
    value = value_of(getattr(vector, key))

    assert msgpack.packb(value) == vector.bytes_of(key), "run: python tests/vectors.py fill"


def test_names_are_unique() -> None:
    """A vector is found by its name, and says which promise it proves."""
    assert len({vector.name for vector in CALLS}) == len(CALLS)
    for file in (REQUESTS, RESPONSES, HELLOS):
        assert len({vector.name for vector in file}) == len(file)
    assert all(vector.promise for vector in vectors())
    assert {vector.call for vector in RESPONSES} <= {vector.name for vector in CALLS}
    assert {vector.wire for vector in REQUESTS + RESPONSES + HELLOS} <= OUTCOMES


def test_most_are_negative() -> None:
    """What must not work is more than what must."""
    assert len(REQUESTS) + len(RESPONSES) + len(HELLOS) > 2 * len(CALLS)


def test_every_pattern_of_an_argument() -> None:
    """Each kind of argument that crosses the wire stands in a conversation."""
    functions = [function for function in tables().functions.values() if not function.local]
    spoken = {vector.function for vector in CALLS}

    assert set() == kinds(functions) - kinds([tables().functions[name] for name in spoken])


def kinds(functions: Any) -> set[str]:
    """Return the kinds of the arguments of functions."""
    return {arg.kind for function in functions for arg in function.args} - NEVER


def test_every_kind_of_field() -> None:
    """Each kind of field, and each way to say its length, stands in a conversation."""
    structs = [row for row in tables().structs.values() if row.kind in ("param", "nested")]
    said = " ".join(vector.request for vector in CALLS)
    spoken = [row for row in structs if f'"{row.name}"' in said or row.kind == "nested"]

    assert set() == fields(structs) - fields(spoken)


def fields(structs: Any) -> set[tuple[str, str]]:
    """Return the kinds of the fields of structs, each with how its length is said."""
    every = {
        (field.kind, field.length.unit if field.length else "") for row in structs for field in row.fields
    }
    return {(kind, unit) for kind, unit in every if kind not in NEVER}


# ---- messages ----


@pytest.mark.parametrize("vector", CALLS, ids=named)
def test_messages_are_understood(vector: Vector) -> None:
    """A conversation is a request and its response, from bytes and to bytes."""
    request = decode(vector.bytes_of("request"), call_frame())
    response = decode(vector.bytes_of("response"), call_frame())

    assert Request(1, vector.function, value_of(vector.request)[3]) == request
    assert Response(1, None, value_of(vector.response)[3]) == response
    assert vector.bytes_of("request") == encode(request, call_frame())
    assert vector.bytes_of("response") == encode(response, call_frame())


@pytest.mark.parametrize("vector", CALLS, ids=named)
def test_cut_short(vector: Vector) -> None:
    """Whatever the place: half a message is none yet, and none when nothing more comes."""
    for key in ("request", "response"):
        data = vector.bytes_of(key)
        for length in range(len(data)):
            decoder = Decoder(call_frame())
            decoder.feed(data[:length])

            assert decoder.next_message() is None
            assert length == decoder.pending
            with pytest.raises(RemoteError):
                decode(data[:length], call_frame())


@pytest.mark.parametrize("vector", REQUESTS + RESPONSES + HELLOS, ids=named)
def test_whose_fault(vector: Vector) -> None:
    """Bytes that are no message are the peer's fault, which is named, as soon as it can be and ever after."""
    data = vector.bytes_of("send")
    whole, pieces = Decoder(call_frame()), Decoder(call_frame())
    whole.feed(data)

    assert vector.wire == outcome(whole)
    assert vector.wire == outcome_of_pieces(pieces, data)


def outcome(decoder: Decoder) -> str:
    """Return what comes of the next message."""
    try:
        return "part" if decoder.next_message() is None else "message"
    except RemoteError as error:
        return error.code


def outcome_of_pieces(decoder: Decoder, data: bytes) -> str:
    """Return what comes of the first message when it comes byte by byte."""
    for byte in data:
        decoder.feed(bytes([byte]))
        if (said := outcome(decoder)) != "part":
            return said
    return "part"


@pytest.mark.parametrize("vector", HELLOS, ids=named)
def test_hellos(vector: Vector) -> None:
    """A hello is one, or its fault is named."""
    try:
        Hello.of(decode(vector.bytes_of("send"), call_frame()))
        said = "hello"
    except WireError as error:
        said = error.code

    assert vector.answer == said


# ---- conversations ----


@pytest.fixture(scope="module")
def helper(workshop: Any) -> Iterator[Lone]:
    """Return a helper that all requests go to."""
    provider: Path = workshop.provider("odd")
    with lone_helper(provider) as helper:
        yield helper


@pytest.mark.parametrize("vector", REQUESTS, ids=named)
def test_helper(helper: Lone, vector: Vector) -> None:
    """A helper names the fault and closes that channel alone, where the channel is at fault."""
    with helper.open() as older, helper.open_raw() as channel:
        messages = incoming(channel)
        assert isinstance(next(messages), Notification)
        channel.sendall(vector.bytes_of("send"))
        if vector.after == "stays":
            channel.sendall(encode(Request(1, "C_GetInfo", [True]), call_frame()))

        if vector.answer:
            answer = next(messages)
            assert isinstance(answer, Response)
            assert answer.error is not None
            assert vector.answer == answer.error.code
        assert (vector.after == "stays") == (next(messages, None) is not None)
        assert 0 == older.call("C_GetInfo", [True])[0]


def incoming(channel: socket.socket) -> Iterator[Message]:
    """Yield the messages that come, until the end."""
    decoder = Decoder(call_frame())
    while True:
        yield from decoder
        try:
            data = channel.recv(1 << 16)
        except ConnectionResetError:  # not all that was sent has been read
            return
        if not data:
            return
        decoder.feed(data)


@pytest.mark.parametrize("vector", RESPONSES, ids=named)
def test_caller(vector: Vector) -> None:
    """A caller in Python takes an answer to its own question, and nothing else for one."""
    ours, theirs = socket.socketpair()
    with Channel(ours, call_frame()) as channel, theirs:
        theirs.sendall(vector.bytes_of("send"))
        theirs.shutdown(socket.SHUT_WR)
        try:
            channel.call("C_CloseSession", [5], timeout=30)
            answered = True
        except WireError:
            answered = False

    assert is_answer(vector) == answered


def is_answer(vector: Vector) -> bool:
    """Tell whether msgpack finds an answer to msgid 1 without an error at the beginning of what is sent."""
    if vector.wire != "message":
        return False
    unpacker = msgpack.Unpacker()
    unpacker.feed(vector.bytes_of("send"))
    match next(unpacker):
        case [1, 1, None, _]:
            return True
    return False
