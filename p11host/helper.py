"""A helper's life as the broker sees it: spawned, listened to on its standard error, ended if told, reaped.

Knows command line, environment and descriptors of a helper. Must not know applications: when its owners have
gone a helper ends by itself.
"""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from p11host import log, refusals
from p11host.config import Module
from p11host.errors import P11HostError
from p11host.limits import deadlines
from p11host.lines import Lines
from p11host.obituary import Obituary, reap
from p11host.paths import provider_environment
from p11host.readiness import readable
from p11host.slate import Slate

#: Where a helper finds its door, its module's rows, its slate, its profile, whom it tells what it needs,
#: the user's PIN, who wants to be told of its calls, and which slots are shown.
DOOR, ROWS, SLATE, PROFILE, LEARN, PIN, TRACE, VIEW = 3, 4, 5, 6, 7, 8, 9, 10
_LAST = VIEW
#: The notification `look` (specs/PROTOCOL.md, section 4.10), as it goes through the same socket.
LOOK = b"\x93\x02\xa4look\x90"
#: Where a helper finds the string for its provider's C_Initialize.
RESERVED = "P11HOST_RESERVED"
#: Bytes of standard error taken at once, and how long after that the next are taken: a flood waits in the
#: pipe.
CHUNK = 1 << 14
PAUSE = 0.01
#: Seconds in which a dead helper's last words are read, while a child of it may hold the pipe open.
LAST_WORDS = 0.2


#: Dispositions a helper must not inherit: whoever started the broker may have ignored some.
_DEFAULTS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Confined:
    """What a helper may do, packed.

    `learner` is a socket to whoever hears of what else it wants, where that is not denied.
    """

    profile: bytes = b""
    learner: socket.socket | None = None


@dataclass(frozen=True, slots=True)
class Spawned:
    """A helper that was started. `door` is the application's; whoever takes this owns the descriptors.

    `to_end` is set by whoever wants it to end, and `wanted` if nothing was wrong with it. `born` is a time of
    the monotonic clock. Through `trace` it is handed the sockets of those who watch its calls.
    """

    module: str
    pid: int
    pidfd: int
    door: socket.socket
    stderr: int
    slate: Slate
    trace: socket.socket
    shared: bool = False
    to_end: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    born: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Have it look at its provider's slots now, if somebody waits for their events. Never waits.

        Whoever ends is not told, and one that has many such messages before it needs no more.
        """
        with contextlib.suppress(OSError):
            self.trace.send(LOOK, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def command(
    program: Path, module: Module, confined: Confined, *, spare: bool = False, pin: bool = False
) -> list[str]:
    """Return the command line of a helper for `module`; a `spare` one waits until somebody wants it."""
    words = [str(program)]
    if pin:
        words += ["--pin", str(PIN)]
    if spare:
        words.append("--spare")
    if module.threads == 1:
        words.append("--serialize")
    if module.fork == "inherit":
        words.append("--shared")
    if module.rows:
        words += ["--rows", str(ROWS)]
    if module.selection:
        words += ["--view", str(VIEW)]
    if confined.profile:
        words += ["--profile", str(PROFILE)]
    if confined.learner is not None:
        words += ["--learn", str(LEARN)]
    words += ["--slate", str(SLATE), "--trace", str(TRACE), "--interval", str(module.event_interval)]
    if not module.event_wait:
        words.append("--no-wait")
    if module.token_check:
        words.append("--bound")
    return [*words, "--door", str(DOOR), "--module", module.name, str(module.path)]


def environment(module: Module, environ: Mapping[str, str]) -> dict[str, str]:
    """Return a helper's environment: what it needs of the broker's, and what the module's table says.

    The string for C_Initialize is in it, as it may hold a secret: a command line can be read by everybody.
    """
    reserved = {} if module.reserved is None else {RESERVED: module.reserved}
    return provider_environment(module.env, environ) | reserved


def spawn(  # noqa: PLR0913 (each a thing of its own)
    program: Path,
    module: Module,
    nofile: tuple[int, int],
    confined: Confined,
    *,
    spare: bool = False,
    pin: int | None = None,
) -> Spawned:
    """Start a helper: a session of its own, default signals, no descriptors but its door and standard error.

    `nofile` is the limit of descriptors it is given, for the broker raised its own; `pin` a pipe with the
    user's PIN, which stays the caller's.
    """
    with contextlib.ExitStack() as failed, contextlib.ExitStack() as theirs:
        door, helper_door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        failed.callback(door.close)
        theirs.callback(helper_door.close)
        # Before anybody can come to it: whoever does is made known by the kernel from the first message on.
        helper_door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        stderr, helper_stderr = os.pipe2(os.O_CLOEXEC)
        failed.callback(os.close, stderr)
        theirs.callback(os.close, helper_stderr)
        files = {ROWS: module.rows, PROFILE: confined.profile, VIEW: module.selection}
        given = {place: _file_of(data, theirs) for place, data in files.items()}
        slate = Slate.make(above=_LAST)
        failed.callback(slate.close)
        given |= {DOOR: _above(helper_door, theirs), SLATE: slate.descriptor}
        trace, helper_trace = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        failed.callback(trace.close)
        given[TRACE] = _above(helper_trace, theirs)
        theirs.callback(helper_trace.close)
        given[LEARN] = _above(confined.learner, theirs)
        given[PIN] = _above(pin, theirs)
        try:
            with _descriptor_limit(nofile):
                words = command(program, module, confined, spare=spare, pin=pin is not None)
                pid = _posix_spawn(words, environment(module, os.environ), helper_stderr, given)
        except OSError as error:
            raise P11HostError(
                f"{program}: cannot be started: {error.strerror}; install p11host again"
            ) from error
        shared = module.fork == "inherit"
        spawned = Spawned(module.name, pid, _pidfd_of(pid), door, stderr, slate, trace, shared)
        failed.pop_all()
    return spawned


async def watch(spawned: Spawned, ended: Callable[[Obituary], None]) -> None:
    """Log what a helper writes until it has ended, reap it, and tell `ended`.

    Cancelled, it leaves the helper running.
    """
    try:
        async with asyncio.TaskGroup() as group:
            stderr = group.create_task(_log_stderr(spawned))
            ending = group.create_task(_end_when_told(spawned))
            await readable(spawned.pidfd)
            ending.cancel()
            ended(_obituary(spawned))
            _, still_open = await asyncio.wait([stderr], timeout=LAST_WORDS)
            for task in still_open:
                task.cancel()
    finally:
        os.close(spawned.pidfd)
        os.close(spawned.stderr)
        spawned.slate.close()
        spawned.trace.close()


async def _end_when_told(spawned: Spawned) -> None:
    """Wait until the helper is to end; then ask it, and a moment later leave it no choice."""
    await spawned.to_end.wait()
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(spawned.pidfd, signal.SIGTERM)
        try:
            await asyncio.sleep(deadlines().grace / 1000)
        finally:
            signal.pidfd_send_signal(spawned.pidfd, signal.SIGKILL)


def _obituary(spawned: Spawned) -> Obituary:
    how, status = reap(spawned.pidfd, spawned.pid)
    life = time.monotonic() - spawned.born
    return Obituary(how, status, spawned.slate.read(), life, spawned.wanted.is_set())


def _file_of(data: bytes, theirs: contextlib.ExitStack) -> int | None:
    """Return a file in memory with these bytes, None if there are none. `theirs` owns it."""
    if not data:
        return None
    with os.fdopen(os.memfd_create("p11host", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(data)
        return _above(file.fileno(), theirs)


def _above(file: socket.socket | int | None, theirs: contextlib.ExitStack) -> int | None:
    """Return a descriptor for a helper's end, out of the way of where it finds its own. `theirs` owns it."""
    if file is None:
        return None
    descriptor = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _LAST + 1)
    theirs.callback(os.close, descriptor)
    return descriptor


def _posix_spawn(
    words: list[str], environ: Mapping[str, str], stderr: int, given: Mapping[int, int | None]
) -> int:
    """`given`: what it finds open, by the number under which it does."""
    return os.posix_spawn(
        words[0],
        words,
        environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
            *((os.POSIX_SPAWN_DUP2, ours, its) for its, ours in given.items() if ours is not None),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=_DEFAULTS,
    )


def _pidfd_of(pid: int) -> int:
    """Return a descriptor of a helper just started. Where there is none nobody could see it end: end it."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


@contextlib.contextmanager
def _descriptor_limit(nofile: tuple[int, int]) -> Iterator[None]:
    """Lower the limit while a child inherits it. What is open already stays so."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(nofile[0], before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def _log_stderr(spawned: Spawned) -> None:
    lines = Lines(time.monotonic)
    # A pipe of our own that only we read: what is readable does not block.
    while data := await _read_some(spawned.stderr):
        _log_lines(spawned, lines.feed(data), lines)
        await asyncio.sleep(PAUSE)
    _log_lines(spawned, lines.end(), lines)


async def _read_some(descriptor: int) -> bytes:
    await readable(descriptor)
    return os.read(descriptor, CHUNK)


def _log_lines(spawned: Spawned, lines: Iterator[str], source: Lines) -> None:
    for line in lines:
        if (refusal := refusals.read(line)) is not None:
            log.warning(refusal.event, module=spawned.module, pid=spawned.pid, **refusal.fields)
        else:
            log.info("helper.stderr", module=spawned.module, pid=spawned.pid, line=line)
    if dropped := source.take_dropped():
        log.warning("helper.stderr.dropped", module=spawned.module, pid=spawned.pid, lines=dropped)
