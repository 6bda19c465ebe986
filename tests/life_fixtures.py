"""Fixtures of the tests in which applications live and die; what they are made of is in life.py."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from brokers import module
from life import PATIENCE, TESTS, Host, Hosting, Workshop, hosted
from rack import Racks

from p11host.throwaway import Token, make_token


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return what compiles the C of the tests."""
    includes = tmp_path_factory.mktemp("includes")
    for generate in (TESTS.parent / "specs" / "generate.py", TESTS / "mirror_c.py"):
        subprocess.run([sys.executable, str(generate), str(includes)], check=True, timeout=PATIENCE)
    return Workshop(tmp_path_factory.mktemp("workshop"), includes)


@pytest.fixture(scope="session")
def odd(workshop: Workshop) -> Path:
    """Return the provider that does what its environment says."""
    return workshop.provider("odd")


@pytest.fixture(scope="session")
def mirror(workshop: Workshop) -> Path:
    """Return the provider that answers by what it was given."""
    return workshop.provider("mirror")


@pytest.fixture
def racks(tmp_path: Path, workshop: Workshop) -> Racks:
    """Return what makes modules whose slots change as a test says."""
    return Racks(workshop.provider("rack"), tmp_path)


@pytest.fixture
def hosting(tmp_path: Path) -> Iterator[Hosting]:
    """Return what starts a broker, which ends with the test."""
    with ExitStack() as stack:
        yield lambda *modules: stack.enter_context(hosted(tmp_path, *modules))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, odd: Path) -> Iterator[Host]:
    """Return a broker with one module that does nothing odd, for all tests of a file."""
    with hosted(tmp_path_factory.mktemp("plain"), module("plain", odd)) as host:
        yield host


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, odd: Path) -> Iterator[Host]:
    """Return a broker with two modules, of one slot and of three, for all tests of a file."""
    modules = [module("first", odd), module("second", odd, env={"ODD_SLOTS": "3"})]
    with hosted(tmp_path_factory.mktemp("two"), *modules) as host:
        yield host


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Return a broker with a SoftHSM token, for all tests of a file."""
    directory = tmp_path_factory.mktemp("soft")
    token: Token = make_token(directory)
    with hosted(directory, module("soft", token.provider, env=dict(token.env))) as host:
        yield host


@pytest.fixture(scope="module")
def party(tmp_path_factory: pytest.TempPathFactory, odd: Path) -> Iterator[Host]:
    """Return a broker with a module whose random bytes come when four callers want them at the same time."""
    with hosted(tmp_path_factory.mktemp("party"), module("party", odd, env={"ODD_PARTY": "4"})) as host:
        yield host


@pytest.fixture
def on_demand(tmp_path: Path, odd: Path) -> Iterator[Mapping[str, str]]:
    """Return an environment where no broker runs and one can be started; it is ended with the test."""
    config, command, started = tmp_path / "p11host.toml", tmp_path / "p11host", tmp_path / "started"
    config.write_text(module("odd", odd))
    config.chmod(0o600)
    script = f'echo $$ >>{started}\nexec {sys.executable} -P -m p11host "$@" --config {config}\n'
    command.write_text("#!/bin/sh\n" + script)
    command.chmod(0o755)
    started.touch()
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    yield {
        "P11HOST_COMMAND": str(command),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    for pid in map(int, started.read_text().split()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
