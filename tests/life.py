"""Brokers with providers of a test's own, and applications in processes of their own under them.

Knows how providers and programs are compiled and how applications are started and ended. What an application
does is application.py's.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from p11host.start import PrivateBroker, private_broker

TESTS = Path(__file__).resolve().parent
#: Seconds after which something that must happen will not.
PATIENCE = 45
STRICT = [
    *("-std=c11", "-D_GNU_SOURCE", "-O1", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"),
]

Act = Callable[..., Any]


@dataclass(frozen=True)
class Workshop:
    """Compiles the C of the tests, each source once."""

    directory: Path
    includes: Path

    def provider(self, name: str, *options: str) -> Path:
        """Return the provider made from tests/providers/NAME.c with these options of the compiler."""
        target = self.directory / "".join([name, *options, ".so"])
        return self._made(TESTS / "providers" / f"{name}.c", target, "-shared", "-fPIC", *options)

    def program(self, name: str, *options: str) -> Path:
        """Return the program made from tests/programs/NAME.c with these options of the compiler."""
        target = self.directory / "".join([name, *options])
        return self._made(TESTS / "programs" / f"{name}.c", target, "-rdynamic", *options)

    def library(self, name: str) -> Path:
        """Return the library made from tests/programs/NAME.c, to be preloaded."""
        target = self.directory / f"{name}.so"
        return self._made(TESTS / "programs" / f"{name}.c", target, "-shared", "-fPIC")

    def _made(self, source: Path, target: Path, *options: str) -> Path:
        if not target.exists():
            files = ["-I", str(self.includes), "-o", str(target), str(source)]
            command = ["cc", *STRICT, *options, *files, "-pthread", "-ldl"]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
            assert done.returncode == 0, done.stderr
        return target


def jumping_clock(workshop: Workshop) -> str:
    """Return what, as LD_PRELOAD, has the system's time jump whenever somebody asks for it."""
    return str(workshop.program("clock", "-shared", "-fPIC", "-fvisibility=default"))


class Playing:
    """An application that runs, and what it reports."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
        reader, writer = os.pipe()
        self._reports = os.fdopen(reader)
        try:
            self.process = subprocess.Popen(
                [str(word).replace("{}", str(writer)) for word in command],
                env=os.environ | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=[writer],
                start_new_session=True,
            )
        finally:
            os.close(writer)

    def report(self) -> Any:
        """Return the next thing that the application reports."""
        ready, _, _ = select.select([self._reports], [], [], PATIENCE)
        line = self._reports.readline() if ready else ""
        if line:
            return json.loads(line)
        self._kill()
        output, _ = self.process.communicate(timeout=PATIENCE)
        pytest.fail(f"the application reported nothing; it ended with {self.process.returncode}\n{output}")

    def end(self, status: int = 0) -> str:
        """Wait for its end, which must be `status`; return what it printed on standard output and error."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert status == self.process.returncode, output
        return output

    def close(self) -> None:
        """End it and the children it left, whatever they do."""
        self._kill()
        self._reports.close()
        self.process.communicate(timeout=PATIENCE)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class Played:
    """An application that has ended: its last report, and what it printed on standard output and error."""

    result: Any
    output: str


@dataclass(frozen=True)
class Host:
    """An environment in which the shim finds a broker, or none."""

    env: Mapping[str, str]
    broker: PrivateBroker | None = None
    config: Path | None = None

    def play(self, act: Act, *arguments: Any, env: Mapping[str, str] | None = None) -> Any:
        """Run an application that does `act` to its end; return what `act` returns."""
        return self.played(act, *arguments, env=env).result

    def played(self, act: Act, *arguments: Any, env: Mapping[str, str] | None = None) -> Played:
        """Run an application that does `act` to its end."""
        with self.playing(act, *arguments, env=env) as application:
            return Played(application.report(), application.end())

    @contextmanager
    def playing(self, act: Act, *arguments: Any, env: Mapping[str, str] | None = None) -> Iterator[Playing]:
        """Run an application that does `act`; it is ended with the `with`, and all it has started."""
        words = [act.__module__.rpartition(".")[2], act.__name__, "{}", *map(json.dumps, arguments)]
        application = Playing([sys.executable, TESTS / "act.py", *words], dict(self.env) | dict(env or {}))
        try:
            yield application
        finally:
            application.close()

    def run(self, *command: str | Path, env: Mapping[str, str] | None = None, status: int = 0) -> str:
        """Run a program, whose end must be `status`; return what it printed on standard output and error."""
        application = Playing(command, dict(self.env) | dict(env or {}))
        try:
            return application.end(status)
        finally:
            application.close()


class Hosting(Protocol):
    """Starts a broker with these modules, by their tables in TOML."""

    def __call__(self, *modules: str) -> Host:
        """Return the environment in which it is found."""


@contextmanager
def hosted(directory: Path, *modules: str) -> Iterator[Host]:
    """Run a broker with these modules."""
    config = directory / "p11host.toml"
    config.write_text("".join(modules))
    with private_broker(config) as broker:
        yield Host(broker.env, broker, config)


def has_ended(pid: int) -> bool:
    """Wait until a process, of whomever, has ended; tell whether it has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], PATIENCE)[0])
    finally:
        os.close(descriptor)
