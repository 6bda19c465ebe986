"""Throw-away SoftHSM tokens: for the demo, the benchmark and the tests.

Knows where SoftHSM is and how a token of it is made. Must not know what is done with the token.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from p11host.errors import P11HostError

_PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
_CONF = """\
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


@dataclass(frozen=True, slots=True)
class Token:
    """A token in a directory of its own, which its owner removes; its PINs are no secrets."""

    directory: Path
    provider: Path
    label: str
    pin: str = "123456"
    so_pin: str = "87654321"

    @property
    def env(self) -> Mapping[str, str]:
        """The environment in which the provider finds this token and no other."""
        return {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")}


def softhsm() -> Path:
    """Return SoftHSM's library; P11HostError if it is not installed."""
    for place in map(Path, _PLACES):
        if place.exists():
            return place
    raise P11HostError("SoftHSM is not installed: apt-get install softhsm2")


def make_token(directory: Path, label: str = "throwaway") -> Token:
    """Make an initialised token under `directory`, which must exist and be the caller's own."""
    token = Token(directory, softhsm(), label)
    tokens = directory / "tokens"
    tokens.mkdir(mode=0o700)
    (directory / "softhsm2.conf").write_text(_CONF.format(tokens=tokens))
    add_token(token, label)
    return token


def add_token(token: Token, label: str) -> None:
    """Initialise the free slot beside `token`, with its PINs; SoftHSM then offers another free slot."""
    tool = shutil.which("softhsm2-util")
    if tool is None:
        raise P11HostError("softhsm2-util is not installed: apt-get install softhsm2")
    pins = ["--pin", token.pin, "--so-pin", token.so_pin]
    command = [tool, "--init-token", "--free", "--label", label, *pins]
    env = os.environ | dict(token.env)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise P11HostError(f"softhsm2-util made no token in {token.directory}: {done.stderr.strip()}")
