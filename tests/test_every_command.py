"""What holds for every command, walked one by one: JSON, an output that fails, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest
from brokers import PATIENCE
from hand import Hand, hand, waited

from p11host.cli import cli
from p11host.cli.reach import UriType
from p11host.listen import listen

INTERRUPTED = 130
#: What these print is another program's, a log, or a shell's.
NO_JSON = {"completion", "run", "serve"}
#: Takes minutes, or has no end. Their own tests look at what they print.
LONG = {"bench", "events"}
#: May end otherwise than with 0, as where no card reader is.
ODD_ENDS = {"readers"}
#: Does what an application does: lists the slots.
LISTS = "import p11host; p11host.lib().get_slots()"


def walk(command: click.Command = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every command there is, by the words that name it."""
    if not isinstance(command, click.Group):
        yield " ".join(words), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from walk(inner, (*words, name))


COMMANDS = dict(walk())


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """Return a token with a pair of keys and a signature by them."""
    with hand(tmp_path_factory.mktemp("mine")) as it:
        it.does("keygen", it.own("object=key"), "ec")
        it.does("export", it.uri("object=key"), "-o", "key.pem")
        it.does("sign", it.own("object=key"), "pin", "-o", "signature")
        (it.directory / "so").write_text(it.token.so_pin)
        (it.directory / "so").chmod(0o400)
        it.does(*used(it, "init-token"))
        yield it


def config(mine: Hand) -> list[str]:
    """Return the words that name the configuration of this token."""
    return ["--config", str(mine.directory.parent / "p11host.toml")]


def new_file(mine: Hand) -> list[str]:
    """Return the words that name a configuration that is not there."""
    file = mine.directory / "new.toml"
    file.unlink(missing_ok=True)
    return ["--config", str(file)]


def new_key(mine: Hand) -> str:
    """Return the URI of a key that is there for this."""
    return mine.does("keygen", mine.own(), "aes:128").text.strip() + mine.pin


def file_pin(mine: Hand, name: str) -> str:
    """Return a PIN's file as a source."""
    return f"file:{mine.directory}/{name}"


#: Every command as somebody uses it.
USED: dict[str, Callable[[Hand], Sequence[object]]] = {
    "add": lambda m: [m.token.provider, *new_file(m)],
    "config check": config,
    "config show": config,
    "delete": lambda m: [new_key(m), "--yes"],
    "discover": lambda m: [m.token.provider.parent, "--no-ask", *config(m)],
    "doctor": config,
    "explain": lambda _: ["CKM_AES_GCM"],
    "export": lambda m: [m.uri("object=key")],
    "import": lambda m: [m.own(f"id=%{os.urandom(1).hex()}%{os.urandom(1).hex()}"), "key.pem"],
    "init-token": lambda m: [
        f"pkcs11:{m.pin}", "--label", "new", "--so-pin-source", file_pin(m, "so")
    ],
    "keygen": lambda m: [m.own(), "aes:128"],
    "list": lambda _: [],
    "metrics": lambda _: [],
    "path": lambda _: [],
    "random": lambda m: [m.uri(), 8, "--hex"],
    "readers": config,
    "reload": lambda _: [],
    "restart": lambda _: ["soft"],
    "sandbox": lambda m: ["soft", *config(m)],
    "set-pin": lambda m: [m.own(), "--new-pin-source", file_pin(m, "pin")],
    "show": lambda m: [m.uri()],
    "sign": lambda m: [m.own("object=key"), "pin"],
    "status": lambda _: [],
    "top": lambda _: ["--once", "-n", "0.1"],
    "trace": lambda m: [*config(m), "--", sys.executable, "-P", "-c", LISTS],
    "verify": lambda m: [m.uri("object=key"), "signature", "pin"],
}  # fmt: skip


def used(mine: Hand, name: str, *options: str) -> list[object]:
    """Return the words of a command with more options."""
    return [*name.split(), *options, *USED[name](mine)]


def test_all_are_walked() -> None:
    """No command is left out of what follows."""
    assert COMMANDS.keys() == USED.keys() | NO_JSON | LONG


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NO_JSON))
def test_json(mine: Hand, name: str) -> None:
    """Every command has --json, and then prints JSON and nothing else: one value, or one a line."""
    assert any("--json" in param.opts for param in COMMANDS[name].params)
    if name in LONG:
        return
    done = mine.run(*used(mine, name, "--json"))
    assert (name in ODD_ENDS or done.status == 0, "") == (True, done.err)
    try:
        values = [json.loads(done.out)]
    except ValueError:
        values = [json.loads(line) for line in done.out.splitlines()]

    assert values
    assert all(isinstance(value, dict | list) for value in values)


@pytest.mark.parametrize("name", sorted(USED))
def test_nobody_reads(mine: Hand, name: str) -> None:
    """A reader that has enough, such as `head`, ends a command without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    status = waited(mine.into(writer, *used(mine, name)))
    os.close(writer)

    assert (1, "") == (status, mine.said())


@pytest.mark.parametrize("name", sorted(USED))
def test_full_disk(mine: Hand, name: str) -> None:
    """What cannot be written is told in one line."""
    full = os.open("/dev/full", os.O_WRONLY)
    status = waited(mine.into(full, *used(mine, name)))
    os.close(full)
    (line,) = mine.said().splitlines()

    assert 1 == status
    assert re.search("cannot (be written|write): No space left on device$", line)


#: Those that are told by a URI what is meant, which stands first.
BY_URI = sorted(
    name
    for name, command in COMMANDS.items()
    if any(isinstance(each.type, UriType) for each in command.params)
)
#: Those that want one token: the others show what there is.
OF_ONE = [name for name in BY_URI if name not in ("init-token", "list", "show")]
#: Those that log in.
OF_USER = ["delete", "import", "keygen", "list", "set-pin", "sign"]


def about(mine: Hand, name: str, uri: str) -> list[object]:
    """Return the words of a command that is about something else."""
    return [*name.split(), uri, *used(mine, name)[1 + len(name.split()) :]]


@pytest.mark.parametrize("name", BY_URI)
def test_malformed(mine: Hand, name: str) -> None:
    """A URI that is none is wrong usage, and told with what is wrong; its PIN is not."""
    line = mine.fails(2, *about(mine, name, "pkcs11:tokn=x?pin-value=9999"))

    assert "p11host: pkcs11:tokn=x: no attribute is called 'tokn'; did you mean 'token'?" == line


@pytest.mark.parametrize("name", BY_URI)
def test_nothing(mine: Hand, name: str) -> None:
    """A URI that names nothing is told, and nothing was asked for or changed."""
    line = mine.fails(4, *about(mine, name, f"pkcs11:token=nowhere{mine.pin}"))

    assert "pkcs11:token=nowhere: names no" in line


@pytest.mark.parametrize("name", OF_ONE)
def test_several(mine: Hand, name: str) -> None:
    """A URI that names several tokens is told with which they are, and what to add."""
    line = mine.fails(4, *about(mine, name, f"pkcs11:manufacturer=SoftHSM%20project{mine.pin}"))

    assert re.search(r": names \d+ tokens \('.*' serial .*\); add token=… or serial=…$", line)


@pytest.mark.parametrize("name", OF_USER)
def test_wrong_pin(mine: Hand, name: str) -> None:
    """A wrong PIN is told in a line with the tries that are left, and one that cannot be asked for, too."""
    wrong = mine.run(*about(mine, name, mine.uri("object=key", "?pin-value=9999")))
    mine.does("sign", mine.own("object=key"), "pin", "-o", "/dev/null")
    said = wrong.err + wrong.text
    unasked = mine.run(*about(mine, name, mine.uri("object=key")), *(["--login"] if name == "list" else []))

    assert 5 == wrong.status
    assert "the PIN of 'mine' is wrong; some tries are left, the token does not say how many" in said
    assert 5 == unasked.status
    assert "there is no terminal to ask for a PIN on" in unasked.err + unasked.text


@contextmanager
def mute_broker(directory: Path) -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
    """Be a broker that never answers: where it is found, and what waits until somebody has come."""
    listener = listen(directory / "mute" / "broker.sock")
    listener.socket.settimeout(PATIENCE)
    doors = []
    try:
        yield (
            {"P11HOST_SOCKET": str(directory / "mute" / "broker.sock")},
            lambda: doors.append(listener.socket.accept()[0]),
        )
    finally:
        for door in doors:
            door.close()
        listener.close()


#: Those that ask the broker that is there.
ALONE = {"add", "config check", "config show", "discover", "explain", "path", "sandbox"}
ASKING = sorted(USED.keys() - ALONE)


@pytest.mark.parametrize("name", ASKING)
def test_ctrl_c(mine: Hand, tmp_path: Path, name: str) -> None:
    """Ctrl-C ends a command at once that waits for somebody: exit code 130, one line, no file."""
    # With a configuration of their own these have a broker of their own.
    words = [name] if name in ("trace", "doctor", "readers") else used(mine, name)
    before = sorted(mine.directory.iterdir())
    with mute_broker(tmp_path) as (env, someone_comes):
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            # Between two lines nobody closes what was just opened.
            warnings.simplefilter("ignore", ResourceWarning)
            pid = mine.into(writer, *words, env=env)
        os.close(writer)
        someone_comes()
        os.kill(pid, signal.SIGINT)
        status = waited(pid)
        with os.fdopen(reader, "rb") as pipe:
            printed = pipe.read()

    assert (INTERRUPTED, b"", "p11host: interrupted\n") == (status, printed, mine.said())
    assert before == sorted(mine.directory.iterdir())


#: Those that go on until Ctrl-C, how, and what they show by then.
ENDLESS: dict[str, tuple[Callable[[Hand, Path], list[object]], str]] = {
    "serve": (lambda m, tmp: [*config(m), "--socket", tmp / "run" / "broker.sock"], "broker.listening"),
    "top": (lambda *_: ["-n", "0.1"], "C_GetTokenInfo"),
    "trace": (lambda *_: [], "C_GetTokenInfo"),
}


@contextmanager
def busy(mine: Hand) -> Iterator[None]:
    """Run a program that lists tokens again and again."""
    script = "import p11host, time\nwhile True: list(p11host.lib().get_tokens()); time.sleep(0.02)"
    with subprocess.Popen([sys.executable, "-P", "-c", script], env=os.environ | dict(mine.env)) as program:
        try:
            yield
        finally:
            program.kill()


@pytest.mark.parametrize("name", ENDLESS)
def test_until_ctrl_c(mine: Hand, tmp_path: Path, name: str) -> None:
    """What has no other end than Ctrl-C ends by it with exit code 0, and without a word of it."""
    options, shown = ENDLESS[name]
    with busy(mine), mine.screen(name, *options(mine, tmp_path)) as screen:
        screen.expect(shown)
        screen.type("\x03")

        assert 0 == screen.end()
    assert not re.search("Traceback|interrupted", screen.seen)
    assert screen.seen.count("\x1b[?1049h") == screen.seen.count("\x1b[?1049l") == (name == "top")


@pytest.mark.parametrize("name", ["doctor", "explain", "list", "sandbox", "show", "status", "discover"])
def test_terminal(mine: Hand, name: str) -> None:
    """On a terminal of 80 columns no line is cut in two by the terminal; NO_COLOR leaves colour out."""
    narrow = {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    seen = {}
    for color in ("", "1"):
        there = replace(mine, env=dict(mine.env) | narrow | {"NO_COLOR": color})
        with there.screen(*used(mine, name)) as screen:
            assert 0 == screen.end()
        seen[color] = screen.seen
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen["1"])
    long = [line for line in plain.splitlines() if len(line.rstrip()) > 80 and " " in line.strip()]

    assert not re.search(r"\x1b\[[0-9;]*\b[349][0-7]\b[0-9;]*m", seen["1"])
    assert [] == long
