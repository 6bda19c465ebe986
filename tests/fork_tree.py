"""Trees of real processes that do as they are told: each makes the calls a test names, and forks when asked.

Knows sockets and processes. Must not know what a call should return; that is fork_model.py's to say.
"""

import ctypes
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from application import Shim
from cryptoki import ULONG, constant, struct
from life import PATIENCE, Host, has_ended

PIN = b"123456"
DIGEST_BYTES = 32
LONGEST_LABEL = 64


class Obedient(Shim):
    """What a process can be told, by name; each returns the name of the CK_RV, and what came with it."""

    def initialize(self) -> list[Any]:
        """Call C_Initialize for use by many threads."""
        return [self.rv("C_Initialize", ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(flags=2)))]

    def finalize(self) -> list[Any]:
        """Call C_Finalize."""
        return [self.rv("C_Finalize", None)]

    def list_slots(self) -> list[Any]:
        """Return the slots with a token."""
        found, count = (ULONG * LONGEST_LABEL)(), ULONG(LONGEST_LABEL)
        return [self.rv("C_GetSlotList", 1, found, ctypes.byref(count)), found[: count.value]]

    def open(self, slot: int, flags: int) -> list[Any]:
        """Open a session; return its handle."""
        session = ULONG()
        return [self.rv("C_OpenSession", slot, flags, None, None, ctypes.byref(session)), session.value]

    def info(self, session: int) -> list[Any]:
        """Return the flags and the state of a session."""
        info = struct("CK_SESSION_INFO")()
        rv = self.rv("C_GetSessionInfo", session, ctypes.byref(info))
        return [rv, info.flags, info.state]

    def close(self, session: int) -> list[Any]:
        """Close a session."""
        return [self.rv("C_CloseSession", session)]

    def close_all(self, slot: int) -> list[Any]:
        """Close all sessions with a slot."""
        return [self.rv("C_CloseAllSessions", slot)]

    def log_in(self, session: int) -> list[Any]:
        """Log in with the right PIN."""
        return [self.rv("C_Login", session, constant("CKU_USER"), PIN, len(PIN))]

    def log_out(self, session: int) -> list[Any]:
        """Log out."""
        return [self.rv("C_Logout", session)]

    def make(self, session: int, label: str) -> list[Any]:
        """Make an object of a session, with that label; return its handle."""
        values = [
            (constant("CKA_CLASS"), ULONG(constant("CKO_DATA"))),
            (constant("CKA_TOKEN"), ctypes.c_ubyte(0)),
            (constant("CKA_PRIVATE"), ctypes.c_ubyte(0)),
            (constant("CKA_LABEL"), ctypes.create_string_buffer(label.encode(), len(label))),
        ]
        template = (struct("CK_ATTRIBUTE") * len(values))()
        for entry, (type_, value) in zip(template, values, strict=True):
            entry.type, entry.pValue, entry.ulValueLen = type_, ctypes.addressof(value), ctypes.sizeof(value)
        made = ULONG()
        return [self.rv("C_CreateObject", session, template, len(values), ctypes.byref(made)), made.value]

    def label(self, session: int, made: int) -> list[Any]:
        """Return the label of an object."""
        room = ctypes.create_string_buffer(LONGEST_LABEL)
        wanted = struct("CK_ATTRIBUTE")(constant("CKA_LABEL"), ctypes.addressof(room), LONGEST_LABEL)
        return [self.rv("C_GetAttributeValue", session, made, ctypes.byref(wanted), 1), room.value.decode()]

    def begin_digest(self, session: int) -> list[Any]:
        """Begin to digest."""
        mechanism = struct("CK_MECHANISM")(constant("CKM_SHA256"), None, 0)
        return [self.rv("C_DigestInit", session, ctypes.byref(mechanism))]

    def digest(self, session: int, data: str) -> list[Any]:
        """Digest; return what came of it."""
        room, length = (ctypes.c_ubyte * DIGEST_BYTES)(), ULONG(DIGEST_BYTES)
        rv = self.rv("C_Digest", session, data.encode(), len(data), room, ctypes.byref(length))
        return [rv, bytes(room).hex() if rv == "CKR_OK" else ""]


def obey(path: str) -> None:
    """Be the first process: do what comes through a socket, and so do all that are forked from here."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    shim, forked = Obedient(), False
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        with connection, connection.makefile("r") as commands:
            for line in commands:
                word, *words = json.loads(line)
                if word == "fork":
                    child = os.fork()
                    if child == 0:
                        forked = True
                        break
                    answer: Any = child
                else:
                    answer = getattr(shim, word)(*words)
                connection.sendall(json.dumps(answer).encode() + b"\n")
            else:
                break
    if forked:
        os._exit(0)


class Process:
    """One process of a tree."""

    def __init__(self, grove: "Grove") -> None:
        self._grove = grove
        self._connection, _ = grove.listener.accept()
        self._connection.settimeout(PATIENCE)
        self._answers = self._connection.makefile("r")
        credentials = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid = int.from_bytes(credentials[:4], "little")

    def tell(self, *words: Any) -> Any:
        """Tell it to do something; return what came of it."""
        self._connection.sendall(json.dumps(words).encode() + b"\n")
        line = self._answers.readline()
        assert line, f"process {self.pid} ended at {words}"
        return json.loads(line)

    def fork(self) -> "Process":
        """Let it fork; return the child."""
        pid = self.tell("fork")
        child = Process(self._grove)
        assert pid == child.pid
        return child

    def kill(self) -> None:
        """End it by a signal."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Let it end, and wait until it has."""
        self._answers.close()
        self._connection.close()
        assert has_ended(self.pid)


class Grove:
    """Where trees begin: a process that has loaded the shim and never used it, and is forked for each."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.seed = Process(self)


@contextmanager
def growing(host: Host, path: Path, env: dict[str, str]) -> Iterator[Grove]:
    """Begin to grow trees under a broker."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)
        with host.playing(obey, str(path), env=env):
            grove = Grove(listener)
            yield grove
            grove.seed.end()
