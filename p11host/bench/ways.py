"""The ways to a provider that the benchmark compares: direct, through p11host, through p11-kit.

Knows how each is set up and taken down again. Must not know what is measured.
"""

import os
import select
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from p11host import shim_path
from p11host.bench.measures import Target
from p11host.errors import P11HostError
from p11host.start import private_broker

_PEER_LIBRARIES = "usr/lib/*/pkcs11/p11-kit-client.so"
_READY_S = 30
_END_S = 10


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider with a token, and the environment it needs."""

    name: str
    path: Path
    label: str
    pin: str
    env: Mapping[str, str]


def direct(provider: Provider) -> Target:
    """Return the provider itself."""
    return Target(provider.path, provider.env, provider.label, provider.pin)


@contextmanager
def through_p11host(
    provider: Provider, directory: Path, fork: str = "reinit", sandbox: str = "on"
) -> Iterator[Target]:
    """Yield the shim, with a broker of its own that knows this provider alone; children find `fork`."""
    config = directory / f"{provider.name}-{fork}-{sandbox}.toml"
    config.write_text(configuration(provider, fork, sandbox))
    config.chmod(0o600)
    # Nobody needs to be told aloud that the sandbox is off here.
    with private_broker(config, "warning" if sandbox == "on" else "error") as broker:
        yield Target(shim_path(), broker.env, provider.label, provider.pin)


@contextmanager
def through_peer(provider: Provider, directory: Path) -> Iterator[Target | None]:
    """Yield p11-kit's client, with a server of its own for this provider; None where it is not installed."""
    library = next(Path("/").glob(_PEER_LIBRARIES), None)
    if library is None or shutil.which("p11-kit") is None:
        yield None
        return
    address = directory / f"{provider.name}.p11-kit"
    command = ["p11-kit", "server", "-f", "-n", str(address), "--provider", str(provider.path), "pkcs11:"]
    with running(command, provider.env, stdout=subprocess.PIPE) as server:
        first_line(server, "p11-kit server")
        env = {"P11_KIT_SERVER_ADDRESS": f"unix:path={address}"}
        yield Target(library, env, provider.label, provider.pin)


def configuration(provider: Provider, fork: str = "reinit", sandbox: str = "on") -> str:
    """Return a configuration with this one module."""
    module = {"path": str(provider.path), "env": dict(provider.env), "fork": fork, "sandbox": sandbox}
    return tomlkit.dumps({"module": {provider.name: module}})


@contextmanager
def running(
    command: Sequence[str],
    env: Mapping[str, str],
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the `with`, then end it, by force if it does not go."""
    process = subprocess.Popen(
        command, env=os.environ | dict(env), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def first_line(process: subprocess.Popen[bytes], name: str) -> bytes:
    """Return the first line a program prints, when it is ready; P11HostError if none comes in time."""
    out = process.stdout
    if out is None or not select.select([out], [], [], _READY_S)[0] or not (line := out.readline()):
        raise P11HostError(f"{name} did not start within {_READY_S} s")
    return line
