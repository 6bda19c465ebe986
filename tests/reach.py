"""The ways a test reaches its token: the provider itself, or the shim in front of it."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from p11host import shim_path
from p11host.bench.ways import Provider, through_p11host
from p11host.start import private_broker
from p11host.throwaway import Token

NAMES = ("direct", "p11host")
PATIENCE_S = 60


@dataclass(frozen=True)
class Reach:
    """A library, and the environment in which it finds the token."""

    name: str
    module: Path
    env: Mapping[str, str]
    token: Token

    def run(
        self, *command: object, status: int | None = 0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program that finds the token; its end must be `status`, unless that is None."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environ | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",  # what a token says of itself need be no text
            timeout=PATIENCE_S,
            check=False,
        )
        assert status is None or status == done.returncode, f"{done.args}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of a program that finds the token."""
        return os.environ | dict(self.env)

    def tool(self, *arguments: object, status: int | None = 0) -> str:
        """Run pkcs11-tool without login; return what it printed."""
        token = ["--module", str(self.module), "--token-label", self.token.label]
        return self.run("pkcs11-tool", *token, *arguments, status=status).stdout

    def user_tool(self, *arguments: object, status: int | None = 0) -> str:
        """Run pkcs11-tool logged in as the user; return what it printed."""
        return self.tool("--login", "--pin", self.token.pin, *arguments, status=status)


@contextmanager
def reached(name: str, token: Token) -> Iterator[Reach]:
    """Yield `token` as reached by the way of that name, which lasts until the end of the `with`."""
    if name == "direct":
        yield Reach(name, token.provider, token.env, token)
        return
    provider = Provider("softhsm", token.provider, token.label, token.pin, token.env)
    with through_p11host(provider, token.directory) as target:
        yield Reach(name, target.module, target.env, token)


@contextmanager
def forking(fork: str, token: Token) -> Iterator[Reach]:
    """Yield `token` as reached through p11host, with a module that says this of forked children."""
    config = token.directory / f"{fork}.toml"
    module = {"path": str(token.provider), "env": dict(token.env), "fork": fork}
    config.write_text(tomlkit.dumps({"module": {"soft": module}}))
    config.chmod(0o600)
    with private_broker(config) as broker:
        yield Reach(fork, shim_path(), broker.env, token)
