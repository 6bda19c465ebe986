"""`p11host doctor`: what it finds, what it says to do, and that nothing keeps it from the rest."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from brokers import PATIENCE, module
from elf import Library

from p11host import helper_path
from p11host.config import choose, load
from p11host.doctor import modules
from p11host.doctor.broker import reach
from p11host.doctor.cards import cards
from p11host.doctor.configuration import compared
from p11host.doctor.findings import Finding, Part, is_well, ok, problem, remedies
from p11host.doctor.machine import machine
from p11host.doctor.mechanisms import UNDEFINED, UNKNOWN, shortcomings
from p11host.doctor.surroundings import barred, kept_from, surroundings
from p11host.errors import P11HostError
from p11host.sandbox.kernel import Support
from p11host.start import private_broker
from p11host.tables import tables
from p11host.throwaway import Token
from p11host.together import together
from p11host.trust import owner_name
from p11host.uri import Uri
from p11host.view import View
from p11host.wire import RefusedError, RemoteError

NO_CARD = {"PCSCLITE_CSOCK_NAME": "/nowhere/pcscd.comm"}


def doctor(tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command, where it finds nothing of this machine's own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("P11HOST_")}
    return subprocess.run(
        [sys.executable, "-m", "p11host", "doctor", *map(str, words)],
        env=environ | {"P11HOST_HELPER": str(helper_path()), "XDG_RUNTIME_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def texts(part: dict[str, Any], level: str) -> list[str]:
    """Return the findings of a level."""
    return [finding["text"] for finding in part["findings"] if finding["level"] == level]


class TestCommand:
    """The command from end to end, with a broker of its own."""

    @pytest.fixture
    def config(self, tmp_path: Path, token: Token) -> Path:
        """Return a configuration of a token and of two modules that cannot be loaded."""
        path = tmp_path / "p11host.toml"
        empty = Library().write(tmp_path / "empty.so")
        path.write_text(
            module("soft", token.provider, env=dict(token.env))
            + module("empty", empty)
            + module("gone", tmp_path / "gone.so")
        )
        return path

    def test_json(self, tmp_path: Path, config: Path, token: Token) -> None:
        """One module that works is told with all it has, in spite of those that do not."""
        done = doctor(tmp_path, "--json", "--config", config)
        said = json.loads(done.stdout)
        parts = {part["name"]: part for part in said["parts"]}
        soft = parts["module soft"]
        slots = [slot["token"] for slot in soft["facts"]["slots"]]

        assert (1, "") == (done.returncode, done.stderr)
        assert (False, []) == (said["ok"], texts(soft, "problem"))
        assert ["machine", "configuration", "broker"] == list(parts)[:3]
        assert "2.40" == soft["facts"]["cryptoki"] == soft["facts"]["interface"]
        assert token.label in slots
        assert any(slot["mechanisms"] for slot in soft["facts"]["slots"])
        assert soft["facts"]["start"] > 0
        assert "not a shared library" in texts(parts["module empty"], "problem")[0]
        assert "no such file" in texts(parts["module gone"], "problem")[0]
        assert any(each.startswith("module gone: correct the path") for each in said["todo"])

    def test_shown(self, tmp_path: Path, config: Path, token: Token) -> None:
        """People see 80 columns without colour when it is no terminal, and at the end what to do."""
        done = doctor(tmp_path, "--config", config)
        long = [line for line in done.stdout.splitlines() if len(line) > 80 and " " in line.strip()]

        assert (1, "") == (done.returncode, done.stderr)
        assert "\x1b" not in done.stdout
        assert [] == long
        assert f"with a token: '{token.label}'" in " ".join(done.stdout.split())
        assert "\nWhat to do\n  1. " in done.stdout

    def test_wrong_configuration(self, tmp_path: Path) -> None:
        """Each fault of a configuration is a problem; the machine is looked at nevertheless."""
        config = tmp_path / "wrong.toml"
        config.write_text("[modul.a]\n[broker]\nidel = 1\n")
        done = doctor(tmp_path, "--json", "--config", config)
        machine, configuration = json.loads(done.stdout)["parts"]

        assert 1 == done.returncode
        assert "machine" == machine["name"]
        assert [1, 3] == [int(text.split(":")[1]) for text in texts(configuration, "problem")]


class TestSurroundings:
    """What a module needs around it."""

    def found(self, tmp_path: Path, text: str) -> list[Finding]:
        """Return what is found around the module of a configuration."""
        path = tmp_path / "p11host.toml"
        path.write_text(text)
        return list(surroundings(load(choose(path)).modules[0]))

    def test_pin(self, tmp_path: Path) -> None:
        """A PIN that others can read is a problem, and what to do is said; the PIN is not."""
        pin = tmp_path / "pin"
        pin.write_text("secret99\n")
        text = module("one", tmp_path / "one.so") + f'pin-source = "file:{pin}"\nresume = true\n'
        pin.chmod(0o644)
        (found,) = self.found(tmp_path, text)
        pin.chmod(0o400)

        assert ("problem", f"run: chmod 0400 {pin}") == (found.level, found.do)
        assert "secret99" not in str(found)
        assert [] == self.found(tmp_path, text)

    def test_pcscd(self, tmp_path: Path) -> None:
        """Where a profile has pcscd's socket it is tried; other modules do not hear of it."""
        where = tmp_path / "pcscd.comm"
        text = module("card", tmp_path / "opensc-pkcs11.so", env={"PCSCLITE_CSOCK_NAME": str(where)})
        (absent,) = self.found(tmp_path, text)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(where))
            listener.listen()
            (present,) = self.found(tmp_path, text)

        assert ("warning", True) == (absent.level, "pcscd" in absent.do)
        assert "ok" == present.level
        assert [] == self.found(tmp_path, module("other", tmp_path / "other.so"))

    def test_pcscd_for_others(self, tmp_path: Path) -> None:
        """A pcscd that is not for this user is one thing to do, whoever finds it."""
        path, where = tmp_path / "p11host.toml", tmp_path / "pcscd.comm"
        path.write_text(
            module("card", tmp_path / "opensc-pkcs11.so", env={"PCSCLITE_CSOCK_NAME": str(where)})
        )
        door = MagicMock()
        said = {"service": "SCARD_E_NO_ACCESS", "place": str(where), "modules": ["card"], "readers": []}
        door.open.return_value.__enter__.return_value.call.return_value = said
        found = cards(load(choose(path)).modules, door)

        assert found.part is not None
        assert (kept_from(where, "SCARD_E_NO_ACCESS"),) == found.part.findings
        assert {"card": ""} == found.remedies

    def test_sandbox_off(self, tmp_path: Path) -> None:
        """A sandbox that is off is worth a warning."""
        (found,) = self.found(tmp_path, module("one", tmp_path / "one.so", sandbox="off"))

        assert "warning" == found.level

    def test_barred(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of its provider that this user may not read is named; one for all to read is not."""
        conf = tmp_path / "softhsm2.conf"
        conf.write_text("")
        path = tmp_path / "p11host.toml"
        path.write_text(module("soft", tmp_path / "libsofthsm2.so", env={"SOFTHSM2_CONF": str(conf)}))
        one = load(choose(path)).modules[0]
        monkeypatch.setattr(os, "access", lambda place, _: bool(Path(place).stat().st_mode & 0o004))
        conf.chmod(0o644)
        readable = [finding.text for finding in barred(one)]
        conf.chmod(0o640)
        found = [finding for finding in barred(one) if finding.text not in readable]

        assert [("warning", f"{conf} is not for this user to read")] == [(f.level, f.text) for f in found]
        assert "module.soft.env" in found[0].do
        assert all("is not for this user" in text and "softhsm" in text for text in readable)


class TestModule:
    """What an examination means."""

    @pytest.fixture
    def examined(self) -> modules.Examined:
        """Return an examination of a token."""
        slot = modules.Slot("reader", "mine", "model", 0x400, (1, 0x3D6))
        return modules.Examined(0.01, 64, "3.0", "Acme 1.0 by Acme", "3.0", (slot,), 0, ())

    def levels(self, found: modules.Examined) -> list[str]:
        """Return how bad each finding is."""
        return [finding.level for finding in modules.findings("one", found)]

    def test_well(self, examined: modules.Examined) -> None:
        """A module that has all it should have is told in three lines."""
        assert ["ok"] * 3 == self.levels(examined)

    def test_worth_a_warning(self, examined: modules.Examined) -> None:
        """A slow start, no slots, a locked PIN and a last try are told."""
        (slot,) = examined.slots

        assert "warning" in self.levels(replace(examined, start=5.0))
        assert "warning" in self.levels(replace(examined, slots=()))
        for flags in (0x40000, 0x20000):
            assert "warning" in self.levels(replace(examined, slots=(replace(slot, flags=flags),)))

    def test_slot_with_an_error(self, examined: modules.Examined) -> None:
        """A slot that fails is a problem, and the others are counted."""
        wrong = modules.Slot("broken", error="C_GetTokenInfo: CKR_DEVICE_ERROR")
        found = list(modules.findings("one", replace(examined, slots=(*examined.slots, wrong))))

        blank = replace(examined, slots=(*examined.slots, modules.Slot("new", "", "model", 0)))

        assert "2 slots, 1 with a token: 'mine'" in [finding.text for finding in found]
        assert "2 slots, 2 with a token: 'mine', 1 not initialised" in [
            f.text for f in modules.findings("one", blank)
        ]
        assert "broken: C_GetTokenInfo: CKR_DEVICE_ERROR" in [f.text for f in found if f.level == "problem"]

    def test_repeated(self, examined: modules.Examined) -> None:
        """Slots that are listed more than once are worth a note."""
        found = modules.findings("one", replace(examined, repeated=2))

        assert ["it lists slots more than once, 2 too many; applications see each once"] == [
            finding.text for finding in found if finding.level == "note"
        ]

    def test_selectors(self, examined: modules.Examined) -> None:
        """Token selectors that leave nothing are told, and each that fits nothing of what is there."""
        view = View(tokens=(Uri(token="mine", slot_description="reader"), Uri(token="other"), Uri(slot_id=7)))
        found = list(modules.findings("one", examined, view))
        none = list(modules.findings("one", replace(examined, slots=()), view))
        empty = list(modules.findings("one", replace(examined, slots=(modules.Slot("reader"),)), view))

        said = [
            "nothing that is there fits pkcs11:token=other",
            "nothing that is there fits pkcs11:slot-id=7",
        ]
        assert said == [finding.text for finding in found if finding.level == "note"]
        assert ["its token selectors leave it no slots"] == [f.text for f in none if f.level == "warning"]
        assert 3 == len([finding for finding in empty if finding.level == "note"])

    def test_failed(self) -> None:
        """A return value has its name, and there is something to do, but where a rule hides the module."""
        (found,) = modules.part("one", RemoteError("failed", "no card (CKR_DEVICE_ERROR)"), ()).findings
        (string,) = modules.part("one", P11HostError("C_Initialize answered CKR_ARGUMENTS_BAD"), ()).findings
        (late,) = modules.part("one", TimeoutError("no answer within 5 s"), ()).findings
        (hidden,) = modules.part("one", RefusedError("refused", "not for uid 7"), ()).findings

        assert "no card (CKR_DEVICE_ERROR)" == found.text
        assert "module.one.reserved" in string.do
        assert ("problem", True) == (late.level, bool(late.do))
        assert ("note", "not for uid 7") == (hidden.level, hidden.text)

    def test_mechanisms(self) -> None:
        """Those of which nothing is known, or whose parameter is nowhere described, are told."""
        known = tables()
        x3dh = known.mechanisms["CKM_X3DH_INITIALIZE"].value
        short = {each.name: each.reason for each in shortcomings(known, [1, 0x3D6, x3dh, 0x80001234])}

        assert {"CKM_TLS10_MAC_SERVER": UNDEFINED, "0x80001234": UNKNOWN} == {
            name: reason for name, reason in short.items() if name != "CKM_X3DH_INITIALIZE"
        }
        assert "only NULL is carried there" in short["CKM_X3DH_INITIALIZE"]


class TestBroker:
    """Its socket, its circuits, and whether it is the one that is meant."""

    @pytest.fixture
    def socket_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Return the socket of a broker, which is found there and nowhere else."""
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        monkeypatch.delenv("P11HOST_SOCKET", raising=False)
        config = tmp_path / "p11host.toml"
        config.write_text(module("one", Library().write(tmp_path / "one.so")))
        with private_broker(config) as broker:
            monkeypatch.setenv("P11HOST_SOCKET", str(broker.socket))
            yield broker.socket

    @staticmethod
    def about_socket() -> Finding:
        """Return what is told of the socket."""
        reached = reach()
        assert reached.door is not None
        reached.door.close()
        return reached.part.findings[1]

    def test_socket(self, socket_file: Path) -> None:
        """Whose it is and who may use it is told; who could put another in its place is a problem."""
        me = owner_name(os.geteuid())

        assert ok(f"{socket_file}: owner {me}, mode 0600") == self.about_socket()
        socket_file.parent.chmod(0o777)
        found = self.about_socket()
        assert ("problem", f"run: chmod o-w {socket_file.parent}") == (found.level, found.do)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a socket to another user")
    def test_socket_for_everybody(self, socket_file: Path) -> None:
        """Everybody may use root's; one of another user that everybody may use is worth a warning."""
        socket_file.chmod(0o666)
        assert ok(f"{socket_file}: owner root, mode 0666") == self.about_socket()
        os.chown(socket_file, 65534, -1)
        found = self.about_socket()

        assert ("warning", f"run: chmod 0600 {socket_file}") == (found.level, found.do)
        assert found.text.endswith("mode 0666: everybody may ask for helpers")

    def test_circuits(self) -> None:
        """A module that rests after crashes is a problem; one that died and is tried again is none."""
        circuits = [
            {"open": True, "deaths": 5, "last": "SIGSEGV in dlopen", "retry": 4000},
            {"open": False, "deaths": 1, "last": "SIGSEGV", "retry": 0},
        ]
        modules = [{"name": f"m{n}", "circuit": circuit} for n, circuit in enumerate(circuits)]
        door = MagicMock()
        channel = door.open.return_value.__enter__.return_value
        channel.call.return_value = {"pid": 7, "config": [], "modules": modules}
        (found,) = [each for each in reach(lambda: door).part.findings if each.level == "problem"]

        assert "module m0 rests: 5 helpers died at once, the last by SIGSEGV in dlopen" == found.text
        assert found.do.endswith("p11host restart m0")

    def test_another_broker(self, tmp_path: Path) -> None:
        """A broker with other modules than those configured is told; what rules hide is no difference."""
        path = tmp_path / "p11host.toml"
        rule = 'allow = [{ uid = "root" }]\n'
        path.write_text(module("one", Path("/one.so")) + module("ruled", Path("/two.so")) + rule)
        config = load(choose(path))

        def differences(*names: str) -> list[str]:
            modules = [{"name": name} for name in names]
            return [each.level for each in compared(config, {"modules": modules, "config": ["/other"]})]

        assert [] == differences("one", "ruled") == differences("one")
        assert ["warning"] == differences("ruled") == differences("one", "ruled", "more")


class TestRest:
    """Findings, remedies, and waiting for several at once."""

    def test_remedies(self) -> None:
        """What helps against problems comes first, each thing once; what to do stands after the semicolon."""
        warning = Finding("warning", "a", "later")
        parts = [Part("x", (warning, problem("it fails; do this"), problem("it fails; do this")))]

        assert ["x: do this", "x: later"] == list(remedies(parts))
        assert ["x, y: do this", "x: later"] == list(remedies([*parts, Part("y", (problem("c; do this"),))]))
        assert not is_well(parts)
        assert is_well([Part("x", (warning,))])

    @pytest.mark.parametrize(
        ("kernel", "level", "said"),
        [
            (Support(0, seccomp=False), "warning", "the kernel has no Landlock: providers are confined less"),
            (Support(0, seccomp=False), "warning", "the kernel has no seccomp: providers are confined less"),
            (Support(3, seccomp=True), "note", "this Landlock does not confine TCP"),
        ],
    )
    def test_kernel(self, kernel: Support, level: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the kernel lacks of the sandbox is told."""
        monkeypatch.setattr("p11host.doctor.machine.support", lambda: kernel)
        found = machine().findings

        assert (level, True) in [(each.level, each.text.startswith(said)) for each in found]

    def test_no_broker(self) -> None:
        """A broker that cannot be reached is a problem, and no more."""

        def refuse() -> Any:
            raise ConnectionRefusedError(111, "Connection refused")

        reached = reach(refuse)

        assert (None, None) == (reached.door, reached.status)
        assert not is_well([reached.part])

    def test_together(self) -> None:
        """All are run, however many; what one raises is raised where it is waited for."""
        tasks = {str(n): partial(int, n) for n in range(9)}

        assert [(str(n), n) for n in range(9)] == sorted(together(tasks))
        with pytest.raises(ZeroDivisionError):
            list(together({"a": lambda: 1 // 0}))
        assert [] == list(together({}))
