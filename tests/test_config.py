"""The configuration: what it means, and what every fault in it is called."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from p11host.config import IDLE, Choice, Config, choose, load
from p11host.config_lines import locate
from p11host.config_schema import BrokerTable, ModuleTable, fields_of
from p11host.errors import ConfigError
from p11host.paths import SYSTEM_CONFIG, SYSTEM_SOCKET, config_candidates, socket_path
from p11host.pins import RULE as PIN_SOURCE

RESERVED = "expected a string of 1 to 16384 bytes without NUL, as the provider wants it"
GOOD = """\
[broker]
socket = "/run/x/broker.sock"
idle = 9

[module.soft]
path = "/usr/lib/soft.so"
env = { SOFTHSM2_CONF = "/etc/soft.conf", EMPTY = "" }
fork = "strict"
threads = 1
priority = -3
reserved = "slot=1"
deadlines = { short = 5, long = 7, start = 9, list = 11 }

[module.plain]
path = "/usr/lib/plain.so"

[module."off.2"]
path = "/usr/lib/off.so"
enabled = false
"""


def read(directory: Path, text: str) -> Config:
    """Load a configuration of that text."""
    file = directory / "p11host.toml"
    file.write_text(text)
    return load(choose(file, {}))


def faults(directory: Path, text: str) -> list[str]:
    """Return the faults of a configuration of that text, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        read(directory, text)
    return [problem.removeprefix(f"{directory / 'p11host.toml'}:") for problem in caught.value.problems]


class TestMeaning:
    """What a right file says."""

    def test_every_key(self, tmp_path: Path) -> None:
        """Each key of a module and of the broker arrives as it was written."""
        config = read(tmp_path, GOOD)
        soft = next(module for module in config.modules if module.name == "soft")

        assert (Path("/run/x/broker.sock"), 9) == (config.socket, config.idle)
        assert (Path("/usr/lib/soft.so"), "strict", 1, -3) == (
            soft.path,
            soft.fork,
            soft.threads,
            soft.priority,
        )
        assert {"SOFTHSM2_CONF": "/etc/soft.conf", "EMPTY": ""} == dict(soft.env)
        assert ("slot=1", (5, 7, 9, 11), True) == (
            soft.reserved,
            (soft.short, soft.long, soft.start, soft.list),
            soft.enabled,
        )
        assert (tmp_path / "p11host.toml",) == config.files

    def test_defaults(self, tmp_path: Path) -> None:
        """A path is enough."""
        plain = read(tmp_path, GOOD).modules[0]

        assert ("plain", "reinit", None, 0) == (plain.name, plain.fork, plain.threads, plain.priority)
        assert ({}, None, True) == (dict(plain.env), plain.reserved, plain.enabled)
        assert (60_000, 600_000, 10_000, 5_000) == (plain.short, plain.long, plain.start, plain.list)

    def test_order(self, tmp_path: Path) -> None:
        """The higher priority comes first; disabled modules are known and not enabled."""
        config = read(tmp_path, GOOD)

        assert ["plain", "off.2", "soft"] == [module.name for module in config.modules]
        assert ["plain", "soft"] == [module.name for module in config.enabled]

    def test_the_users_module_wins(self, tmp_path: Path) -> None:
        """Of two modules with one name the earlier file's counts, whole; the other files add theirs."""
        user, system = tmp_path / "user.toml", tmp_path / "system.toml"
        user.write_text('[module.a]\npath = "/user/a.so"\n')
        system.write_text(
            '[broker]\nidle = 4\n[module.b]\npath = "/b.so"\n[module.a]\npath = "/system/a.so"\nthreads = 1\n'
        )
        config = load(Choice((user, system), named=False))

        assert ["a", "b"] == [module.name for module in config.modules]
        assert (Path("/user/a.so"), None) == (config.modules[0].path, config.modules[0].threads)
        assert (4, (user, system)) == (config.idle, config.files)

    def test_cannot_be_changed(self, tmp_path: Path) -> None:
        """What was read stays as it was read."""
        module = read(tmp_path, GOOD).modules[0]

        with pytest.raises(AttributeError):
            module.path = Path("/other.so")  # type: ignore[misc]
        with pytest.raises(TypeError):
            module.env["LD_PRELOAD"] = "x"  # type: ignore[index]


class TestFaults:
    """A fault is told with its file, line and key, what was expected, and the nearest known key."""

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("thread = 1", "module.a.thread: unknown key; did you mean 'threads'?"),
            ("zzz = 1", "module.a.zzz: unknown key; known are path, env, fork, "),
            ('fork = "later"', 'module.a.fork: expected "reinit", "inherit" or "strict", not "later"'),
            ("fork = 1", 'module.a.fork: expected "reinit", "inherit" or "strict", not 1'),
            ("threads = 2", "module.a.threads: expected 1, or no such key, not 2"),
            ("threads = true", "module.a.threads: expected 1, or no such key, not true"),
            ('threads = "1"', 'module.a.threads: expected 1, or no such key, not "1"'),
            ("priority = 1.5", "module.a.priority: expected a whole number, higher first, not 1.5"),
            (
                "priority = 99999999999",
                "module.a.priority: expected a whole number, higher first, not 99999999999",
            ),
            ("enabled = 1", "module.a.enabled: expected true or false, not 1"),
            ('enabled = "yes"', 'module.a.enabled: expected true or false, not "yes"'),
            ("reserved = 5", f"module.a.reserved: {RESERVED}, not an integer"),
            ("reserved = ['a']", f"module.a.reserved: {RESERVED}, not an array"),
            ('reserved = ""', f"module.a.reserved: {RESERVED}, not a string"),
            (f'reserved = "{"x" * 16385}"', f"module.a.reserved: {RESERVED}, not a string"),
            (r'reserved = "a\u0000b"', f"module.a.reserved: {RESERVED}, not a string"),
            ("env = []", "module.a.env: expected environment variables and strings, "),
            ("env = { PIN = 1234 }", "module.a.env.PIN: expected a string without NUL, not an integer"),
            ('env = { "A B" = "" }', 'module.a.env."A B": expected a variable\'s name, not a string'),
            (r'env = { A = "\u0000" }', "module.a.env.A: expected a string without NUL, not a string"),
            ("deadlines = 5", "module.a.deadlines: expected { short = milliseconds, "),
            ("deadlines = { shrt = 5 }", "module.a.deadlines.shrt: unknown key; did you mean 'short'?"),
            (
                "deadlines = { long = -1 }",
                "module.a.deadlines.long: expected milliseconds, 1 to 2147483647: every wait ends, not -1",
            ),
            ("deadlines = { start = 0 }", "module.a.deadlines.start: expected milliseconds, 1 to"),
            ("deadlines = { long = 4294967296 }", "module.a.deadlines.long: expected milliseconds"),
            ('pin-source = "1234"', f"module.a.pin-source: expected {PIN_SOURCE}, not a string"),
            ("pinsource = 1234", "module.a.pinsource: unknown key; did you mean 'pin-source'?"),
            ('broken = ["CKR_PIN_INCORRECT"]', "module.a.broken: expected an array of up to 16 names"),
            ('broken = ["CKM_AES_CBC"]', "module.a.broken: expected an array"),
            ("broken = [48]", "module.a.broken: expected an array"),
            ("broken-pause = -1", "module.a.broken-pause: expected seconds, at most 86400, not -1"),
            ("enabled = 2026-01-01", "module.a.enabled: expected true or false, not datetime.date"),
        ],
    )
    def test_of_a_module(self, tmp_path: Path, line: str, problem: str) -> None:
        """A wrong key of a module is named; a value that may be a secret is not shown."""
        (fault,) = faults(tmp_path, f'# one\n[module.a]\npath = "/a.so"\n\n{line}\n')

        assert fault.startswith(f"5: {problem}")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("modul = 1", "1: modul: unknown key; did you mean 'module'?"),
            ("module = 1", "1: module: expected tables [module.NAME], not 1"),
            ("[module]\na = 1", "2: module.a: expected a table [module.NAME], not 1"),
            ("[[module.a]]\npath = '/a.so'", "1: module.a: expected a table [module.NAME], not an array"),
            ("[module.a]", "1: module.a.path: missing; expected the absolute path of a provider's .so"),
            (
                "[module.a]\npath = 'a.so'",
                "2: module.a.path: expected the absolute path of a provider's .so, not",
            ),
            (
                "[module.a]\npath = '~/a.so'",
                "2: module.a.path: expected the absolute path of a provider's .so, not",
            ),
            ("[module.'Big One']\npath = '/a.so'", '1: module."Big One": expected a name of a-z, 0-9, '),
            ("[module.-a]\npath = '/a.so'", "1: module.-a: expected a name of a-z, 0-9, "),
            (f"[module.{'a' * 65}]\npath = '/a.so'", f"1: module.{'a' * 65}: expected a name"),
            ("broker = 7", "1: broker: expected a table [broker], not 7"),
            ("[broker]\nidle = -1", "2: broker.idle: expected whole seconds, not -1"),
            (
                "[broker]\nsocket = 'x'",
                "2: broker.socket: expected an absolute path of at most 107 bytes, not",
            ),
            (
                f"[broker]\nsocket = '/{'x' * 107}'",
                "2: broker.socket: expected an absolute path of at most 107",
            ),
            ("[broker]\nsockt = '/x'", "2: broker.sockt: unknown key; did you mean 'socket'?"),
        ],
    )
    def test_of_a_file(self, tmp_path: Path, text: str, problem: str) -> None:
        """A wrong table is named with the line on which it stands."""
        (fault,) = faults(tmp_path, text)

        assert fault.startswith(problem)

    def test_all_at_once(self, tmp_path: Path) -> None:
        """Every fault of every file is reported, in the order of the lines."""
        first, second = tmp_path / "first.toml", tmp_path / "second.toml"
        first.write_text("[module.a]\nforke = 1\nthreads = 4\n[broker]\nidle = 'x'\n")
        second.write_text("x = 1\ny = 2\n")
        with pytest.raises(ConfigError) as caught:
            load(Choice((first, second), named=False))

        keys = [problem.split(": ")[0:2] for problem in caught.value.problems]
        assert [
            [f"{first}:1", "module.a.path"],
            [f"{first}:2", "module.a.forke"],
            [f"{first}:3", "module.a.threads"],
            [f"{first}:5", "broker.idle"],
            [f"{second}:1", "x"],
            [f"{second}:2", "y"],
        ] == keys

    def test_too_many_modules(self, tmp_path: Path) -> None:
        """More modules than an application may have are refused."""
        text = "".join(f"[module.m{number}]\npath = '/m.so'\n" for number in range(65))

        assert [" 65 modules; remove 1, 64 are allowed"] == faults(tmp_path, text)

    def test_no_toml(self, tmp_path: Path) -> None:
        """What is no TOML is told with its line."""
        (fault,) = faults(tmp_path, "[module.a]\npath = /a.so\n")

        assert fault.startswith("2: not TOML: ")
        assert "line 2" in fault

    def test_one_name_twice(self, tmp_path: Path) -> None:
        """Two modules of one name in a file are told by line and key."""
        (fault,) = faults(tmp_path, "[module.a]\npath = '/a.so'\n\n[module.a]\npath = '/b.so'\n")

        assert "4: module.a: the second of that name in this file; remove or rename one" == fault

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"\xff = 1", "not UTF-8 at byte 0; save it as UTF-8"),
            (b"#" * (1 << 20) + b"##", "longer than 1048576 bytes, so no configuration"),
            (b"", "no [module.NAME] in it; add a provider with: p11host add"),
            (
                b"[module.a]\npath='/a'\nenabled=false",
                "every module is disabled; remove an 'enabled = false'",
            ),
        ],
    )
    def test_content(self, tmp_path: Path, content: bytes, problem: str) -> None:
        """A file without use is told in one line that says what to do."""
        file = tmp_path / "p11host.toml"
        file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load(choose(file, {}))

        assert str(caught.value).startswith(f"{file}: {problem}")
        assert 1 == len(caught.value.problems)

    def test_missing(self, tmp_path: Path) -> None:
        """A file that was named and is not there is a fault; of the usual places one is enough."""
        with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file; name another"):
            load(choose(tmp_path / "nowhere.toml", {}))
        with pytest.raises(
            ConfigError, match=r"no configuration: neither .*a nor .*b exists; add a provider with"
        ):
            load(Choice((tmp_path / "a", tmp_path / "b"), named=False))

    def test_unreadable(self, tmp_path: Path) -> None:
        """What cannot be read as a file is told with the reason, and waits for nobody."""
        with pytest.raises(
            ConfigError, match="cannot be read: Is a directory; check its path, owner and mode"
        ):
            load(choose(tmp_path, {}))
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ConfigError, match="pipe: not a regular file"):
            load(choose(tmp_path / "pipe", {}))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_forbidden(self, tmp_path: Path) -> None:
        """A file somebody else keeps for himself is told as such."""
        file = tmp_path / "p11host.toml"
        file.touch(mode=0o000)
        with pytest.raises(
            ConfigError, match="cannot be read: Permission denied; check its path, owner and mode"
        ):
            load(choose(file, {}))

    def test_writable_by_everybody(self, tmp_path: Path) -> None:
        """Nobody decides what is loaded into another's helper by writing to his configuration."""
        file = tmp_path / "p11host.toml"
        file.write_text(GOOD)
        file.chmod(0o646)
        with pytest.raises(ConfigError, match="everybody may write it; run: chmod o-w "):
            load(choose(file, {}))


class TestPlaces:
    """Where configuration and socket are."""

    def test_named(self, tmp_path: Path) -> None:
        """The option comes before the environment, and either alone counts."""
        environ = {"P11HOST_CONFIG": str(tmp_path / "environ.toml")}

        assert Choice((tmp_path / "option.toml",), named=True) == choose(tmp_path / "option.toml", environ)
        assert Choice((tmp_path / "environ.toml",), named=True) == choose(None, environ)

    def test_usual(self) -> None:
        """A user's own file comes before the system's; root has no other than the system's."""
        environ = {"XDG_CONFIG_HOME": "/x", "HOME": "/h"}

        assert (Path("/x/p11host/p11host.toml"), SYSTEM_CONFIG) == config_candidates(environ, 1000)
        del environ["XDG_CONFIG_HOME"]
        assert (Path("/h/.config/p11host/p11host.toml"), SYSTEM_CONFIG) == config_candidates(environ, 1000)
        environ["XDG_CONFIG_HOME"] = "relative"
        assert (Path("/h/.config/p11host/p11host.toml"), SYSTEM_CONFIG) == config_candidates(environ, 1000)
        assert (SYSTEM_CONFIG,) == config_candidates(environ, 0)

    def test_socket(self) -> None:
        """The socket is where the environment says, else in a directory of the user's."""
        nobody = 4_000_000_000
        both = {"P11HOST_SOCKET": "/a/b.sock", "XDG_RUNTIME_DIR": "/r"}

        assert Path("/a/b.sock") == socket_path(both, nobody)
        assert Path("/r/p11host/broker.sock") == socket_path(both | {"P11HOST_SOCKET": ""}, nobody)
        assert Path("/r/p11host/broker.sock") == socket_path(both | {"P11HOST_SOCKET": "rel"}, nobody)
        assert Path("/", "tmp", f"p11host-{nobody}", "broker.sock") == socket_path({}, nobody)
        if not Path("/run/user/0").is_dir():
            assert SYSTEM_SOCKET == socket_path({}, 0)


class TestLines:
    """Which key stands on which line."""

    def test_every_form(self) -> None:
        """Headers, dotted keys, tables in braces, arrays and strings over several lines are found."""
        text = (
            'a = 1\n\n# c\n[ t . "u v" ]  # comment\nb.c = """\n[not.a.table]\nx = 1\n"""\n'
            "d = [\n  1, # [no]\n]\ne = { f = { g = 1 } }\n[[l]]\nh = 2\n[t.w]\ni = 3\n"
        )
        table = ("t", "u v")

        assert {
            ("a",): 1,
            ("t",): 4,
            table: 4,
            (*table, "b"): 5,
            (*table, "b", "c"): 5,
            (*table, "d"): 9,
            (*table, "e"): 12,
            (*table, "e", "f"): 12,
            (*table, "e", "f", "g"): 12,
            ("l",): 13,
            ("l", "h"): 14,
            ("t", "w"): 15,
            ("t", "w", "i"): 16,
        } == locate(text)


def test_the_sample_is_right() -> None:
    """The sample configuration means what its comments say, as it is and with every key switched on."""
    sample = Path(__file__).parent.parent / "conf" / "p11host.toml"
    config = load(choose(sample, {}))
    every = re.sub(r"^# (?=([\w-]+ = |\[module))", "", sample.read_text(), flags=re.MULTILINE)

    assert ["softhsm"] == [module.name for module in config.modules]
    assert {"softhsm", "opensc"} == set(tomllib.loads(every)["module"])
    assert set(fields_of(ModuleTable)) == set(tomllib.loads(every)["module"]["softhsm"])
    assert set(fields_of(BrokerTable)) == set(tomllib.loads(every)["broker"])
    assert (IDLE, 60_000, 600_000) == (config.idle, config.modules[0].short, config.modules[0].long)


def test_the_sample_with_every_key(tmp_path: Path) -> None:
    """Each key that the sample shows in a comment is one that is known, with its default."""
    sample = (Path(__file__).parent.parent / "conf" / "p11host.toml").read_text()
    every = read(tmp_path, re.sub(r"^# (?=([\w-]+ = |\[module))", "", sample, flags=re.MULTILINE))
    soft, plain = every.modules

    assert (plain.fork, plain.priority, plain.enabled) == (soft.fork, soft.priority, soft.enabled)
    assert (plain.short, plain.long, IDLE) == (soft.short, soft.long, every.idle)


def test_the_sample_of_providers_is_right() -> None:
    """The sample with a module for each tested provider is a configuration, and gives softokn its string."""
    config = load(choose(Path(__file__).parent.parent / "conf" / "providers.toml", {}))
    by_name = {module.name: module for module in config.modules}

    assert ["softhsm", "nss", "opensc", "tpm2"] == list(by_name)
    assert (by_name["nss"].reserved or "").startswith("configdir='sql:/")
    assert "TPM2_PKCS11_TCTI" in by_name["tpm2"].env
