"""An application that makes one call after the other as a test says, so that cards can move in between.

    python orders.py LIBRARY SOCKET

loads the provider at LIBRARY, or the shim if that is "", and does what it reads from the socket: a line of
JSON each, answered by one. Knows the calls that signing with a card takes.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from cryptoki import ULONG  # noqa: E402
from notebook import Notebook, mechanism  # noqa: E402

PATIENCE = 60
DATA = b"signed, sealed, delivered"


class Worker:
    """Does what it is told, each by its name, and returns names of CK_RVs."""

    def __init__(self, path: str) -> None:
        self._book = Notebook(path)
        self._session = self._key = 0

    def do(self, order: str) -> Any:
        """Do one thing."""
        return getattr(self, order)()

    def initialize(self) -> str:
        """Begin."""
        self._book.initialize()
        return "CKR_OK"

    def finalize(self) -> str:
        """End."""
        return self._book.rv("C_Finalize", None)

    def slots(self) -> int:
        """Return how many slots have a token."""
        return len(self._book.slots())

    def open(self) -> str:
        """Open a session with the first token."""
        session = ULONG()
        rv = self._book.rv("C_OpenSession", self._first_slot(), 4, None, None, ctypes.byref(session))
        self._session = session.value
        return rv

    def _first_slot(self) -> int:
        """Return the first slot with a token, once there is one: OpenSC may need several looks."""
        end, count = time.monotonic() + PATIENCE, ULONG()
        while not (found := self._book.slots()):
            assert time.monotonic() < end, "no slot has a token"
            time.sleep(0.05)
            self._book.must("C_GetSlotList", 0, None, ctypes.byref(count))
        return found[0]

    def login(self) -> str:
        """Log in, and find the key."""
        rv = self._book.login(self._session, "CKU_USER", b"123456")
        if rv == "CKR_OK":
            self._key = self._book.find(self._session, CLASS="CKO_PRIVATE_KEY", ID=b"\1")[0]
        return rv

    def sign(self) -> str:
        """Sign with the key as it was found."""
        made = self._book.operate("Sign", self._session, mechanism("CKM_SHA256_RSA_PKCS"), self._key, DATA)
        return made.rv

    def begin(self) -> str:
        """Begin a signature."""
        given = mechanism("CKM_SHA256_RSA_PKCS")
        return self._book.rv("C_SignInit", self._session, ctypes.byref(given), self._key)

    def end(self) -> str:
        """End it."""
        return self._book.finish("C_Sign", self._session, DATA, len(DATA)).rv

    def state(self) -> str:
        """Ask for the state of the session."""
        room = ctypes.create_string_buffer(64)
        return self._book.rv("C_GetSessionInfo", self._session, room)

    def close(self) -> str:
        """Close the session."""
        return self._book.rv("C_CloseSession", self._session)

    def drain(self) -> str:
        """Take the events that there are."""
        while (rv := self._book.rv("C_WaitForSlotEvent", 1, ctypes.byref(ULONG()), None)) == "CKR_OK":
            pass
        return rv

    def event(self) -> str:
        """Wait for a slot's event."""
        return self._book.rv("C_WaitForSlotEvent", 0, ctypes.byref(ULONG()), None)


class Application:
    """Such a process, and the socket by which it is told what to do."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._file = connection.makefile("rw")

    def send(self, order: str) -> None:
        """Tell it what to do, and do not wait."""
        self._file.write(json.dumps(order) + "\n")
        self._file.flush()

    def answer(self) -> Any:
        """Return what came of it."""
        line = self._file.readline()
        assert line, f"the application has ended with {self._process.wait(PATIENCE)}"
        return json.loads(line)

    def do(self, *orders: str) -> Any:
        """Have it do things; return what came of the last."""
        answer = None
        for order in orders:
            self.send(order)
            answer = self.answer()
        return answer


@contextmanager
def application(library: str, env: Mapping[str, str]) -> Iterator[Application]:
    """Run an application of a library, or of the shim where that is ""."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    words = [sys.executable, str(Path(__file__).resolve()), library, str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(words, env=os.environ | dict(env), pass_fds=[theirs.fileno()], cwd="/")
    with ours, process:
        try:
            yield Application(process, ours)
        finally:
            process.kill()


def main(library: str, descriptor: str) -> None:
    """Do what is asked for until nobody asks."""
    worker = Worker(library)
    with socket.socket(fileno=int(descriptor)) as connection, connection.makefile("rw") as file:
        for line in file:
            file.write(json.dumps(worker.do(json.loads(line))) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
