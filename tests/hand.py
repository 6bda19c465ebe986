"""p11host's commands as a person runs them, each in a process forked from this one, which has imported all.

Knows how a command is run with or without a terminal. What it says is the tests' to judge.
"""

import json
import os
import pty
import select
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import asn1crypto.x509
import pkcs11
import rich.progress
from brokers import module

import p11host.cli
from p11host.start import private_broker
from p11host.throwaway import Token, make_token

#: Loaded here, and so in every command at no cost.
LOADED = (asn1crypto.x509, pkcs11, rich.progress)
PATIENCE = 30


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode()

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line that an error is."""
        (line,) = self.err.splitlines()
        return line


class Screen:
    """A command on a terminal of its own."""

    def __init__(self, pid: int, terminal: int) -> None:
        self.pid = pid
        self._terminal = terminal
        self.seen = ""

    def expect(self, words: str) -> None:
        """Wait until these words are shown."""
        while words not in self.seen:
            assert self._read(), f"{words!r} is not in {self.seen!r}"

    def type(self, words: str) -> None:
        """Type this."""
        os.write(self._terminal, words.encode())

    def end(self) -> int:
        """Wait for the end, and return how it was."""
        while self._read():
            pass
        os.close(self._terminal)
        return waited(self.pid)

    def _read(self) -> bool:
        """Take what is shown next; tell whether there was anything."""
        ready, _, _ = select.select([self._terminal], [], [], PATIENCE)
        assert ready, f"nothing more comes after {self.seen!r}"
        try:
            data = os.read(self._terminal, 4096)
        except OSError:
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)


@dataclass(frozen=True)
class Hand:
    """An environment in which commands find a broker with a token, and a directory to work in."""

    env: Mapping[str, str]
    token: Token
    directory: Path

    @property
    def pin(self) -> str:
        """The query of a URI that tells the user's PIN."""
        return f"?pin-source=file:{self.directory}/pin"

    def uri(self, attributes: str = "", query: str = "") -> str:
        """Return the URI of this token, or of something on it."""
        return f"pkcs11:token={self.token.label}{';' if attributes else ''}{attributes}{query}"

    def own(self, attributes: str = "") -> str:
        """Return the URI of something on this token, with the PIN."""
        return self.uri(attributes, self.pin)

    def run(self, *words: object, stdin: bytes = b"") -> Done:
        """Run a command to its end, without a terminal."""
        files = [self.directory / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_bytes(stdin)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            flags = (
                os.O_RDONLY,
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
            )
            for number, (file, flag) in enumerate(zip(files, flags, strict=True)):
                os.dup2(os.open(file, flag, 0o600), number)
            self._become(*words)
        status = waited(pid)
        return Done(status, files[1].read_bytes(), files[2].read_text())

    def into(self, output: int, *words: object, env: Mapping[str, str] | None = None) -> int:
        """Begin a command whose standard output is that descriptor; return its pid."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            error = os.open(self.directory / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, error)):
                os.dup2(file, number)
            self._become(*words, env=env or {})
        return pid

    def said(self) -> str:
        """Return what the last command wrote on standard error."""
        return (self.directory / "stderr").read_text()

    def does(self, *words: object, stdin: bytes = b"") -> Done:
        """Run a command that does what is asked of it."""
        done = self.run(*words, stdin=stdin)
        assert (0, "") == (done.status, done.err), done
        return done

    def fails(self, status: int, *words: object, stdin: bytes = b"") -> str:
        """Run a command that fails with this exit code and prints nothing; return its one line of error."""
        done = self.run(*words, stdin=stdin)
        assert (status, b"") == (done.status, done.out), done
        return done.line

    @contextmanager
    def screen(self, *words: object) -> Iterator[Screen]:
        """Run a command on a terminal."""
        pid, terminal = pty.fork()
        if pid == 0:
            self._become(*words)
        screen = Screen(pid, terminal)
        try:
            yield screen
        finally:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            waited(pid)

    def _become(self, *words: object, env: Mapping[str, str] | None = None) -> NoReturn:
        """Be the command, in a process just forked."""
        status = 1
        try:
            os.chdir(self.directory)
            os.environ.update(dict(self.env) | dict(env or {}))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stdin = os.fdopen(0)
            sys.stdout = os.fdopen(1, "w")
            sys.stderr = os.fdopen(2, "w")
            p11host.cli.main([str(word) for word in words])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        except BaseException:  # noqa: BLE001 (it must not reach the test whose process this was)
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


def waited(pid: int) -> int:
    """Return how a child ended: its exit code, or minus a signal."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0


@contextmanager
def hand(directory: Path, label: str = "mine") -> Iterator[Hand]:
    """Run a broker with a SoftHSM token; files of commands go to `directory`/work."""
    token = make_token(directory, label)
    work = directory / "work"
    work.mkdir()
    (work / "pin").write_text(token.pin + "\n")
    (work / "pin").chmod(0o400)
    config = directory / "p11host.toml"
    config.write_text(module("soft", token.provider, env=dict(token.env)))
    with private_broker(config) as broker:
        yield replace(Hand(broker.env, token, work))
