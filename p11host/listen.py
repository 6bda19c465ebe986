"""The socket a broker listens on: made by us beside a lock, or handed over by systemd.

Knows directories, owners, modes, locks and the systemd protocol of passing sockets. Must not know what is
said on it.
"""

import contextlib
import fcntl
import os
import re
import socket
import stat
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from p11host.errors import BrokerError

BACKLOG = 128
#: The first descriptor that systemd passes (sd_listen_fds(3)).
_FIRST_PASSED = 3


class BusyError(BrokerError):
    """Another broker holds the socket."""


class Listener:
    """A listening SOCK_SEQPACKET socket whose messages carry their sender's credentials.

    Owns the socket and, where `path` is given, the name in the file system and the lock beside it.
    """

    def __init__(self, sock: socket.socket, path: Path | None = None, lock: int | None = None) -> None:
        self.socket = sock
        self._path = path
        self._lock = lock
        self._identity = None if path is None else _identity(path)
        # Inherited by the sockets that are accepted, so that not even a first message comes without.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.settimeout(0)

    @property
    def path(self) -> str:
        """Return where the socket is, for people."""
        return str(self._path or self.socket.getsockname())

    def unlink(self) -> None:
        """Take the name away, so that the next who looks for a broker starts one; and give the lock back."""
        if self._path is not None and _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)
        self._path = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """Stop listening."""
        self.unlink()
        self.socket.close()


def count_passed(environ: Mapping[str, str]) -> int:
    """Return how many sockets systemd says that it has passed to this process."""
    count = environ.get("LISTEN_FDS") or "0"
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    if not re.fullmatch("[0-9]{1,6}", count):
        raise BrokerError(
            f"LISTEN_FDS is {count[:20]!r}, which is no number; unset it, systemd sets it itself"
        )
    return int(count)


def passed_by_systemd(environ: MutableMapping[str, str]) -> Listener | None:
    """Return the socket that systemd listens on for us, None if there is none; forget that it said so."""
    count = count_passed(environ)
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if count == 0:
        return None
    if count != 1:
        raise BrokerError(f"systemd passed {count} sockets; name one in the .socket unit")
    return Listener(_seqpacket(_FIRST_PASSED))


def listen(path: Path, *, everybody: bool = False) -> Listener:
    """Listen at `path`, for our own user or for `everybody`. BusyError if a broker does so already."""
    prepare_directory(path.parent, everybody=everybody)
    lock = _take_lock(path)
    try:
        _remove_stale(path)
        sock = _bind(path, 0o666 if everybody else 0o600)
    except BaseException:
        os.close(lock)
        raise
    return Listener(sock, path, lock)


def prepare_directory(directory: Path, *, everybody: bool = False) -> None:
    """Create the directory of a socket if need be; refuse one where somebody else could put a socket."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o755 if everybody else 0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise BrokerError(f"{directory}: cannot be made: {error.strerror}; set P11HOST_SOCKET") from error
    if not stat.S_ISDIR(found.st_mode):
        raise BrokerError(f"{directory}: not a directory; remove it, or set P11HOST_SOCKET")
    if found.st_uid != os.geteuid():
        raise BrokerError(
            f"{directory}: belongs to uid {found.st_uid}, not to you (uid {os.geteuid()}); "
            "remove it, or set P11HOST_SOCKET"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BrokerError(f"{directory}: others may write to it; run: chmod go-w {directory}")


def _seqpacket(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise BrokerError(f"systemd passed descriptor {descriptor}, which is no socket") from error
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET or not listens:
        raise BrokerError(
            "systemd passed a socket of another kind; use ListenSequentialPacket= in the .socket unit"
        )
    sock.set_inheritable(False)
    return sock


def _take_lock(path: Path) -> int:
    """Return the lock that one broker holds for its life; the kernel gives it back whatever the end."""
    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise BrokerError(
            f"{name}: cannot be opened: {error.strerror}; remove it, or set P11HOST_SOCKET"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise BusyError(
            f"{path}: a broker runs there already (pid {pid}); stop it, or name another --socket"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _remove_stale(path: Path) -> None:
    """Remove the socket of a broker that died. We hold the lock, so none of ours listens there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise BrokerError(f"{path}: in the way and not a socket; remove it, or name another --socket")
    if _answers(path):
        raise BrokerError(f"{path}: another program listens there; name another --socket")
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Tell whether somebody listens at `path`, with a socket of whatever type."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _bind(path: Path, mode: int) -> socket.socket:
    """Return a listening socket at `path`, which nobody could reach with more rights for a moment."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BrokerError(f"{path}: cannot listen: {error.strerror}; name another --socket") from error
    finally:
        os.umask(before)
    path.chmod(mode)
    return sock


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None
