"""conf/systemd: the units are right by systemd's own judgement, and name what there is."""

import configparser
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from p11host.cli.serve import serve
from p11host.paths import SYSTEM_CONFIG, SYSTEM_SOCKET

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "conf" / "systemd"
PATIENCE = 60
#: What `systemd-analyze security` gives the worst of all units, and what ours may have at most.
WORST, MOST = 10.0, {"system": 5.0, "user": 7.0}


def run(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program of systemd's."""
    return subprocess.run(
        list(map(str, words)),
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def unit(name: str) -> configparser.RawConfigParser:
    """Read a unit; of keys that repeat the last counts."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


@pytest.mark.parametrize("kind", ["system", "user"])
class TestUnits:
    """The broker's units, for all users and for each."""

    def test_verified(self, kind: str, tmp_path: Path) -> None:
        """By systemd's own judgement nothing is wrong with them."""
        files = sorted((UNITS / kind).iterdir())
        options = ["--man=no", "--recursive-errors=no", *(["--user"] if kind == "user" else [])]
        done = run("systemd-analyze", "verify", *options, *files, XDG_RUNTIME_DIR=str(tmp_path))

        assert ["p11host.service", "p11host.socket"] == [file.name for file in files]
        assert (0, "") == (done.returncode, done.stderr)

    def test_hardened(self, kind: str) -> None:
        """They are no more exposed than the needs of providers make them."""
        done = run("systemd-analyze", "security", "--offline=yes", UNITS / kind / "p11host.service")
        exposure = re.search(r"Overall exposure level.*: (\d+\.\d)", done.stdout)

        assert exposure is not None, done.stderr
        assert MOST[kind] >= float(exposure[1]) > 0
        assert float(exposure[1]) < WORST

    def test_denies_no_helper_its_calls(self, kind: str) -> None:
        """No system call that a helper may make is denied to it by the unit."""
        sets = unit(f"{kind}/p11host.service")["Service"]["SystemCallFilter"].removeprefix("~").split()
        shown = run("systemd-analyze", "syscall-filter", *sets).stdout
        denied = set(re.findall(r"^    (\w+)$", shown, re.MULTILINE))
        rows = (ROOT / "specs" / "syscalls.toml").read_text()
        named = set(re.findall(r'"([a-z0-9_]+)"', rows))

        assert {"mount", "ptrace", "init_module"} <= denied
        assert {"read", "futex"} <= named
        assert set() == denied & named

    def test_command(self, kind: str) -> None:
        """The command that is started is there, with every option."""
        words = shlex.split(unit(f"{kind}/p11host.service")["Service"]["ExecStart"])
        known = {name for param in serve.params for name in param.opts}

        assert ["/usr/bin/env", "p11host", "serve"] == words[:3]
        assert set(words[3:]) <= known
        assert ("--system" in words) == (kind == "system")


def test_sockets() -> None:
    """The sockets are where applications look for them, with the rights that they need."""
    system, user = (unit(f"{kind}/p11host.socket")["Socket"] for kind in ("system", "user"))

    assert str(SYSTEM_SOCKET) == system["ListenSequentialPacket"]
    assert "%t/p11host/broker.sock" == user["ListenSequentialPacket"]
    assert ("0666", "0600") == (system["SocketMode"], user["SocketMode"])


def test_users() -> None:
    """The user of modules that need not be root can be made, and the directories are those that are used."""
    done = run("systemd-sysusers", "--dry-run", UNITS / "sysusers.d" / "p11host.conf")
    lines = (UNITS / "tmpfiles.d" / "p11host.conf").read_text().splitlines()
    made = [line.split() for line in lines if not line.startswith("#")]
    directories = {words[1]: words[2:5] for words in made if words[0] == "d"}

    assert 0 == done.returncode, done.stderr
    assert ["0755", "root", "root"] == directories[str(SYSTEM_CONFIG.parent)]
    assert ["0755", "root", "root"] == directories[str(SYSTEM_SOCKET.parent)]
    assert ["0700", "p11host", "p11host"] == directories["/var/lib/p11host"]
