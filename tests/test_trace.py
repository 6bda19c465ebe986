"""`p11host trace`: what is shown of calls, and what never is."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
import tomlkit
from brokers import PATIENCE
from reach import Reach, reached
from test_watching import application

from p11host.cli.trace import Printer, Source
from p11host.client import Channel, Door
from p11host.limits import limits
from p11host.tables import tables
from p11host.throwaway import Token
from p11host.trace import Calls, read
from p11host.wire import RefusedError

COMMAND = [sys.executable, "-P", "-m", "p11host"]
#: Uses every kind of secret, and forks nothing.
SECRETIVE = """
import sys, p11host, pkcs11
from pkcs11 import Attribute, ObjectClass
with next(iter(p11host.lib().get_tokens())).open(user_pin=sys.argv[1]) as session:
    key = session.create_object({
        Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: pkcs11.KeyType.AES,
        Attribute.VALUE: b"the-key-material", Attribute.TOKEN: False, Attribute.ENCRYPT: True,
        Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True,
    })
    key.encrypt(b"the-plaintext" * 2, mechanism_param=b"the-vector-of-it")
    key[Attribute.VALUE]
sys.exit(7)
"""


@pytest.fixture
def through(token: Token) -> Iterator[Reach]:
    """Return a token as reached through p11host."""
    with reached("p11host", token) as reach:
        yield reach


@contextmanager
def tracing(reach: Reach, pid: int) -> Iterator[tuple[Channel, Any]]:
    """Open a channel that watches a process: the channel, and the sockets that came with the first answer.

    Whatever the process does from then on is told.
    """
    with Door.of_broker(Path(reach.env["P11HOST_SOCKET"])) as door, door.open() as channel:
        answer, descriptors = channel.call_with_descriptors("trace", [{"pid": pid}])
        sockets = [socket.socket(fileno=each) for each in descriptors]
        try:
            assert len(sockets) == len(answer["helpers"])
            for each in sockets:
                await_begin(each)
            yield channel, sockets
        finally:
            for each in sockets:
                each.close()


def await_begin(ours: socket.socket) -> None:
    """Return once a helper has said that it tells its calls from now on."""
    ours.settimeout(PATIENCE)
    assert [0] == msgpack.unpackb(ours.recv(limits().told))


def told(ours: socket.socket) -> list[Any]:
    """Return the messages that are there now, as they came."""
    ours.settimeout(0)
    messages = []
    with suppress(BlockingIOError):
        while data := ours.recv(limits().told):
            messages.append(read(data))
    return messages


def test_a_command(token: Token, tmp_path: Path) -> None:
    """Of a command every call is shown from the first on, and no secret; its end is the command's."""
    config, trace = tmp_path / "p11host.toml", tmp_path / "trace"
    config.write_text(
        tomlkit.dumps({"module": {"soft": {"path": str(token.provider), "env": dict(token.env)}}})
    )
    config.chmod(0o600)
    options = ["--json", "--config", str(config), "-o", str(trace)]
    words = [*COMMAND, "trace", *options, "--", sys.executable, "-P", "-c", SECRETIVE, token.pin]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (7, "") == (done.returncode, done.stdout), done.stderr
    text = trace.read_text()
    calls = [json.loads(line) for line in text.splitlines()]
    by_name = {call["function"]: call for call in calls}

    assert "C_GetInfo" == calls[0]["function"]
    assert {"secret": True} == by_name["C_Login"]["arguments"]["pPin"]
    assert "CKU_USER" == by_name["C_Login"]["arguments"]["userType"]
    template = by_name["C_CreateObject"]["arguments"]["pTemplate"]
    assert ("CKO_SECRET_KEY", {"bytes": 16}, False) == tuple(
        template[f"CKA_{name}"] for name in ("CLASS", "VALUE", "TOKEN")
    )
    assert {"CKM_AES_CBC_PAD": {"bytes": 16}} == by_name["C_EncryptInit"]["arguments"]["pMechanism"]
    assert {"bytes": 26} == by_name["C_Encrypt"]["arguments"]["pData"]
    assert {"bytes": 32} == by_name["C_Encrypt"]["outputs"]["pEncryptedData"]
    assert {"CKA_VALUE": {"bytes": 16}} == by_name["C_GetAttributeValue"]["outputs"]["pTemplate"]
    assert {"soft"} == {call["module"] for call in calls}
    assert all(call["rv"].startswith("CKR_") and call["seconds"] >= 0 for call in calls)
    for secret in (token.pin, "the-key-material", "the-plaintext", "the-vector"):
        for shown in (secret, secret.encode().hex(), str(list(secret.encode()))):
            assert shown not in text


def test_a_running_application(through: Reach) -> None:
    """Who attaches is told the calls from then on; one at a time; who comes after him, too."""
    with application(through) as one:
        one.call(5)
        with tracing(through, one.process.pid) as (_, sockets):
            one.call(3)
            first = told(sockets[0])
            with (
                pytest.raises(RefusedError, match="is being traced already"),
                tracing(through, one.process.pid),
            ):
                pass
        one.call(3)
        with tracing(through, one.process.pid) as (_, sockets):
            one.call(2)
            second = told(sockets[0])
        with tracing(through, os.getpid()) as (_, sockets):
            assert [] == sockets

    assert ["C_GenerateRandom"] * 6 == [each.function for each in first]
    assert [False, True] * 3 == [each.left for each in first]
    assert ["C_GenerateRandom"] * 4 == [each.function for each in second]


def test_a_slow_reader(through: Reach) -> None:
    """No call waits for who watches: what does not fit is dropped, and all is told or counted."""
    calls = 10000
    with application(through) as one:
        one.call(1)
        with tracing(through, one.process.pid) as (_, sockets):
            one.call(calls)
            before = told(sockets[0])
            one.call(1)
            after = told(sockets[0])

    assert len(before) < 2 * calls
    assert 2 * calls == len(before) + sum(each.lost for each in before + after)
    assert 2 == len(after)


def test_a_helper_that_dies() -> None:
    """A call that never returns is shown as unfinished."""
    calls = Calls()
    name = "C_Sign"
    assert calls.hear(message(1, 1, 5_000, 0, name, [3, {"bytes": 5}, [True, 64]])) is None
    (call,) = calls.unfinished()

    assert (name, None, None) == (call.function, call.rv, call.seconds)
    assert {"hSession": 3, "pData": {"bytes": 5}, "pSignature": {"room": 64}} == call.arguments


def test_a_helper_that_names_many_threads() -> None:
    """Of calls that only begin no more are kept than a helper can have."""
    calls = Calls()
    for place in range(limits().channels + 5):
        calls.hear(message(1, place, 1, 0, "C_Sign", [b"x" * 100]))

    assert limits().channels == len(list(calls.unfinished()))


def message(*fields: Any) -> Any:
    """Return what is made of a message with these fields."""
    return read(msgpack.packb(fields))


@pytest.mark.parametrize(
    "data",
    [
        msgpack.packb([0]),
        b"",
        b"\xc1",
        b"\x96",
        msgpack.packb([1, 1, 1, 1, "C_Sign"]),
        msgpack.packb([3, 1, 1, 1, "C_Sign", []]),
        msgpack.packb([1, -1, 1, 1, "C_Sign", []]),
        msgpack.packb([1, 1, 1.5, 1, "C_Sign", []]),
        msgpack.packb([1, 1, 1, 1, "C_Other", []]),
        msgpack.packb([1, 1, 1, 1, ["C_Sign"], []]),
        msgpack.packb([1, 1, 1, 1, "C_Sign", {}]),
        msgpack.packb([1, 1, 1, 1, "C_Sign", [msgpack.ExtType(5, b"")]]),
        b"\x96\x01\x01\x01\x01\xa6C_Sign" + b"\x91" * 500 + b"\x90",
    ],
)
def test_no_message(data: bytes) -> None:
    """What is no message, or too deep, is none."""
    assert read(data) is None


@pytest.mark.parametrize(
    "value",
    [None, -1, 1 << 63, [], [[]], [None], [[None, None, None]], [[-1, 2, 3]], {"a": {}}, "\x1b", b"\x1b"],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_nonsense_is_shown(value: Any, tmp_path: Path, *, as_json: bool) -> None:
    """Whatever a hostile helper tells of any function is shown, in a line that steers no terminal."""
    path = tmp_path / "shown"
    with path.open("w") as output:
        printer = Printer(output, as_json=as_json)
        for function in tables().functions.values():
            calls = Calls()
            calls.hear(message(1, 1, 1, 0, function.name, [value] * len(function.args)))
            call = calls.hear(message(2, 1, (1 << 64) - 1, 0, function.name, [value] * 9))
            assert call is not None
            printer.show(Source("soft", 1, "\x1b[31m"), call)
    lines = path.read_text().splitlines()

    assert len(tables().functions) == len(lines)
    assert "\x1b" not in path.read_text()
