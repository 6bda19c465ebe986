"""The command line: what is said, where, and with which exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from brokers import PATIENCE, ROOT, Broker, module, through
from click.testing import CliRunner
from elf import Library

from p11host import P11HostError, __version__, helper_path, shim_path
from p11host.cli import cli
from p11host.cli.run import forwarding
from p11host.listen import listen
from p11host.throwaway import Token

pytest_plugins = ["broker_fixtures"]


@dataclass(frozen=True)
class Command:
    """`p11host` in an environment where nothing of the machine's own is found."""

    environ: Mapping[str, str]

    def run(self, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.words(*words),
            env=dict(self.environ) | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def words(self, *words: str | Path) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "p11host", *map(str, words)]

    def fails(self, code: int, *words: str | Path, **environ: str) -> str:
        """Run it, see that it fails with this exit code, and return its one line of error."""
        done = self.run(*words, **environ)
        assert (code, "") == (done.returncode, done.stdout), done.stderr
        (line,) = done.stderr.splitlines()
        return line


@pytest.fixture
def config(tmp_path: Path, provider: Path) -> Path:
    """Return a configuration with one module."""
    path = tmp_path / "config.toml"
    path.write_text(module("one", provider))
    return path


@pytest.fixture
def p11host(tmp_path: Path, fake_program: Path, config: Path) -> Command:
    """Return the command, with the fake helper and a configuration, and no broker."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("P11HOST_")}
    return Command(
        environ
        | {
            "PYTHONPATH": str(ROOT),
            "P11HOST_HELPER": str(fake_program),
            "P11HOST_CONFIG": str(config),
            "P11HOST_SOCKET": str(tmp_path / "sockets" / "broker.sock"),
            "XDG_RUNTIME_DIR": str(tmp_path),
        }
    )


class TestHelp:
    """What the command says of itself."""

    def test_every_command_has_help(self, p11host: Command) -> None:
        """Every command is listed with a line, and has a page."""
        listed = re.findall(r"^  ([a-z-]+)  +\w", p11host.run("--help").stdout, re.MULTILINE)

        expected = [
            "add",
            "bench",
            "completion",
            "config",
            "delete",
            "discover",
            "doctor",
            "events",
            "explain",
            "export",
            "import",
            "init-token",
            "keygen",
            "list",
            "metrics",
            "path",
            "random",
            "readers",
            "reload",
            "restart",
            "run",
            "sandbox",
            "serve",
            "set-pin",
            "show",
            "sign",
            "status",
            "top",
            "trace",
            "verify",
        ]
        assert expected == listed
        for name in listed:
            done = CliRunner().invoke(cli, [name, "--help"], prog_name="p11host")
            assert (0, True) == (done.exit_code, done.output.startswith(f"Usage: p11host {name}"))

    def test_version(self, p11host: Command) -> None:
        """The version is that of the package."""
        assert f"p11host {__version__}\n" == p11host.run("--version").stdout

    def test_usage(self, p11host: Command) -> None:
        """A wrong word is wrong usage, told in a line that says where to read what is right."""
        unknown = p11host.fails(2, "serv")

        assert "p11host: no command is called 'serv'; did you mean 'serve'?; see: p11host --help" == unknown
        assert "'--nope'; see: p11host list --help" in p11host.fails(2, "list", "--nope")
        assert "see: p11host run --help" in p11host.fails(2, "run")
        assert "see: p11host add --help" in p11host.fails(2, "add")
        assert "see: p11host config --help" in p11host.fails(2, "config", "shw")

    def test_lines_fit(self, p11host: Command) -> None:
        """The list of commands is whole at 80 columns."""
        lines = p11host.run("--help", COLUMNS="80").stdout.splitlines()

        assert max(map(len, lines)) <= 80
        assert [] == [line for line in lines[1:] if line.endswith("...")]

    @pytest.mark.parametrize("ignored", [False, True])
    def test_ctrl_c_at_the_beginning(self, p11host: Command, *, ignored: bool) -> None:
        """Before there is a command Ctrl-C ends the program as any other; who ignores it goes on doing so."""
        script = (
            "import signal\n"
            f"signal.signal(signal.SIGINT, {'signal.SIG_IGN' if ignored else 'signal.default_int_handler'})\n"
            "import p11host.__main__\n"
            "signal.raise_signal(signal.SIGINT)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=p11host.environ,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

        assert (0 if ignored else -signal.SIGINT, b"") == (done.returncode, done.stderr)

    def test_light(self, p11host: Command) -> None:
        """Importing the package, and asking for a path, loads nothing heavy."""
        script = (
            "import sys, contextlib, p11host, p11host.cli\n"
            "with contextlib.suppress(SystemExit): p11host.cli.main(['path'])\n"
            "heavy = {'asyncio', 'pydantic', 'pkcs11', 'rich', 'msgpack', 'tomlkit'}\n"
            "print(*sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=dict(p11host.environ) | {"P11HOST_SHIM": __file__},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )

        assert f"{__file__}\n\n" == done.stdout


class TestPath:
    """`p11host path`."""

    def test_alone(self, p11host: Command) -> None:
        """The path is printed and nothing else, so that a shell can use it."""
        assert f"{__file__}\n" == p11host.run("path", P11HOST_SHIM=__file__).stdout

    def test_conf(self, p11host: Command) -> None:
        """The directory of the sample files is printed: a configuration and vendors' rows among them."""
        (line,) = p11host.run("path", "--conf").stdout.splitlines()

        assert (Path(line) / "p11host.toml").is_file()
        assert (Path(line) / "vendors" / "nss.toml").is_file()

    def test_missing(self, p11host: Command, tmp_path: Path) -> None:
        """A shim that is not there is told, and not its path."""
        line = p11host.fails(1, "path", P11HOST_SHIM=str(tmp_path / "p11host.so"))

        assert f"p11host: {tmp_path}/p11host.so: no such file; correct P11HOST_SHIM" == line


class TestAdd:
    """`p11host add`."""

    def test_where_nothing_can_be_written(self, p11host: Command, provider: Path, tmp_path: Path) -> None:
        """A file that cannot be written stays as it was, and nothing is left beside it."""
        file = tmp_path / "there" / "p11host.toml"
        file.parent.mkdir()
        file.write_text("# mine\n")
        limited = ["sh", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "sh"]
        words = p11host.words("add", "--config", file, provider)
        done = subprocess.run(
            [*limited, *words], env=p11host.environ, capture_output=True, text=True, check=False
        )

        assert (3, "") == (done.returncode, done.stdout)
        assert f"p11host: {file}: cannot be written: File too large\n" == done.stderr
        assert ([file], "# mine\n") == (list(file.parent.iterdir()), file.read_text())

    def test_new(self, p11host: Command, provider: Path, tmp_path: Path) -> None:
        """A file is made with the module, its name after the provider's, and it works."""
        file = tmp_path / "new" / "p11host.toml"
        library = tmp_path / "libsofthsm2.so"
        library.write_bytes(provider.read_bytes())
        done = p11host.run("add", library, "--env", "A=b=c", "--env", "PIN=", "--config", file)

        assert (0, "") == (done.returncode, done.stderr)
        said = done.stdout.splitlines()
        assert f"{file}: added [module.softhsm2]" == said[0]
        assert re.fullmatch(rf"{library}: owner \w+:\w+, mode 0\d\d\d, symbols C_GetFunctionList", said[1])
        assert "It may do what SoftHSM may:  p11host sandbox softhsm2" == said[2]
        assert f'[module.softhsm2]\npath = "{library}"\nenv = {{A = "b=c", PIN = ""}}\n' == file.read_text()
        assert 0o644 == file.stat().st_mode & 0o777

    def test_keeps_what_is_there(self, p11host: Command, provider: Path, tmp_path: Path) -> None:
        """A person's file stays byte for byte as it was, as do its mode and a link to it."""
        real, file = tmp_path / "real.toml", tmp_path / "link.toml"
        text = "# mine\n\n[module.a]   # first\npath='/a.so'\n\n[broker]\nidle =   5"
        real.write_text(text)
        real.chmod(0o600)
        file.symlink_to(real)

        assert 0 == p11host.run("add", provider, "--name", "b.2", "--config", file).returncode
        assert f'{text}\n\n[module."b.2"]\npath = "{provider}"\n' == real.read_text()
        assert 0o600 == real.stat().st_mode & 0o777
        assert file.is_symlink()

    def test_discovered(self, p11host: Command, token: Token, tmp_path: Path) -> None:
        """A name stands for the provider that is found under it; another profile may be given."""
        file = tmp_path / "p11host.toml"
        words = ("--name", "soft", "--profile", "strict", "--config", file)

        assert 0 == p11host.run("add", "softhsm2", *words).returncode
        assert f'[module.soft]\npath = "{token.provider.resolve()}"' in file.read_text().replace(
            f'"{token.provider}"', f'"{token.provider.resolve()}"'
        )
        assert 'sandbox = {profile = "strict"}\n' in file.read_text()
        assert "no file and no provider of that name" in p11host.fails(1, "add", "nosuchprovider")

    def test_relative(self, p11host: Command, provider: Path, tmp_path: Path) -> None:
        """A path is written as it is found from everywhere."""
        file = tmp_path / "p11host.toml"
        words = p11host.words("add", os.path.relpath(provider), "--config", file)

        assert 0 == subprocess.run(words, env=p11host.environ, check=False, capture_output=True).returncode
        assert f'path = "{provider}"' in file.read_text()

    def test_twice(self, p11host: Command, provider: Path, config: Path) -> None:
        """A name or a file that is there already is refused, and the file stays."""
        before = config.read_text()

        assert f"{config}: has a [module.one] already; give another --name" in p11host.fails(
            1, "add", provider, "--name", "one"
        )
        assert f"has {provider} already, as [module.one]" in p11host.fails(
            1, "add", provider, "--name", "two"
        )
        assert before == config.read_text()

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"no library", "not an ELF library"),
            (Library("C_Other").content(), "not a PKCS#11 library: it does not define C_GetFunctionList"),
        ],
    )
    def test_no_provider(
        self, p11host: Command, config: Path, tmp_path: Path, content: bytes, why: str
    ) -> None:
        """What is no provider is refused before anything is written."""
        before = config.read_text()
        wrong = tmp_path / "wrong.so"
        wrong.write_bytes(content)

        assert f"p11host: {wrong}: {why}" in p11host.fails(1, "add", wrong)
        assert "no such file" in p11host.fails(1, "add", tmp_path / "missing.so")
        assert before == config.read_text()

    def test_a_wrong_file(self, p11host: Command, tmp_path: Path) -> None:
        """Nothing is added to a file that is wrong already, nor where that would make it wrong."""
        library = Library().write(tmp_path / "another.so")
        file = tmp_path / "p11host.toml"
        for text in ("[modul]\n", "x = \n", 'module = { a = { path = "/a.so" } }\n'):
            file.write_text(text)

            assert f"p11host: {file}" in p11host.fails(3, "add", library, "--config", file)
            assert text == file.read_text()

    def test_a_wrong_name(self, p11host: Command, tmp_path: Path) -> None:
        """A name that no module may have is refused; one that cannot be derived is asked for."""
        library = Library().write(tmp_path / "-.so")

        assert "give another --name" in p11host.fails(3, "add", library, "--name", "Big One")
        assert "give one with --name" in p11host.fails(1, "add", library)
        assert 2 == p11host.run("add", library, "--env", "novalue").returncode


class TestRun:
    """`p11host run`."""

    def test_exit_code(self, p11host: Command) -> None:
        """The exit code is the command's."""
        assert 7 == p11host.run("run", "--", "sh", "-c", "exit 7").returncode
        assert 0 == p11host.run("run", "true").returncode

    def test_signal(self, p11host: Command) -> None:
        """A command that a signal ended looks so from outside."""
        assert -signal.SIGUSR1 == p11host.run("run", "--", "sh", "-c", "kill -USR1 $$").returncode

    def test_output_and_options_are_the_commands(self, p11host: Command) -> None:
        """Nothing is added to what the command prints, and no option of its is taken."""
        done = p11host.run("run", "--", "printf", "%s.", "--help", "--config", "-x")

        assert ("--help.--config.-x.", "") == (done.stdout, done.stderr)

    def test_environment(self, p11host: Command, config: Path, tmp_path: Path) -> None:
        """The command finds the broker and the configuration; afterwards nothing is left of them."""
        script = 'echo $P11HOST_SOCKET $P11HOST_CONFIG; stat -c %a "$(dirname $P11HOST_SOCKET)"; exec "$@"'
        status = [sys.executable, "-m", "p11host", "status", "--json"]
        before = set(tmp_path.iterdir())
        done = p11host.run(
            "run", "--config", config, "--", "sh", "-c", script, "sh", *status, P11HOST_CONFIG=""
        )
        first, mode, rest = done.stdout.split("\n", 2)
        socket, named = first.split()

        assert (str(config), "700") == (named, mode)
        assert ([str(config)], []) == (json.loads(rest)["config"], json.loads(rest)["applications"])
        assert not Path(socket).parent.exists()
        assert before == set(tmp_path.iterdir())

    def test_not_found(self, p11host: Command, config: Path) -> None:
        """A command that is not there, or cannot be run, is told as a shell tells it."""
        assert "p11host: /no-such-thing: no such command" == p11host.fails(127, "run", "/no-such-thing")
        assert f"p11host: {config}: Permission denied" == p11host.fails(126, "run", str(config))

    def test_configuration(self, p11host: Command, tmp_path: Path) -> None:
        """A configuration that is wrong is told with all its faults before anything is run."""
        wrong = tmp_path / "wrong.toml"
        wrong.write_text("[modul.a]\n[broker]\nidel = 1\n")
        done = p11host.run("run", "--config", wrong, "--", "echo", "ran")

        assert (3, "") == (done.returncode, done.stdout)
        assert [
            f"p11host: {wrong}:1: modul: unknown key; did you mean 'module'?",
            f"p11host: {wrong}:3: broker.idel: unknown key; did you mean 'idle'?",
        ] == done.stderr.splitlines()

    def test_no_helper(self, p11host: Command, tmp_path: Path) -> None:
        """A broker that cannot start says why, and so does `run`."""
        done = p11host.run("run", "true", P11HOST_HELPER=str(tmp_path / "none"))

        assert 1 == done.returncode
        assert [
            f"p11host: {tmp_path}/none: no such file; correct P11HOST_HELPER",
            "p11host: the broker did not start (exit code 1); see why with: p11host serve",
        ] == done.stderr.splitlines()

    def test_termination_is_passed_on(self, p11host: Command) -> None:
        """A signal to `run` reaches the command, which decides what becomes of it."""
        words = p11host.words(
            "run", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"
        )
        with subprocess.Popen(words, env=p11host.environ, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert b"ready\n" == process.stdout.readline()
            process.send_signal(signal.SIGTERM)

            assert 9 == process.wait(PATIENCE)

    def test_termination_before_the_command_runs(self) -> None:
        """A signal that comes while the command is being started reaches it, unless it is ignored."""
        ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            with forwarding() as begin:
                signal.raise_signal(signal.SIGUSR1)
                signal.raise_signal(signal.SIGUSR2)
                with subprocess.Popen(["sleep", "60"]) as process:
                    begin(process)

                    assert -signal.SIGUSR2 == process.wait(PATIENCE)
        finally:
            signal.signal(signal.SIGUSR1, ignored)

    def test_a_module_of_this_directory_is_not_ours(self, p11host: Command, tmp_path: Path) -> None:
        """The broker is never imported from where the user happens to be."""
        (tmp_path / "asyncio.py").write_text("raise SystemExit(99)\n")
        words = [sys.executable, "-P", *p11host.words("run", "true")[1:]]

        assert 0 == subprocess.run(words, env=p11host.environ, cwd=tmp_path, check=False).returncode


class TestStatus:
    """`p11host status`."""

    def test_none(self, p11host: Command) -> None:
        """Where no broker runs none is started, and that is said."""
        line = p11host.fails(1, "status")

        assert "no broker listens there; it starts with the first application, or by: p11host serve" in line

    def test_no_broker(self, p11host: Command, tmp_path: Path) -> None:
        """Somebody who listens and is no broker is told in a line."""
        listener = listen(tmp_path / "sockets" / "broker.sock")
        listener.socket.settimeout(PATIENCE)
        words = p11host.words("status")
        with subprocess.Popen(words, env=p11host.environ, stderr=subprocess.PIPE) as process:
            with listener.socket.accept()[0] as door:
                assert b"hello" in door.recv(1024)
            _, said = process.communicate(timeout=PATIENCE)
        listener.close()

        assert (1, b"p11host: closed: the peer closed the channel\n") == (process.returncode, said)

    def test_applications(self, p11host: Command, broker: Broker) -> None:
        """Applications are shown with their helpers, for people and as JSON."""
        first, second = broker.attach()
        with through(first) as one, through(second) as two:
            shown = p11host.run("status", P11HOST_SOCKET=str(broker.socket)).stdout
            state = json.loads(p11host.run("status", "--json", P11HOST_SOCKET=str(broker.socket)).stdout)

        assert broker.process.pid == state["pid"]
        assert os.getpid() == state["applications"][0]["pid"]
        assert re.search(r"^module one  .*  sandbox strict$", shown, re.MULTILINE)
        assert {"strict"} == {module["sandbox"] for module in state["modules"]}
        assert f"application {os.getpid()}  test\n  helper {one.hello.pid}  module one  generation 1" in shown
        assert f"  helper {two.hello.pid}  module two  generation 1" in shown
        assert "  helpers: 1 started\n" in shown


class TestServe:
    """`p11host serve`, as far as it does not come to serve."""

    def test_configuration(self, p11host: Command, tmp_path: Path) -> None:
        """Without a usable configuration it ends with the code for that."""
        line = p11host.fails(3, "serve", "--config", tmp_path / "none.toml")

        assert (
            f"p11host: {tmp_path}/none.toml: no such file; name another with --config or P11HOST_CONFIG"
            == line
        )

    def test_directory(self, p11host: Command, tmp_path: Path) -> None:
        """In a directory that is not its own it does not listen."""
        (tmp_path / "sockets").mkdir()
        (tmp_path / "sockets").chmod(0o777)

        assert "others may write to it; run: chmod go-w" in p11host.fails(1, "serve")


class TestList:
    """`p11host list`."""

    def test_no_configuration(self, p11host: Command, tmp_path: Path) -> None:
        """Without a configuration it says how to get one, and leaves no broker behind."""
        line = p11host.fails(3, "list", P11HOST_CONFIG=str(tmp_path / "none"), P11HOST_SHIM=__file__)

        assert "no such file; name another with --config or P11HOST_CONFIG" in line

    def test_no_shim(self, p11host: Command, tmp_path: Path) -> None:
        """Without a shim it says so."""
        assert "no such file; correct P11HOST_SHIM" in p11host.fails(
            1, "list", P11HOST_SHIM=str(tmp_path / "none")
        )


def installed() -> bool:
    """Tell whether the C is built."""
    try:
        return shim_path().exists() and helper_path().exists()
    except P11HostError:
        return False


@pytest.mark.skipif(not installed(), reason="needs the shim and the helper, built")
class TestListThroughTheShim:
    """`p11host list` with everything in its place."""

    @pytest.fixture
    def listing(self, p11host: Command, token: Token, tmp_path: Path) -> Command:
        """Return the command with a token and with a module that cannot work."""
        config = tmp_path / "listing.toml"
        wrong = Library("C_Other").write(tmp_path / "wrong.so")
        config.write_text(
            "[broker]\nidle = 0\n"
            + module("wrong", wrong)
            + module("soft", token.provider, env=dict(token.env))
        )
        real = {"P11HOST_SHIM": str(shim_path()), "P11HOST_HELPER": str(helper_path())}
        return Command(dict(p11host.environ) | real | {"P11HOST_CONFIG": str(config)})

    def test_json(self, listing: Command, token: Token) -> None:
        """Modules, slots and tokens are there; one that fails has its error, and the others work."""
        done = listing.run("list", "--json")
        wrong, soft = json.loads(done.stdout)["modules"]

        assert (0, "") == (done.returncode, done.stderr)
        assert ("wrong", []) == (wrong["name"], wrong["slots"])
        assert "does not define C_GetFunctionList" in wrong["error"]
        assert ("soft", None) == (soft["name"], soft["error"])
        tokens = [slot["token"] for slot in soft["slots"]]
        assert [token.label] == [each["label"] for each in tokens if "token_initialized" in each["flags"]]

    def test_table(self, listing: Command, token: Token) -> None:
        """People see the same."""
        shown = listing.run("list").stdout

        assert "module wrong" in shown
        assert re.search(
            r"\n  file: owner \w+:\w+, mode 0\d\d\d, symbols C_GetFunctionList, \d+ other C_", shown
        )
        assert "error: " in shown
        assert f"token '{token.label}'" in shown

    def test_lib(self, listing: Command, token: Token, tmp_path: Path) -> None:
        """`p11host.lib(config)` is python-pkcs11's, with a broker that leaves nothing behind."""
        before = set(tmp_path.iterdir())
        script = "import sys, p11host; print([t.label for t in p11host.lib(sys.argv[1]).get_tokens()])"
        # The broker has this process's standard error, so its end is awaited here.
        done = subprocess.run(
            [sys.executable, "-c", script, listing.environ["P11HOST_CONFIG"]],
            env=dict(listing.environ) | {"P11HOST_CONFIG": "", "P11HOST_SOCKET": ""},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )

        assert token.label in done.stdout
        assert "" == done.stderr
        assert before == set(tmp_path.iterdir())
