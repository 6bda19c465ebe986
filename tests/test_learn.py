"""Learning what a module needs: it runs as it wants to, and the lines that allow that are printed."""

import ctypes
import json
import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from application import Shim
from brokers import PATIENCE, module
from click.testing import CliRunner
from life import TESTS, Host, Hosting, Workshop
from test_sandbox import O_CREATE, attempt, attempts

from p11host.cli import cli
from p11host.sandbox.learn import MOST_HEARD, Asked, Heard, Learner, heard_in, listened
from p11host.sandbox.lines import covered, lines
from p11host.sandbox.resolve import Allowed, Profile
from p11host.sandbox.settings import DEFAULT

pytest_plugins = ["life_fixtures"]


@pytest.fixture(scope="module")
def attempter(workshop: Workshop) -> Path:
    """Return the provider that tries what it is told."""
    return workshop.provider("attempt")


def learn(config: Path, *command: str, status: int = 0) -> str:
    """Have p11host learn what the module `it` needs for a command; return what it printed."""
    words = [sys.executable, "-m", "p11host", "sandbox", "it", "--config", str(config), "--learn"]
    words += ["--", *command] if command else []
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert status == done.returncode, done.stderr
    return done.stdout


def trying(*wishes: str) -> Sequence[str]:
    """Return the command of an application that has the provider try things, each of which must succeed."""
    words = ["test_learn", "must", "9", *map(json.dumps, wishes)]
    return ["sh", "-c", 'exec "$0" "$@" 9>/dev/null', sys.executable, str(TESTS / "act.py"), *words]


def must(*wishes: str) -> None:
    """Have the provider try things, each of which must succeed."""
    shim = Shim()
    session = shim.begin()
    assert [""] * len(wishes) == [attempt(shim, session, wish) for wish in wishes]


def test_learned_lines_are_enough(attempter: Path, tmp_path: Path, hosting: Hosting) -> None:
    """A module that learns is denied nothing; with the lines that are printed it gets all of that again."""
    for name in ("read", "written", "made"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as here:
        here.bind(str(tmp_path / "socket"))
        here.listen()
        port = server.getsockname()[1]
        wishes = [
            f":open 0 {tmp_path}/read/file",
            f":open 1 {tmp_path}/written/file",
            ":fork",
            ":exec /bin/true",
        ]
        wishes += [
            f":open {O_CREATE} {tmp_path}/made/new",
            f"unlink {tmp_path}/made/new",
            ":open 2 /dev/full",
        ]
        wishes += [f":connect {port}", f":connect {tmp_path}/socket", ":open 0 /usr/lib/os-release"]
        config = tmp_path / "learn.toml"
        config.write_text(module("it", attempter))
        printed = learn(config, *trying(*wishes))
        sandbox = tomllib.loads(printed)["module"]["it"]["sandbox"]

        assert {
            "read": [f"{tmp_path}/read/file"],
            "write": [f"{tmp_path}/made", f"{tmp_path}/written/file"],
            "execute": [str(Path("/bin/true").resolve())],
            "devices": ["/dev/full"],
            "sockets": [f"{tmp_path}/socket"],
            "network": True,
            "processes": True,
        } == sandbox
        assert f"or [{port}]" in printed
        assert [""] * len(wishes) == hosting(config.read_text(), printed).play(attempts, *wishes)


def test_nothing_to_learn(attempter: Path, tmp_path: Path) -> None:
    """A module that needs no more than it has is told so; calls that nobody may make are named."""
    config = tmp_path / "learn.toml"
    config.write_text(module("it", attempter))

    assert "# it needs nothing beyond its profile, strict.\n" == learn(config)
    printed = learn(config, *trying("personality 0"))
    assert "# It also made calls that no module may make: personality.\n" in printed


def test_failing_command(attempter: Path, tmp_path: Path) -> None:
    """If the command fails, what was learned is printed, and that it may not be all."""
    config = tmp_path / "learn.toml"
    config.write_text(module("it", attempter))

    assert "needs nothing" in learn(config, "false", status=1)


# ---- lines ----


def profile(*paths: Allowed) -> Profile:
    """Return a profile with these paths."""
    return Profile("x", "", paths, network=False, processes=False, ipc=False, settings=DEFAULT)


@pytest.mark.parametrize("text", ["/" + "x" * 300, "{}/loop", "{}/loop/below"])
def test_paths_that_lead_nowhere(text: str, tmp_path: Path) -> None:
    """Of a call with a path that nobody can follow nothing is wanted, and it goes on."""
    (tmp_path / "loop").symlink_to("loop")
    path = ctypes.create_string_buffer(text.format(tmp_path).encode())
    words = (ctypes.addressof(path), 0, 0, 0, 0, 0)
    heard = [each for name in ("open", "execve") for each in listened(Asked(1, os.getpid(), name, words))]

    assert [] == [each for each in heard if each.right]


@pytest.mark.parametrize("address", [0, 8, (1 << 63) + 8, (1 << 64) - 1])
def test_addresses_that_lead_nowhere(address: int) -> None:
    """So it is with memory that nobody can read."""
    for name in ("open", "openat", "connect", "bind", "execve"):
        words = (address, address, (1 << 64) - 1, 0, 0, 0)
        assert not [each for each in listened(Asked(1, os.getpid(), name, words)) if each.path]


def test_a_listener_is_nobody_elses(tmp_path: Path) -> None:
    """What a helper hands over to be listened to is inherited by no other helper."""
    (tmp_path / "heard").touch()
    reader, writer = os.pipe()
    with Learner("it", tmp_path / "heard").begin() as theirs:
        socket.send_fds(theirs, [b"\0"], [reader])
    os.close(reader)
    end = time.monotonic() + PATIENCE
    while not (copies := [fd for fd in same_as(writer) if fd != writer]) and time.monotonic() < end:
        time.sleep(0.01)
    inherited = [os.get_inheritable(each) for each in copies]
    os.close(writer)

    assert [False] == inherited


def test_what_is_heard_has_an_end(attempter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that names a file anew each time fills neither memory nor disk, and is told to be one."""
    config = tmp_path / "p11host.toml"
    config.write_text(module("it", attempter))

    def run(_: object, __: object, ___: object, file: Path) -> int:
        learner = Learner("it", file)
        for number in [*range(MOST_HEARD + 5), 0]:
            learner.note(Heard("read", f"/srv/many/{number}"))
        assert MOST_HEARD == len(heard_in(file))
        return 0

    monkeypatch.setattr("p11host.cli.sandbox._run", run)
    said = CliRunner().invoke(cli, ["sandbox", "it", "--config", str(config), "--learn"])

    assert 'read = ["/srv/many"]' in said.output
    assert f"it wanted more than these {MOST_HEARD} things; allow it directories" == str(said.exception)


def same_as(descriptor: int) -> list[int]:
    """Return this process's descriptors of the same file."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.path.sameopenfile(int(entry.name), descriptor):
                found.append(int(entry.name))
    return found


def test_what_is_covered() -> None:
    """Changing covers reading, a directory what is in it; sockets are named one by one."""
    has: list[tuple[str, str]] = [("write", "/a"), ("read", "/b"), ("sockets", "/run/s"), ("sockets", "@x")]
    yes = [("read", "/a/x"), ("write", "/a"), ("read", "/b"), ("sockets", "/run/s"), ("sockets", "@x")]
    no = [("write", "/b/x"), ("read", "/ab"), ("execute", "/a/x"), ("sockets", "/run/s/t"), ("sockets", "@y")]

    assert [True] * 5 + [False] * 5 == [covered(right, path, has) for right, path in yes + no]  # type: ignore[arg-type]


def test_many_files_are_their_directory() -> None:
    """Eight files of one directory become the directory; below it nothing is named again."""
    heard = [Heard("read", f"/many/{number}") for number in range(8)] + [Heard("read", "/few/1")]
    heard += [Heard("read", "/many/deeper/1"), Heard("read", "/its/own"), Heard(capability="ipc")]

    assert ['[module."a.b".sandbox]', 'read = ["/few/1", "/many"]', "ipc = true"] == list(
        lines("a.b", profile(Allowed("read", "/its", "")), heard)
    )


def test_strict_is_not_told_again(hosting: Hosting, attempter: Path) -> None:
    """The words for people name the profile and what it allows."""
    host: Host = hosting(module("it", attempter, sandbox={"ipc": True}))
    said = host.run(sys.executable, "-m", "p11host", "sandbox", "it", "--config", host.config or "")

    assert "module it  profile strict (unknown: the strict default)" in said
    assert "may share memory and queues with others" in " ".join(said.split())
    report = json.loads(
        host.run(sys.executable, "-m", "p11host", "sandbox", "it", "--json", "--config", host.config or "")
    )
    assert ("it", "strict", True, False) == tuple(
        report[key] for key in ("module", "profile", "enforced", "required")
    )
    assert str(attempter) in {each["detail"] for each in report["statements"]}
