"""Card readers in software: pcscd with the driver vpcd, and cards that are put into its slots.

All of it is a benchmark's or test's own: pcscd listens on a socket in a directory of its, by socket
activation, so that it is in nobody's way; the driver listens on loopback for cards. Knows the driver's
protocol: each message has two bytes of length; one byte alone is power off, on, reset, or the wish for the
ATR.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from p11host.errors import P11HostError

OFF, ON, RESET, TELL_ATR = 0, 1, 2, 4
READERS = 2  # the driver has as many slots, on ports in a row
PATIENCE_S = 30
PID_FILE = Path("/run/pcscd/pcscd.pid")
NAME = "Virtual PCD"
_RETRY_S = 0.05
#: Loaded into pcscd before the reader's driver, which would listen on every interface: on loopback alone.
_LOOPBACK = """
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int bind(int socket, const struct sockaddr *address, socklen_t length);

int bind(int socket, const struct sockaddr *address, socklen_t length) {
        int (*real)(int, const struct sockaddr *, socklen_t);
        struct sockaddr_in local;
        void *found = dlsym(RTLD_NEXT, "bind");

        memcpy(&real, &found, sizeof(real));
        if (address->sa_family != AF_INET || length < sizeof(local))
                return real(socket, address, length);
        memcpy(&local, address, sizeof(local));
        local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return real(socket, (const struct sockaddr *)&local, sizeof(local));
}
"""
READER = """\
FRIENDLYNAME "{name}"
DEVICENAME /dev/null:{port:#06x}
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


class Slot:
    """A reader's slot, into which cards are put. The driver looks every 0.4 s what is in it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._changed = threading.Condition()
        self._card: Card | None = None
        self._connection: socket.socket | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def insert(self, card: Card) -> None:
        """Put a card in, where none is: the driver may not notice one in the place of another."""
        if self._card is not None:
            raise P11HostError("the slot has a card; remove that first")
        self._put(card)

    def remove(self) -> None:
        """Take the card out, if there is one."""
        self._put(None)

    def close(self) -> None:
        """Let go of the reader."""
        self._closed = True
        self._put(None)
        self._thread.join(PATIENCE_S)

    def _put(self, card: Card | None) -> None:
        with self._changed:
            self._card = card
            if self._connection is not None:
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
            self._changed.notify()

    def _serve(self) -> None:
        """Have the driver talk to the card that is in, again when pcscd is another."""
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._card is not None or self._closed)
                card = self._card
            if card is not None:
                self._connect(card)

    def _connect(self, card: Card) -> None:
        try:
            connection = socket.create_connection(("127.0.0.1", self._port), PATIENCE_S)
        except OSError:
            with self._changed:
                self._changed.wait_for(lambda: self._card is not card, _RETRY_S)
            return
        with connection:
            connection.settimeout(None)
            with self._changed:
                if self._card is not card:
                    return
                self._connection = connection
            _talk(connection, card)
            with self._changed:
                self._connection = None


@dataclass
class Rack:
    """A pcscd with two slots. `env` is the environment in which it is found."""

    directory: Path
    slots: Sequence[Slot]
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Where pcscd listens."""
        return self.directory / "pcscd.comm"

    def start(self) -> None:
        """Run pcscd, which listens from the start: who connects before it is ready waits."""
        program = shutil.which("pcscd", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise P11HostError("pcscd is not installed; run: apt-get install pcscd")
        if os.geteuid() != 0 and not PID_FILE.parent.is_dir():
            raise P11HostError(f"pcscd needs root, or {PID_FILE.parent} to exist; run as root")
        self.socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, self.log.open("ab") as output:
            listener.bind(str(self.socket))
            listener.listen()
            words = [program, "--foreground", "--info", "--config", str(self.directory / "readers")]
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(listener.fileno()), *words],
                env=os.environ | {"LD_PRELOAD": str(_loopback(self.directory))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
            )

    @property
    def log(self) -> Path:
        """What pcscd says."""
        return self.directory / "pcscd.log"

    def kill(self) -> None:
        """End pcscd as a fault of its own would; its socket's name stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None

    def end(self) -> None:
        """End pcscd, which must not have ended by itself."""
        if self.process is None:
            return
        if self.process.poll() is not None:
            raise P11HostError(f"pcscd has ended: {self.log.read_text()}")
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.kill()


@contextmanager
def rack(directory: Path, name: str | bytes = NAME) -> Iterator[Rack]:
    """Run pcscd with two empty slots of a reader of that name."""
    with ExitStack() as stack:
        port = _two_ports()
        slots = []
        for number in range(READERS):
            slots.append(Slot(port + number))
            stack.callback(slots[-1].close)
        configure(directory / "readers", port, name)
        yield stack.enter_context(running(Rack(directory, slots)))


@contextmanager
def running(made: Rack) -> Iterator[Rack]:
    """Run the pcscd of a rack, whose readers are configured."""
    made.env = {"PCSCLITE_CSOCK_NAME": str(made.socket)}
    with _kept(PID_FILE), ExitStack() as stack:
        stack.callback(made.kill)
        made.start()
        yield made
        made.end()


def configure(directory: Path, port: int, name: str | bytes = NAME) -> None:
    """Write the configuration of a reader whose first card is behind that port."""
    driver = next(Path("/").glob("usr/lib/**/pcsc/drivers/serial/libifdvpcd.so"), None)
    if driver is None:
        raise P11HostError("there is no reader in software; run: apt-get install vsmartcard-vpcd")
    directory.mkdir()
    text = READER.format(name="\0", port=port, driver=driver).encode()
    (directory / "vpcd").write_bytes(text.replace(b"\0", name if isinstance(name, bytes) else name.encode()))


def _two_ports() -> int:
    """Return the first of two ports that are free, among those that nobody is given by chance."""
    for port in random.sample(range(20000, 32000, READERS), 100):
        with suppress(OSError), ExitStack() as stack:
            for number in range(READERS):
                stack.enter_context(socket.create_server(("127.0.0.1", port + number)))
            return port
    raise P11HostError("no two ports in a row are free; end some programs")


def _loopback(directory: Path) -> Path:
    """Return what keeps the driver from listening to anybody but this machine."""
    made = directory / "loopback.so"
    if not made.exists():
        command = ["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", str(made), "-x", "c", "-", "-ldl"]
        subprocess.run(command, input=_LOOPBACK.encode(), check=True, timeout=PATIENCE_S)
    return made


def _talk(connection: socket.socket, card: Card) -> None:
    """Answer on one connection, until either end has it closed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    with suppress(EOFError, ConnectionError):
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
