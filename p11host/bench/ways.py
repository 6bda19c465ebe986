"""The ways to a provider that the benchmark compares: direct, through p11host, through p11-kit.

Knows how each is set up and taken down again. Must not know what is measured.
"""

import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from p11host import shim_path
from p11host.bench.measures import Target
from p11host.errors import BrokerError, P11HostError

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
def through_p11host(provider: Provider, directory: Path) -> Iterator[Target]:
    """Yield the shim, with a broker of its own that knows this provider alone."""
    config = directory / f"{provider.name}.toml"
    config.write_text(configuration(provider))
    config.chmod(0o600)
    with broker(config, directory / f"{provider.name}.sock") as env:
        yield Target(shim_path(), env, provider.label, provider.pin)


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
        _first_line(server, "p11-kit server")
        env = {"P11_KIT_SERVER_ADDRESS": f"unix:path={address}"}
        yield Target(library, env, provider.label, provider.pin)


def configuration(provider: Provider) -> str:
    """Return a configuration with this one module."""
    module = {"path": str(provider.path), "env": dict(provider.env)}
    return tomlkit.dumps({"module": {provider.name: module}})


@contextmanager
def broker(config: Path, listens_at: Path) -> Iterator[Mapping[str, str]]:
    """Run a broker until the end of the `with`; yield the environment in which the shim finds it."""
    env = {"P11HOST_SOCKET": str(listens_at)}
    notify = listens_at.with_suffix(".notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(notify))
        command = [sys.executable, "-m", "p11host", "serve", "--config", str(config)]
        with running(command, env | {"NOTIFY_SOCKET": str(notify)}, stderr=subprocess.PIPE) as process:
            _wait_ready(ready, process)
            yield env


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


def _first_line(process: subprocess.Popen[bytes], name: str) -> bytes:
    out = process.stdout
    if out is None or not select.select([out], [], [], _READY_S)[0] or not (line := out.readline()):
        raise P11HostError(f"{name} did not start within {_READY_S} s")
    return line


def _wait_ready(ready: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Wait until the broker says READY=1, as systemd would; BrokerError with its words if it ends instead."""
    pidfd = os.pidfd_open(process.pid)
    try:
        heard = select.select([ready.fileno(), pidfd], [], [], _READY_S)[0]
    finally:
        os.close(pidfd)
    if ready.fileno() in heard and b"READY=1" in ready.recv(4096):
        return
    process.kill()
    said = process.communicate()[1] or b""
    raise BrokerError(f"the broker did not start: {said.decode(errors='replace').strip()}")
