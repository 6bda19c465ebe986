"""A helper without a broker: started by the test itself, its door in the test's hands.

Knows a helper's command line and how a channel is opened. Must not know messages.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from p11host import helper_path
from p11host.client import Channel, Door
from p11host.scan import call_frame
from p11host.wire import PROTOCOL, Hello, encode

PATIENCE = 30.0
ULONG = 8
NOBODY = 65534


@dataclass(frozen=True)
class Lone:
    """A helper, and the door through which channels to it are opened."""

    process: subprocess.Popen[str]
    door: socket.socket

    def open(self) -> Channel:
        """Open a channel and wait for the helper's hello; RemoteError if it says that its provider failed."""
        with Door.of_helper(os.dup(self.door.fileno())) as door:
            return door.open("test", PATIENCE)

    def open_raw(self) -> socket.socket:
        """Open a channel without anything in between: the helper's hello is the first to be read."""
        mine, theirs = socket.socketpair()
        mine.settimeout(PATIENCE)
        hello = encode(Hello(PROTOCOL, ULONG, tables=0, program="test").message(), call_frame())
        with theirs:
            socket.send_fds(self.door, [hello], [theirs.fileno()])
        return mine

    def end(self) -> str:
        """Let the helper end, which it does when the door and all channels have; return what it wrote."""
        self.door.close()
        _, written = self.process.communicate(timeout=PATIENCE)
        return written


@contextmanager
def lone_helper(
    provider: Path,
    env: Mapping[str, str] | None = None,
    *,
    nobody: bool = False,
    program: Path | None = None,
) -> Iterator[Lone]:
    """Run a helper for a provider, as nobody if so wished; it is ended with the `with`.

    The helper is that of our own width unless `program` is another.
    """
    with ExitStack() as stack:
        door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(door)
        with theirs:
            helper = program or helper_path()
            words = [_public(stack, helper) if nobody else helper, "--door", theirs.fileno()]
            words += ["--module", "lone", provider]
            process = _start(list(map(str, words)), theirs, dict(env or {}), nobody=nobody)
        try:
            yield Lone(process, door)
        finally:
            process.kill()
            process.communicate()


def _start(
    words: list[str], door: socket.socket, env: Mapping[str, str], *, nobody: bool
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=os.environ | dict(env),
        pass_fds=[door.fileno()],
        stderr=subprocess.PIPE,
        text=True,
        user=NOBODY if nobody else None,
        extra_groups=[] if nobody else None,
    )


def _public(stack: ExitStack, program: Path) -> Path:
    """Return a copy of a program that everybody can run."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    directory.chmod(0o755)
    copy = Path(shutil.copy(program, directory))
    copy.chmod(0o755)
    return copy
