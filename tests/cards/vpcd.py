"""A card reader in software: pcscd with the driver vpcd, and cards in its two slots.

All of it is a test's own: pcscd listens on a socket in the test's directory, by socket activation, so that
it is in nobody's way; the driver connects to the cards on loopback. Knows the driver's protocol: each message
has two bytes of length; one byte alone is power off, on, reset, or the wish for the ATR.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

OFF, ON, RESET, TELL_ATR = 0, 1, 2, 4
READERS = 2  # the driver has as many slots, on ports in a row
PATIENCE_S = 30
PID_FILE = Path("/run/pcscd/pcscd.pid")
READER = """\
FRIENDLYNAME "Virtual PCD"
DEVICENAME 127.0.0.1:{port:#06x}
LIBPATH {driver}
CHANNELID {port:#06x}
"""
#: pcscd finds the socket it is to listen on as its third descriptor, said to be for its own process.
_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Card(Protocol):
    """What can be put into a slot."""

    @property
    def atr(self) -> bytes:
        """What it says when it gets power."""

    def reset(self) -> None:
        """Begin anew."""

    def answer(self, command: bytes) -> bytes:
        """Answer a command."""


@contextmanager
def readers(directory: Path, cards: Sequence[Card]) -> Iterator[dict[str, str]]:
    """Run pcscd with these cards, one in each slot; yield the environment in which it is found."""
    assert len(cards) == READERS
    where = directory / "pcscd.comm"
    with ExitStack() as stack:
        listeners = stack.enter_context(_ports_in_a_row())
        for listener, card in zip(listeners, cards, strict=True):
            stack.enter_context(_serving(listener, card))
        configure(directory / "readers", listeners[0].getsockname()[1])
        stack.enter_context(_kept(PID_FILE))
        stack.enter_context(_pcscd(directory, where))
        yield {"PCSCLITE_CSOCK_NAME": str(where)}


def configure(directory: Path, port: int) -> None:
    """Write the configuration of a reader whose first card is behind that port."""
    driver = next(Path("/").glob("usr/lib/**/pcsc/drivers/serial/libifdvpcd.so"), None)
    assert driver is not None, "the reader's driver is not installed: apt-get install vsmartcard-vpcd"
    directory.mkdir()
    (directory / "vpcd").write_text(READER.format(port=port, driver=driver))


@contextmanager
def _ports_in_a_row() -> Iterator[list[socket.socket]]:
    """Listen on two ports of which the second is the first's successor."""
    for _ in range(100):
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            try:
                second = stack.enter_context(socket.create_server(("127.0.0.1", first.getsockname()[1] + 1)))
            except (OSError, OverflowError):
                continue
            yield [first, second]
            return
    raise AssertionError("no two ports in a row are free")


@contextmanager
def _serving(listener: socket.socket, card: Card) -> Iterator[None]:
    """Let the driver have the card."""
    thread = threading.Thread(target=_serve, args=(listener, card), daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


def _serve(listener: socket.socket, card: Card) -> None:
    """Answer one connection, until the driver ends it."""
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    with connection, suppress(EOFError, ConnectionError):
        while True:
            message = _read(connection, int.from_bytes(_read(connection, 2), "big"))
            answer = _react(card, message)
            if answer is not None:
                connection.sendall(len(answer).to_bytes(2, "big") + answer)


def _react(card: Card, message: bytes) -> bytes | None:
    if len(message) > 1:
        return card.answer(message)
    if message[0] == TELL_ATR:
        return card.atr
    card.reset()
    return None


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
        # The driver sends length and message apart, and the second waits until the first is acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return data


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Leave a file as it was: pcscd writes its process's number where another pcscd may have put its own."""
    before = path.read_bytes() if path.exists() else None
    had_directory = path.parent.exists()
    yield
    with suppress(OSError):
        if before is not None:
            path.write_bytes(before)
        else:
            path.unlink(missing_ok=True)
            if not had_directory:
                path.parent.rmdir()


@contextmanager
def _pcscd(directory: Path, where: Path) -> Iterator[None]:
    """Run pcscd, which listens from the start: who connects before it is ready waits."""
    program = shutil.which("pcscd", path="/usr/sbin:/usr/local/sbin")
    assert program is not None, "pcscd is not installed: apt-get install pcscd"
    assert os.geteuid() == 0 or PID_FILE.parent.is_dir(), f"pcscd needs root, or {PID_FILE.parent} to exist"
    log = directory / "pcscd.log"
    with socket.socket(socket.AF_UNIX) as listener, log.open("wb") as output:
        listener.bind(str(where))
        listener.listen()
        words = [program, "--foreground", "--info", "--config", str(directory / "readers")]
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(listener.fileno()), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
        )
    try:
        yield
        assert process.poll() is None, f"pcscd has ended: {log.read_text()}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
