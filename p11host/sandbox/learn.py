"""Learning: a helper whose system calls are watched instead of denied, and what is heard of them.

Knows the kernel's notifications of seccomp, and what each call names. Must not decide what a module should be
allowed: that is for whoever reads the answer (lines.py).
"""

import ctypes
import errno
import fcntl
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from p11host.client import descriptors_of
from p11host.errors import P11HostError
from p11host.sandbox.settings import Right

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_AT_FDCWD = 0xFFFFFF9C
_MOST = 4096
#: So many things are noted, and no more of a module that wants more: one may name another file each time.
MOST_HEARD = 10_000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_THREAD = 0x10000
#: By the name of a call: where its paths are, as (directory's descriptor or None, text).
_OPENS: Mapping[str, tuple[int | None, int]] = {"open": (None, 0), "openat": (0, 1)}
_CHANGES: Mapping[str, tuple[tuple[int | None, int], ...]] = {
    "creat": ((None, 0),),
    "mkdir": ((None, 0),),
    "mkdirat": ((0, 1),),
    "mknod": ((None, 0),),
    "mknodat": ((0, 1),),
    "unlink": ((None, 0),),
    "unlinkat": ((0, 1),),
    "rmdir": ((None, 0),),
    "rename": ((None, 0), (None, 1)),
    "renameat": ((0, 1), (2, 3)),
    "renameat2": ((0, 1), (2, 3)),
    "link": ((None, 0), (None, 1)),
    "linkat": ((0, 1), (2, 3)),
    "symlink": ((None, 1),),
    "symlinkat": ((1, 2),),
    "truncate": ((None, 0),),
    "truncate64": ((None, 0),),
}
_RUNS: Mapping[str, tuple[int | None, int]] = {"execve": (None, 0), "execveat": (0, 1)}
_PROCESSES = {"fork", "vfork", "clone", "clone3", "setsid", "setpgid"}
_IPC = {
    *("ipc", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget", "msgctl"),
    *("msgget", "msgrcv", "msgsnd", "mq_open", "mq_unlink", "mq_notify", "mq_timedsend", "mq_timedreceive"),
}


@dataclass(frozen=True, slots=True)
class Heard:
    """One thing that a module wanted: a right to a path, a capability, or a call that nobody may make."""

    right: Right | None = None
    path: str = ""
    capability: str = ""
    port: int = 0
    call: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that waits for an answer."""

    id: int
    pid: int
    name: str
    words: tuple[int, ...]


class Learner:
    """Hears of the calls of every helper of one module, and writes what they want to a file, a line each."""

    def __init__(self, module: str, file: Path) -> None:
        self.module = module
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._seen: set[Heard] = set()
        self._lock = threading.Lock()
        self._names = _Names()

    def begin(self) -> socket.socket:
        """Return what the next helper is given as its socket to whoever learns; the caller closes it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # A helper waits for us at each of its calls; we wait for nobody but it.
        threading.Thread(target=self._hear, args=(ours,), daemon=True).start()
        return theirs

    def _hear(self, ours: socket.socket) -> None:
        with ours:
            # Not socket.recv_fds, some of which take flags and forget them.
            _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
        for listener in descriptors_of(ancillary):
            try:
                while (asked := self._next(listener)) is not None:
                    for heard in listened(asked):
                        self.note(heard)
                    _let_go(listener, asked)
            finally:
                os.close(listener)

    def _next(self, listener: int) -> Asked | None:
        """Return the next call, None once all of the helper has ended."""
        import select  # noqa: PLC0415

        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            if any(event & select.POLLHUP for _, event in poll.poll()):
                return None
            buffer = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(listener, _RECEIVE, buffer)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return None
            number, pid, _, call, machine, _, *words = _NOTIFICATION.unpack(buffer)
            return Asked(number, pid, self._names.of(machine, call), tuple(words))

    def note(self, heard: Heard) -> None:
        """Write down what a helper wants, once, and no more than MOST_HEARD such things."""
        with self._lock:
            if heard not in self._seen and len(self._seen) < MOST_HEARD:
                self._seen.add(heard)
                os.write(self._file, json.dumps(asdict(heard)).encode() + b"\n")


def heard_in(file: Path) -> list[Heard]:
    """Return what was written to a file."""
    return [Heard(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _let_go(listener: int, asked: Asked) -> None:
    # ENOENT: whoever asked has ended meanwhile.
    with suppress(OSError):
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(asked.id, 0, 0, _CONTINUE))


def listened(asked: Asked) -> list[Heard]:
    """Return what a call wants; nothing where it names what nobody can follow or read."""
    found: list[Heard] = []
    # Paths and addresses are the module's: too long, in a circle, beyond all memory, or not for us to see.
    with suppress(OSError, ValueError, OverflowError, RuntimeError):
        found += wanted(asked)
    return found


def wanted(asked: Asked) -> Iterator[Heard]:
    """Yield what a call wants: nothing if it names what does not exist."""
    name, words = asked.name, asked.words
    if name in _OPENS:
        yield from _opened(asked, *_OPENS[name])
    elif name in _CHANGES:
        for place in _CHANGES[name]:
            yield from _at(asked, place, "write", parent=name not in ("truncate", "truncate64"))
    elif name in _RUNS:
        yield Heard(capability="processes")
        yield from _at(asked, _RUNS[name], "execute")
    elif name in ("connect", "bind"):
        yield from _addressed(asked)
    elif name == "socket":
        if words[0] in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
            yield Heard(capability="network")
        elif words[0] != socket.AF_UNIX:
            yield Heard(call=f"socket of family {words[0]}")
    elif name in _PROCESSES:
        if name != "clone" or not words[0] & _THREAD:
            yield Heard(capability="processes")
    elif name in _IPC:
        yield Heard(capability="ipc")
    else:
        yield Heard(call=name)


def _opened(asked: Asked, directory: int | None, text: int) -> Iterator[Heard]:
    flags = asked.words[text + 1]
    right: Right = "write" if flags & _WRITES else "read"
    path = _path(asked, (directory, text))
    if path is None:
        return
    if not path.exists():
        if flags & os.O_CREAT:
            yield from _at(asked, (directory, text), "write", parent=True)
        return
    yield from _at(asked, (directory, text), right)


def _at(
    asked: Asked, place: tuple[int | None, int], right: Right, *, parent: bool = False
) -> Iterator[Heard]:
    path = _path(asked, place)
    if path is None:
        return
    path = path.parent if parent else path
    with suppress(OSError):
        real = path.resolve(strict=True)
        if _is_own(real, asked.pid):
            return
        mode = real.stat().st_mode
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        yield Heard("devices" if is_device and right == "write" else right, str(real))


def _is_own(path: Path, pid: int) -> bool:
    """Tell whether a path is of the process itself, below /proc."""
    return path.is_relative_to(f"/proc/{pid}") or path.is_relative_to(f"/proc/{os.getpid()}")


def _path(asked: Asked, place: tuple[int | None, int]) -> Path | None:
    directory, text = place
    name = _text(asked.pid, asked.words[text])
    if not name:
        return None
    descriptor = _AT_FDCWD if directory is None else asked.words[directory] & 0xFFFFFFFF
    base = "cwd" if descriptor == _AT_FDCWD else f"fd/{descriptor}"
    return Path(f"/proc/{asked.pid}", base, name)


def _addressed(asked: Asked) -> Iterator[Heard]:
    data = _memory(asked.pid, asked.words[1], min(asked.words[2], 128))
    if len(data) < 4:
        return
    (family,) = struct.unpack_from("=H", data)
    if family in (socket.AF_INET, socket.AF_INET6):
        (port,) = struct.unpack_from(">H", data, 2)
        yield Heard(capability="network", port=port if asked.name == "connect" else 0)
    elif family == socket.AF_UNIX:
        name = data[2:]
        if name[:1] == b"\0":
            yield Heard("sockets", "@" + name[1:].decode(errors="replace"))
        else:
            path = name.partition(b"\0")[0].decode(errors="surrogateescape")
            if Path(path).exists():
                yield Heard("sockets", path)


def _text(pid: int, address: int) -> str:
    return _memory(pid, address, _MOST).partition(b"\0")[0].decode(errors="surrogateescape")


def _memory(pid: int, address: int, size: int) -> bytes:
    """Return what is in a process's memory, as much of it as there is up to the end of a page."""
    data = b""
    with suppress(OSError), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        while size > 0:
            step = min(size, _MOST - address % _MOST)
            memory.seek(address)
            data += memory.read(step)
            if b"\0" in data[-step:]:
                break
            address, size = address + step, size - step
    return data


class _Names:
    """The names of system calls, by libseccomp."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libseccomp.so.2")
        except OSError as error:
            raise P11HostError("learning needs libseccomp; run: apt-get install libseccomp2") from error
        self._library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
        self._free = ctypes.CDLL(None).free

    def of(self, machine: int, number: int) -> str:
        """Return a call's name, or its number."""
        found = self._library.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(machine), ctypes.c_int(number))
        if not found:
            return str(number)
        name = ctypes.cast(found, ctypes.c_char_p).value or b""
        self._free(ctypes.c_void_p(found))
        return name.decode()
