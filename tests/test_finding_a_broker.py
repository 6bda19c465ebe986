"""The broker as an application sees it: found, started where there is none, somebody else's, lost."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import PATIENCE, Shim, has_children, helpers, in_child, in_threads, report
from brokers import module
from cryptoki import ULONG
from life import Host, Hosting, has_ended

from p11host import helper_path
from p11host.client import Door
from p11host.paths import socket_path

pytest_plugins = ["life_fixtures"]

NOBODY = 65534
PARTY = 4
REMOVED, GONE = "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


# ---- a broker that dies ----


def test_a_dead_broker_is_not_missed(hosting: Hosting, odd: Path) -> None:
    """When the broker is killed applications go on, also threads that need channels nobody has opened yet."""
    host = hosting(module("odd", odd, env={"ODD_PARTY": str(PARTY)}))
    assert host.broker is not None

    before, after = host.play(lose_broker, host.broker.pid)

    assert "CKR_OK" == before == after["session"]
    assert [PARTY] * PARTY == after["inside the provider"], "so many channels as threads"
    assert after["slots"]


def lose_broker(pid: int) -> tuple[str, dict[str, Any]]:
    """Kill the broker while there is one channel to the helper; go on with threads that need more."""
    shim = Shim()
    session = shim.begin()
    before = shim.use(session)
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)
    after = {
        "session": shim.use(session),
        "inside the provider": [each[0] for each in in_threads([partial(shim.random, session)] * PARTY)],
        "slots": shim.slots(),
    }
    return before, after


def test_without_broker_a_dead_helper_stays_dead(hosting: Hosting, odd: Path) -> None:
    """When broker and helper are gone calls are error codes, the application lives, and C_Finalize ends."""
    host = hosting(module("odd", odd))
    assert host.broker is not None

    assert [REMOVED, GONE, "CKR_GENERAL_ERROR", "CKR_OK"] == host.play(lose_both, host.broker.pid)


def lose_both(broker: int) -> list[str]:
    """Kill broker and helper, and call."""
    shim = Shim()
    session = shim.begin()
    for pid in (helpers()["odd"], broker):
        os.kill(pid, signal.SIGKILL)
        assert has_ended(pid)
    list_slots = partial(shim.rv, "C_GetSlotList", 1, None, ctypes.byref(ULONG()))
    return [shim.use(session), shim.use(session), list_slots(), shim.rv("C_Finalize", None)]


def test_a_new_broker_serves_old_applications(tmp_path: Path, on_demand: Mapping[str, str]) -> None:
    """An application whose broker and helper have died gets both anew."""
    found = Host(on_demand).play(lose_both_and_go_on)

    assert [REMOVED, "CKR_OK"] == found["sessions"]
    assert found["slots"] == found["slots before"]
    assert tmp_path in Path(on_demand["XDG_RUNTIME_DIR"]).parents


def lose_both_and_go_on() -> dict[str, Any]:
    """Kill broker and helper; go on."""
    shim = Shim()
    session = shim.begin()
    slots = shim.slots()
    for pid in (helpers()["odd"], broker_pid()):
        os.kill(pid, signal.SIGKILL)
        assert has_ended(pid)
    told = shim.use(session)
    return {
        "slots before": slots,
        "slots": shim.slots(),
        "sessions": [told, shim.use(shim.open_session(slots[0]))],
    }


def broker_pid() -> int:
    """Return the pid of the broker that this environment leads to."""
    with Door.of_broker(socket_path()) as door, door.open() as channel:
        return int(channel.call("status", [{}])["pid"])


# ---- no broker ----


@pytest.mark.parametrize("left_behind", [False, True], ids=["no socket", "dead socket"])
def test_no_broker(tmp_path: Path, left_behind: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """Where there is none, nor may be, C_Initialize is CKR_GENERAL_ERROR, and the log says what to do."""
    path = tmp_path / "broker.sock"
    if left_behind:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as sock:
            sock.bind(str(path))
    nowhere = Host({"P11HOST_SOCKET": str(path), "P11HOST_NO_START": "1", "P11HOST_LOG": "1"})

    played = nowhere.played(initialize)

    assert "CKR_GENERAL_ERROR" == played.result
    assert str(path) in played.output
    assert "p11host serve" in played.output


def initialize() -> str:
    """Call C_Initialize."""
    return Shim().rv("C_Initialize", None)


@needs_root
def test_somebody_elses_socket(tmp_path: Path) -> None:
    """A socket of another user is refused before a byte is sent: who listens there would be given PINs."""
    path = tmp_path / "broker.sock"
    host = Host({"P11HOST_SOCKET": str(path), "P11HOST_NO_START": "1", "P11HOST_LOG": "1"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(path))
        listen_as(NOBODY, sock)
        played = host.played(initialize)
        sock.settimeout(PATIENCE)
        with sock.accept()[0] as peer:
            received = peer.recv(1)

    assert "CKR_GENERAL_ERROR" == played.result
    assert "another user" in played.output
    assert b"" == received


def listen_as(uid: int, sock: socket.socket) -> None:
    """Listen as another user: the kernel notes whose a socket is when it begins to listen."""
    os.seteuid(uid)
    try:
        sock.listen()
    finally:
        os.seteuid(0)


# ---- a broker that is started ----


def test_started_on_demand(on_demand: Mapping[str, str]) -> None:
    """Where no broker listens the first application starts one; the next finds it."""
    host = Host(on_demand)

    first, second = host.play(find_broker), host.play(find_broker)

    assert first == second


def find_broker() -> int:
    """Use the shim; return the pid of the broker."""
    shim = Shim()
    assert shim.use(shim.begin()) == "CKR_OK"
    return broker_pid()


def test_of_many_at_once_one_serves(on_demand: Mapping[str, str], tmp_path: Path) -> None:
    """Applications that start brokers at the same time all get the same one; the others end."""
    host = Host(on_demand)
    with ThreadPoolExecutor(PARTY) as pool:
        found = set(pool.map(lambda _: host.play(find_broker), range(PARTY)))

    assert 1 == len(found)
    started = set(map(int, (tmp_path / "started").read_text().split()))
    assert found <= started
    assert all(has_ended(pid) for pid in started - found)


def test_starting_leaves_no_trace(on_demand: Mapping[str, str]) -> None:
    """The application that starts a broker gets no child, no zombie and no SIGCHLD from it."""
    signals, children, parent, session = Host(on_demand).play(start_with_a_handler)

    assert 0 == signals
    assert not children
    assert not parent, "the broker is not the application's child"
    assert session, "nor in its session"


def start_with_a_handler() -> tuple[int, bool, bool, bool]:
    """Start a broker; return what is to be seen of it here."""
    signals = []
    signal.signal(signal.SIGCHLD, lambda number, _: signals.append(number))
    Shim().begin()
    broker = broker_pid()
    parent = int(Path(f"/proc/{broker}/stat").read_text().rpartition(") ")[2].split()[1])
    return len(signals), has_children(), parent == os.getpid(), os.getsid(broker) != os.getsid(0)


# ---- systemd ----


def test_socket_of_systemd(tmp_path: Path, odd: Path) -> None:
    """An application may connect to systemd's socket before there is a broker, and is served."""
    path, config = tmp_path / "broker.sock", tmp_path / "p11host.toml"
    config.write_text(module("odd", odd))
    config.chmod(0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(path))
        sock.listen()
        with Host({"P11HOST_SOCKET": str(path), "P11HOST_NO_START": "1"}).playing(find_broker) as application:
            sock.settimeout(PATIENCE)
            broker = activate(sock, config)
            try:
                assert broker.pid == application.report()
                application.end()
            finally:
                broker.kill()
                broker.wait()


#: Becomes a program as systemd starts one for a socket.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def activate(sock: socket.socket, config: Path) -> subprocess.Popen[bytes]:
    """Start a broker as systemd does."""
    serve = [
        sys.executable,
        "-P",
        "-m",
        "p11host",
        "serve",
        "--log-level",
        "warning",
        "--config",
        str(config),
    ]
    return subprocess.Popen(
        [sys.executable, "-c", ACTIVATE, str(sock.fileno()), *serve], pass_fds=[sock.fileno()]
    )


# ---- helpers end with their application ----


@pytest.mark.parametrize("end", ["C_Finalize", "exit", "SIGKILL"])
def test_helper_ends_with_its_application(plain: Host, end: str) -> None:
    """A helper ends when its application has, or has finalized, though an idle child holds everything."""
    with plain.playing(live_with_idle_child, end) as application:
        helper = application.report()
        if end == "SIGKILL":
            os.kill(application.process.pid, signal.SIGKILL)

        assert has_ended(helper)


def live_with_idle_child(end: str) -> None:
    """Use the shim, fork a child that does nothing, tell who the helper is, and end."""
    shim = Shim()
    session = shim.begin()
    if os.fork() == 0:
        signal.pause()
    assert shim.use(session) == "CKR_OK"
    report(helpers()["plain"])
    if end == "C_Finalize":
        shim.must("C_Finalize", None)
    if end != "exit":
        signal.pause()


def test_helper_that_began_late_ends_with_its_application(
    hosting: Hosting, odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper knows its owner though that came to the door before the helper looked."""
    config = module("plain", odd, env={"LATE_HELPER": str(helper_path())})
    late = tmp_path / "late-helper"
    late.write_text(f"#!{sys.executable}\n{BEGIN_LATE}")
    late.chmod(0o755)
    monkeypatch.setenv("P11HOST_HELPER", str(late))
    with hosting(config).playing(live_with_idle_child, "SIGKILL") as application:
        helper = application.report()
        os.kill(application.process.pid, signal.SIGKILL)

        assert has_ended(helper)


#: Becomes the helper once somebody has come to its door.
BEGIN_LATE = """
import os, select, sys
assert select.select([int(sys.argv[sys.argv.index("--door") + 1])], [], [], 30)[0]
os.execv(os.environ["LATE_HELPER"], [os.environ["LATE_HELPER"], *sys.argv[1:]])
"""


def test_childs_helper_ends_with_the_child(plain: Host) -> None:
    """The helper of a forked child ends with the child, the parent's does not."""
    assert "CKR_OK" == plain.play(outlive_child)


def outlive_child() -> str:
    """Have a child use the shim; see its helper end; return what our own session says."""
    shim = Shim()
    session = shim.begin()

    def live() -> int:
        shim.slots()
        return helpers()["plain"]

    helper = in_child(live)
    assert helper != helpers()["plain"]
    assert has_ended(helper)
    return shim.use(session)
