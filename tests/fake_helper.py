"""A helper without a provider, for tests of the broker that need no C: doors, hellos and three functions.

What it does beyond that a module's environment says: FAKE_STDERR is written to standard error, FAKE_EXIT is
an exit code to end with at once, FAKE_ERROR an error to say hello with; to the function
FAKE_LIES it answers `twice`, or first to a call that `nobody` made, as FAKE_LIE says.
"""

import array
import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from p11host.client import ULONG, descriptors_of
from p11host.helper import SLATE
from p11host.scan import call_frame
from p11host.slate import Phase
from p11host.wire import PROTOCOL, Decoder, Fault, Hello, Message, Request, Response, Value, decode, encode

SLOT = 7
#: For a channel, a way back and a bell, and the credentials that the kernel adds: pid, uid, gid.
ROOM = sum(socket.CMSG_SPACE(n * array.array("i").itemsize) for n in (3, 3))
FUNCTIONS: dict[str, Callable[[Sequence[Value]], list[Value]]] = {
    "C_GetInfo": lambda _: [0, [[2, 40], b"p11host".ljust(32), 0, b"fake".ljust(32), [1, 0]]],
    "C_GetSlotList": lambda params: [0, [1, [SLOT] if params[1][0] else None]],
    "C_GetSlotInfo": lambda _: [0, [b"fake slot".ljust(64), b"p11host".ljust(32), 0, [0, 0], [0, 0]]],
    "C_GenerateRandom": lambda params: [0, os.urandom(params[1][1])],
}


def main(words: Sequence[str]) -> None:
    """Serve until the door has ended and no channel is left."""
    sys.stderr.write(os.environ.get("FAKE_STDERR", ""))
    sys.stderr.flush()
    if "FAKE_EXIT" in os.environ:
        sys.exit(int(os.environ["FAKE_EXIT"]))
    note(Phase.SERVING)
    door = socket.socket(fileno=int(words[words.index("--door") + 1]))
    module = words[words.index("--module") + 1]
    while (ends := receive(door)) is not None:
        threading.Thread(target=serve, args=(*ends, module)).start()
    note(Phase.LEAVING)


def note(phase: Phase) -> None:
    """Write to the slate what we are at, and that a call was answered."""
    os.pwrite(SLATE, struct.pack("=I", phase), 0)
    os.pwrite(SLATE, struct.pack("=Q", 1 << 16), 64)


def receive(door: socket.socket) -> tuple[socket.socket, socket.socket] | None:
    """Return both directions of the next channel opened through `door`, None at its end."""
    while True:
        data, ancillary, _, _ = door.recvmsg(1024, ROOM)
        if not data and not ancillary:
            return None
        if not (descriptors := descriptors_of(ancillary)):
            continue
        Hello.of(decode(data, call_frame()))
        channel, *rest = descriptors
        back, *bell = rest or [os.dup(channel)]
        for descriptor in bell:
            os.close(descriptor)  # it is not heard
        return socket.socket(fileno=channel), socket.socket(fileno=back)


def serve(channel: socket.socket, back: socket.socket, module: str) -> None:
    """Say hello, then answer calls until the channel ends."""
    decoder = Decoder(call_frame())
    error = os.environ.get("FAKE_ERROR")
    hello = Hello(PROTOCOL, ULONG, 0, module=module, pid=os.getpid(), cryptoki=(2, 40), error=error)
    with channel, back, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        back.sendall(encode(hello.message(), call_frame()))
        while data := channel.recv(65536):
            decoder.feed(data)
            for message in decoder:
                back.sendall(b"".join(encode(each, call_frame()) for each in answers(message)))


def answers(message: Message) -> list[Response]:
    """Return what is sent for a message: an answer, and what FAKE_LIE adds to those of FAKE_LIES."""
    honest = answer(message)
    if not isinstance(message, Request) or message.method != os.environ.get("FAKE_LIES"):
        return [honest]
    return {
        "twice": [honest, honest],
        "nobody": [Response((honest.msgid + 1) % 2**32, None, honest.result), honest],
    }[os.environ["FAKE_LIE"]]


def answer(message: Message) -> Response:
    """Return what a provider would say."""
    if not isinstance(message, Request):
        raise TypeError(message)
    function = FUNCTIONS.get(message.method)
    if function is None:
        return Response(message.msgid, Fault("unknown", message.method), None)
    return Response(message.msgid, None, function(message.params))


def install(directory: Path) -> Path:
    """Write a program to `directory` that is this helper, whatever environment it is started with."""
    program = directory / "fake-helper"
    places = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    lines = [f"#!{sys.executable}", "import sys", f"sys.path[:0] = {places!r}", "import fake_helper"]
    program.write_text("\n".join([*lines, "fake_helper.main(sys.argv)", ""]))
    program.chmod(0o755)
    return program
