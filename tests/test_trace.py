"""`p11host trace`: what is shown of calls, and what never is."""

import json
import os
import pty
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
import tomlkit
from brokers import PATIENCE, Starter, module
from reach import Reach, reached
from test_watching import application

from p11host import helper_path, shim_path
from p11host.cli import cli
from p11host.cli.calls import Printer, Source
from p11host.client import Channel, Door
from p11host.errors import P11HostError
from p11host.limits import limits
from p11host.tables import tables
from p11host.throwaway import Token
from p11host.trace import Call, Calls, read
from p11host.wire import RefusedError

pytest_plugins = ["broker_fixtures"]

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
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
        Attribute.LABEL: "the name", Attribute.ID: bytes.fromhex("01fe"),
    })
    key.encrypt(b"the-plaintext" * 2, mechanism_param=b"the-vector-of-it")
    key[Attribute.VALUE]
    key[Attribute.ID]
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
    assert ("the name", "01fe") == (template["CKA_LABEL"], template["CKA_ID"])
    assert {"CKM_AES_CBC_PAD": {"bytes": 16}} == by_name["C_EncryptInit"]["arguments"]["pMechanism"]
    assert {"bytes": 26} == by_name["C_Encrypt"]["arguments"]["pData"]
    assert {"bytes": 32} == by_name["C_Encrypt"]["outputs"]["pEncryptedData"]
    got = [call["outputs"]["pTemplate"] for call in calls if call["function"] == "C_GetAttributeValue"]
    assert {"CKA_VALUE": {"bytes": 16}} in got
    assert {"CKA_ID": "01fe"} == got[-1]
    assert "CKF_SERIAL_SESSION" == by_name["C_OpenSession"]["arguments"]["flags"]
    assert token.label in [
        call["outputs"]["pInfo"]["label"] for call in calls if call["function"] == "C_GetTokenInfo"
    ]
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


class TestWhom:
    """Whose calls are shown, and to whom."""

    def trace(self, reach: Reach, *words: object) -> subprocess.CompletedProcess[str]:
        """Run the command, which must end by itself."""
        return reach.run(*COMMAND, "trace", *words, status=None)

    def test_no_process(self, through: Reach) -> None:
        """A process that is not there, or has nothing to do with p11host, is told in a line."""
        ended = subprocess.Popen(["true"])
        ended.wait()
        with subprocess.Popen(["sleep", "60"]) as other:
            gone, alien = self.trace(through, "-p", ended.pid), self.trace(through, "-p", other.pid)
            other.kill()

        assert (1, "") == (gone.returncode, gone.stdout)
        assert (
            f"p11host: there is no process {ended.pid}; see which use p11host with: p11host status\n"
            == gone.stderr
        )
        assert (
            f"p11host: process {other.pid} uses no p11host, as far as this broker knows; see who does"
            in alien.stderr
        )
        assert 1 == len(alien.stderr.splitlines())

    @needs_root
    def test_of_another_user(self, starter: Starter, token: Token) -> None:
        """Another user hears nothing of our applications, and is told whose they are."""
        one_module = module("softhsm", token.provider, env=dict(token.env))
        broker = starter.start(one_module, helper=helper_path(), everybody=True)
        through = Reach("p11host", shim_path(), {"P11HOST_SOCKET": str(broker.socket)}, token)
        with application(through) as one, reachable(broker.socket) as path:
            one.call(1)
            for params in ({}, {"pid": one.process.pid}):
                assert [] == as_nobody(path, partial(helpers_told, params))
            told = as_nobody(path, partial(command_ends, ["trace", "-p", str(one.process.pid)]))

        assert f"process {one.process.pid} belongs to root; only its user and root may see its calls" in told

    def test_until_it_ends(self, through: Reach) -> None:
        """A trace of a process ends with it, and has all its calls."""
        with application(through) as one:
            one.call(1)
            words = [*COMMAND, "trace", "--json", "-p", str(one.process.pid)]
            with subprocess.Popen(words, env=through.environ, stdout=subprocess.PIPE, text=True) as tracing:
                assert tracing.stdout is not None
                one.call(1)
                while True:
                    one.call(1)
                    if select.select([tracing.stdout], [], [], 0)[0]:
                        break
                one.process.communicate(timeout=PATIENCE)
                lines = tracing.stdout.readlines()
                assert 0 == tracing.wait(PATIENCE)

        functions = [call["function"] for call in map(json.loads, lines) if "lost" not in call]
        assert "C_GenerateRandom" == functions[0]
        assert "C_CloseSession" == functions[-1]


class TestScreen:
    """What a call looks like."""

    @pytest.fixture
    def call(self) -> Call:
        """Return a call with a long answer."""
        calls = Calls()
        calls.hear(message(1, 1, 1, 0, "C_GetTokenInfo", [5, True]))
        label = b"the label".ljust(32)
        info = [label, label, label[:16], label[:16], 0x405, *[-1] * 10, [2, 6], [3, 0], b" " * 16]
        found = calls.hear(message(2, 1, 7000, 0, "C_GetTokenInfo", [0, info]))
        assert found is not None
        return found

    def test_structs_have_names(self, call: Call) -> None:
        """The fields of a struct have their names, flags theirs, and what a token does not say is not -1."""
        info = call.outputs["pInfo"]

        assert (b"the label".ljust(32), "2.6", "unavailable") == (
            info["label"], info["hardwareVersion"], info["ulMaxPinLen"],
        )  # fmt: skip
        assert "CKF_RNG | CKF_LOGIN_REQUIRED | CKF_TOKEN_INITIALIZED" == info["flags"]
        gcm = ["CK_GCM_PARAMS", [{"bytes": 12}, 12, 96, {"bytes": 5}, 5, 128]]
        calls = Calls()
        calls.hear(message(1, 1, 1, 0, "C_EncryptInit", [3, [0x1087, gcm], 4]))
        begun = calls.hear(message(2, 1, 2, 0, "C_EncryptInit", [0, [{"bytes": 12}, *[None] * 5]]))
        assert begun is not None
        assert 96 == begun.arguments["pMechanism"]["CKM_AES_GCM"]["ulIvBits"]
        assert {"pIv": {"bytes": 12}} == begun.outputs["pMechanism"]

    def test_on_a_terminal(self, call: Call) -> None:
        """A call fits the columns, whose it is stands above where that changes, and NO_COLOR is kept."""
        shown = {name: on_a_terminal(call, **{name: "1"}) for name in ("NO_COLOR", "ANY")}
        plain = shown["NO_COLOR"].replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
        lines = plain.splitlines()

        assert "\x1b[36m" in shown["ANY"]
        assert "\x1b" not in plain
        assert max(map(len, lines)) <= 80
        assert ["nginx[7] soft/1"] == [line for line in lines if "nginx" in line]
        assert 2 == sum("C_GetTokenInfo(slotID=5) = CKR_OK" in line for line in lines)
        assert lines[2].startswith("    ")


def on_a_terminal(call: Call, **environ: str) -> str:
    """Return what a terminal of 80 columns gets when a call is shown twice."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("NO_COLOR", None)
        os.environ.update({"TERM": "xterm", "COLUMNS": "80"} | environ)
        sys.stdout = os.fdopen(1, "w")
        printer = Printer(sys.stdout, as_json=False)
        for _ in range(2):
            printer.show(Source("soft", 7, "nginx"), call)
        os._exit(0)
    seen = b""
    with suppress(OSError):  # how a terminal ends
        while data := os.read(terminal, 4096):
            seen += data
    os.close(terminal)
    os.waitpid(pid, 0)
    return seen.decode()


@pytest.mark.parametrize("as_json", [True, False])
def test_where_nothing_can_be_written(token: Token, tmp_path: Path, *, as_json: bool) -> None:
    """A full disk is told at the end, in a line; the command does not notice."""
    config = tmp_path / "p11host.toml"
    config.write_text(
        tomlkit.dumps({"module": {"soft": {"path": str(token.provider), "env": dict(token.env)}}})
    )
    options = ["--config", str(config), "-o", "/dev/full", *(["--json"] if as_json else [])]
    lists = "import p11host; print(len(p11host.lib().get_slots()))"
    words = [*COMMAND, "trace", *options, "--", sys.executable, "-P", "-c", lists]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    assert (1, "2\n") == (done.returncode, done.stdout)
    assert "p11host: /dev/full: cannot be written: No space left on device\n" == done.stderr


@contextmanager
def reachable(socket_path: Path) -> Iterator[Path]:
    """Give a broker's socket a name in a directory that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        os.link(socket_path, directory / "sock")
        yield directory / "sock"


def as_nobody(path: Path, do: Callable[[Path], Any]) -> Any:
    """Return what `do` returns in a process forked from this one that has become another user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.environ.pop("P11HOST_SOCKET", None)
            said = json.dumps(do(path))
        except BaseException as error:  # noqa: BLE001 (it must not reach the test whose process this was)
            said = json.dumps(repr(error))
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(said)


def helpers_told(params: dict[str, int], path: Path) -> Any:
    """Return the helpers that a broker lets us watch."""
    with Door.of_broker(path) as door, door.open() as channel:
        return channel.call("trace", [params])["helpers"]


def command_ends(words: list[str], path: Path) -> str:
    """Return with which error a command of p11host ends."""
    os.environ["P11HOST_SOCKET"] = str(path)
    try:
        cli.main(words, standalone_mode=False)
    except P11HostError as error:
        return str(error)
    return "no error"
