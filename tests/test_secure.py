"""A program that was given privileges as it was started (AT_SECURE) believes nothing of its environment."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from brokers import PATIENCE, Starter, module
from life import Workshop

from p11host import helper_path, shim_path

pytest_plugins = ["broker_fixtures", "life_fixtures"]

#: A user that there is not, and so has no directory below /run/user.
SOMEBODY = 54321
DEFAULT = Path(f"/tmp/p11host-{SOMEBODY}/broker.sock")  # noqa: S108 (where the shim looks)
#: With a /run of its own, so that no broker of this machine is found.
ALONE = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh"]
AS_SOMEBODY = ["setpriv", "--reuid", str(SOMEBODY), "--clear-groups"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a set-uid program")


@dataclass(frozen=True)
class Place:
    """A directory that everybody may read, with the shim and a program that uses it."""

    directory: Path
    program: Path

    def run(self, environ: Mapping[str, str], *before: str) -> tuple[str, str]:
        """Run the program; return what it printed on standard output and error."""
        command = [*ALONE, *before, self.program, self.directory / "p11host.so"]
        done = subprocess.run(
            list(map(str, command)),
            env={"PATH": os.environ["PATH"]} | dict(environ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return done.stdout.strip(), done.stderr

    def give_privileges(self) -> None:
        """Let the program be another user's, whoever starts it."""
        os.chown(self.program, SOMEBODY, -1)
        self.program.chmod(0o4755)


@pytest.fixture
def place(workshop: Workshop) -> Iterator[Place]:
    """Return the program, as one without privileges."""
    with tempfile.TemporaryDirectory(prefix="p11host-test-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copy(shim_path(), directory / "p11host.so")
        started = directory / "started"
        started.mkdir()
        started.chmod(0o777)
        starting = directory / "p11host-start"
        starting.write_text(f"#!/bin/sh\nexec touch {started}/broker\n")
        starting.chmod(0o755)
        program = Path(shutil.copy(workshop.program("secure"), directory / "program"))
        yield Place(directory, program)
        shutil.rmtree(DEFAULT.parent, ignore_errors=True)


def test_environment_is_ignored(place: Place, starter: Starter, odd: Path) -> None:
    """It finds the broker where one is by rule, sees all modules, starts no broker and says nothing."""
    modules = [module(name, odd, env={"ODD_SLOTS": slots}) for name, slots in (("a", "1"), ("b", "2"))]

    def serve(socket: Path) -> None:
        starter.start("".join(modules), "--socket", str(socket), helper=helper_path(), everybody=True)

    named = place.directory / "run" / "broker.sock"
    serve(named)
    environ = {"P11HOST_SOCKET": str(named), "P11HOST_MODULE": "b", "P11HOST_LOG": "1"}
    nowhere = environ | {"P11HOST_SOCKET": "/nowhere", "P11HOST_NO_START": "1"}

    assert "0 0 2" == place.run(environ, *AS_SOMEBODY)[0]
    printed, said = place.run(nowhere, *AS_SOMEBODY)
    assert ("0 5 0", True) == (printed, "broker" in said)
    place.give_privileges()
    assert ("1 5 0", "") == place.run(environ)
    assert [] == list((place.directory / "started").iterdir())
    serve(DEFAULT)
    assert ("1 0 3", "") == place.run(environ)
