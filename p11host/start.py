"""Starting a broker from Python: one for this user on demand, or a private one that ends with us.

Knows how `p11host serve` is called and when it is ready. Must not know what a broker does.
"""

import contextlib
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p11host.client import Door
from p11host.config import choose, load
from p11host.errors import BrokerError
from p11host.limits import deadlines
from p11host.paths import SYSTEM_SOCKET, socket_path

#: Seconds between two looks for a broker that somebody else is starting.
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class PrivateBroker:
    """A broker for one configuration. It ends when the last copy of `guard` is closed."""

    socket: Path
    pid: int
    guard: int

    @property
    def env(self) -> Mapping[str, str]:
        """The environment in which the shim and every tool find this broker, and start no other."""
        return {"P11HOST_SOCKET": str(self.socket), "P11HOST_NO_START": "1"}


def socket_places() -> Sequence[Path]:
    """Return where a broker that serves this user may listen, the first that does being it."""
    return [socket_path()] if os.environ.get("P11HOST_SOCKET") else [socket_path(), SYSTEM_SOCKET]


def open_door(*, start: bool) -> Door:
    """Return a door to the broker that serves this user: its own, the system's, or one started on demand.

    Raises ConfigError if a broker must be started and there is nothing for it to serve, BrokerError if it
    cannot be.
    """
    path = socket_path()
    for place in socket_places():
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return _connect(place)
    if not start or os.environ.get("P11HOST_NO_START"):
        raise BrokerError(
            f"{path}: no broker listens there; it starts with the first application, or by: p11host serve"
        )
    load(choose())
    pid = _launch(["--on-demand"], os.devnull)
    end = time.monotonic() + deadlines().broker / 1000
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return _connect(path)
        time.sleep(_PAUSE)
    raise BrokerError(
        f"{path}: no broker listens there, though one (pid {pid}) was started; run: p11host serve"
    )


@contextlib.contextmanager
def private_broker(config: Path | None, log_level: str = "warning", *options: str) -> Iterator[PrivateBroker]:
    """Run a broker of our own while the context lasts; helpers end when the applications that use them do."""
    broker = start_private(config, log_level, *options)
    try:
        yield broker
    finally:
        os.close(broker.guard)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(broker.pid, 0)
        shutil.rmtree(broker.socket.parent, ignore_errors=True)


def start_private(config: Path | None, log_level: str, *options: str) -> PrivateBroker:
    """Start a broker for `config` alone, on a socket in a directory that it removes when it ends.

    `options` are further ones of `p11host serve`.
    """
    choice = choose(config)
    load(choice)
    directory = Path(tempfile.mkdtemp(prefix="p11host-", dir=_runtime_directory()))
    path = directory / "broker.sock"
    words = ["--private", "--socket", str(path), "--log-level", log_level, *options]
    if choice.named:
        words += ["--config", str(choice.paths[0])]
    reader, guard = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _launch(words, reader)
    except BaseException:
        os.close(guard)
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        os.close(reader)
    return PrivateBroker(path, pid, guard)


def become_private(config: Path) -> None:
    """Give this process, and children it forks, a private broker for the rest of its life."""
    os.environ.update(start_private(config, "off").env)


def _connect(path: Path) -> Door:
    try:
        return Door.of_broker(path)
    except PermissionError as error:
        raise BrokerError(f"{path}: not for uid {os.geteuid()}; set P11HOST_SOCKET") from error


def _runtime_directory() -> str | None:
    """Return a short-lived directory of this user's, if the system gives it one."""
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    return directory if Path(directory).is_dir() and os.access(directory, os.W_OK) else None


def _launch(words: Sequence[str], stdin: str | int) -> int:
    """Start `p11host serve` in a session of its own; return its pid once it, or another one, listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind("")
        name = ready.getsockname().decode().replace("\0", "@")
        pid = _spawn(words, stdin, dict(os.environ) | {"NOTIFY_SOCKET": name})
        status = _wait_ready(pid, ready)
    if status:
        raise BrokerError(f"the broker did not start ({status}); see why with: p11host serve")
    return pid


def _spawn(words: Sequence[str], stdin: str | int, environ: Mapping[str, str]) -> int:
    # -P: a module in the working directory must not stand in for one of ours.
    command = [sys.executable, "-P", "-m", "p11host", "serve", *words]
    null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    if isinstance(stdin, int):
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), null]
    else:
        actions = [(os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0), null, (os.POSIX_SPAWN_DUP2, 1, 2)]
    return os.posix_spawn(
        sys.executable,
        command,
        environ,
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE],
    )


def _wait_ready(pid: int, ready: socket.socket) -> str:
    """Return "" once the broker has said READY=1 or ended well, else how it ended."""
    pidfd = os.pidfd_open(pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ready, selectors.EVENT_READ)
            selector.register(pidfd, selectors.EVENT_READ)
            events = selector.select(deadlines().broker / 1000)
    finally:
        os.close(pidfd)
    files = [key.fileobj for key, _ in events]
    if ready in files:
        return ""
    if not files:
        return "it is silent"
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code else ""
