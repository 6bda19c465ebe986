"""The helper as a process: what it has given up, what it holds, what it costs."""

import ctypes
import os
import re
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from application import Shim, helpers, report
from brokers import module
from cryptoki import ULONG, constant, struct
from life import Host, Hosting

from p11host import shim_path

pytest_plugins = ["life_fixtures"]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: helpers show nothing of themselves to others"
)
MOST_PRIVATE_KB = 1024
SECRET = "P11HOST_TEST_SECRET"


def live() -> None:
    """Use the shim, tell who the helper is, and wait to be ended."""
    shim = Shim()
    assert shim.use(shim.begin()) == "CKR_OK"
    report(next(iter(helpers().values())))
    signal.pause()


def status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_has_given_up_privileges(plain: Host) -> None:
    """A helper gains nothing by exec, leaves no core, and has a session of its own."""
    with plain.playing(live) as application:
        pid = application.report()
        core = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core" in line)

        assert "1" == status(pid)["NoNewPrivs"]
        assert ["0", "0"] == core.split()[4:6]
        assert pid == os.getsid(pid)


def test_provider_cannot_be_dumped(plain: Host) -> None:
    """Others of the same user can neither trace a helper nor read its memory: it is not dumpable."""
    assert 0 == plain.play(dumpable)


def dumpable() -> int:
    """Return what the provider knows of it."""
    shim = Shim()
    shim.begin()
    info = struct("CK_TOKEN_INFO")()
    shim.must("C_GetTokenInfo", shim.slots()[0], ctypes.byref(info))
    return int(info.ulMaxSessionCount)


@needs_root
@pytest.mark.parametrize(
    ("call", "length"),
    [("C_Login", 8), ("C_Login", 250), ("C_CreateObject", 3_000), ("C_CreateObject", 30_000)],
)
def test_keeps_no_secret(plain: Host, call: str, length: int) -> None:
    """After a call a PIN or a key's value is nowhere in the helper's memory, nor in what both ends share."""
    with plain.playing(tell_secret, call, length) as application:
        pid, told = application.report()
        memory = memory_of(pid)
    secret = bytes.fromhex(told)
    pieces = [secret[at : at + 8] for at in range(0, length - 7, max(8, length // 32))]

    assert any(b"C_GetFunctionList" in part for part in memory)
    assert [] == [piece for piece in pieces if any(piece in part for part in memory)]


def tell_secret(call: str, length: int) -> None:
    """Tell the provider a secret, make a small call after that, report the secret, and wait to be ended."""
    shim = Shim()
    session = shim.begin()
    secret = os.urandom(length)
    if call == "C_Login":
        shim.must(call, session, constant("CKU_USER"), secret, length)
    else:
        room = ctypes.create_string_buffer(secret, length)
        value = struct("CK_ATTRIBUTE")(constant("CKA_VALUE"), ctypes.addressof(room), length)
        shim.must(call, session, ctypes.byref(value), 1, ctypes.byref(ULONG()))
    shim.use(session)
    report([next(iter(helpers().values())), secret.hex()])
    signal.pause()


def memory_of(pid: int) -> list[bytes]:
    """Return what is in the memory that a process may write or has mapped from others."""
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            start, end = (int(each, 16) for each in span.split("-"))
            if mode[0] == "r" and end - start < 1 << 30:
                with suppress(OSError):
                    memory.seek(start)
                    parts.append(memory.read(end - start))
    return parts


@needs_root
def test_has_only_its_own_descriptors(plain: Host) -> None:
    """A helper has standard streams, its door, a channel and a way back, and what it watches its owner by.

    And the socket by which it hears who watches its calls, and the number that such a one will have.
    """
    with plain.playing(live) as application:
        pid = application.report()
        links = {int(link.name): str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}

        assert ["/dev/null", "/dev/null", "pipe"] == [kind(links[place]) for place in range(3)]
        others = Counter(kind(link) for place, link in links.items() if place > 2)
        assert {"socket": 5, "anon_inode:[eventfd]": 1, "anon_inode:[pidfd]": 1} == others


def kind(link: str) -> str:
    """Return what a descriptor is, without a number."""
    return re.sub(r":\[\d+\]$", "", link)


@needs_root
def test_environment_is_rebuilt(hosting: Hosting, odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper's environment is its module's and a little of the broker's, nothing of the application's."""
    monkeypatch.setenv(SECRET, "broker's")
    host = hosting(module("odd", odd, env={"ODD_SLOTS": "2"}))
    with host.playing(live, env={SECRET: "application's", "LC_TEST": "application's"}) as application:
        environ = Path(f"/proc/{application.report()}/environ").read_bytes().decode().split("\0")
        names = {line.partition("=")[0] for line in environ if line}

    assert "ODD_SLOTS=2" in environ
    kept = {name for name in os.environ if name.startswith("LC_")}
    assert set() == names - kept - {
        "ODD_SLOTS",
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TZ",
        "XDG_RUNTIME_DIR",
    }


def test_sigpipe_is_harmless(plain: Host) -> None:
    """A provider that writes to somebody who has gone gets an error and does not die."""
    assert ["CKR_OK", "CKR_OK"] == plain.play(break_pipe)


def break_pipe() -> list[str]:
    """Have the provider write to a pipe that nobody reads; use the session after that."""
    shim = Shim()
    session = shim.begin()
    return [shim.rv("C_SeedRandom", session, b"seed", 4), shim.use(session)]


def test_signals_are_default(plain: Host) -> None:
    """Whatever others ignore or block, a helper blocks no signal and ignores none but SIGPIPE."""
    with plain.playing(live_ignoring_signals) as application:
        found = status(application.report())

        assert set() == signals(found["SigBlk"])
        assert {signal.SIGPIPE} == signals(found["SigIgn"])


def signals(mask: str) -> set[int]:
    """Return the signals of a mask, as far as programs may use them."""
    bits = int(mask, 16)
    return {number for number in signal.valid_signals() if bits >> (number - 1) & 1}


def live_ignoring_signals() -> None:
    """Do as `live`, with signals blocked and ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGHUP})
    live()


@needs_root
def test_takes_little_memory(hosting: Hosting) -> None:
    """A helper whose provider needs next to nothing has at most 1 MiB of memory to itself, after a call."""
    host = hosting(module("sleepy", shim_path().parent / "p11host-sleepy.so"))
    with host.playing(live) as application:
        rollup = Path(f"/proc/{application.report()}/smaps_rollup").read_text()

    private = sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): *(\d+) kB", rollup, re.MULTILINE)))
    assert 0 < private <= MOST_PRIVATE_KB
