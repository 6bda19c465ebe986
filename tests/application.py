"""What an application does: a function of a test, run in a process of its own that has loaded the shim.

    python act.py MODULE FUNCTION DESCRIPTOR [ARGUMENT…]

calls that function of a test module with the arguments, each JSON, and writes what it reports and returns to
the descriptor, a line of JSON each. Such a function makes its calls through `Shim`.

Knows the process it runs in. Must not know how it was started; that is life.py's.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptoki import ULONG, Library, constant, struct, word_type

from p11host import shim_path
from p11host.client import Door
from p11host.paths import socket_path
from p11host.tables import tables

#: Seconds after which something that must happen will not.
PATIENCE = 30
MOST_SLOTS = 64
#: Children without a signal at their end are children too (waitpid(2)).
_WALL = 0x40000000
_ENTRY_BYTES = ctypes.sizeof(ctypes.c_void_p)


class Shim(Library):
    """The shim, by all its functions: those of its CK_FUNCTION_LIST_3_2."""

    def __init__(self) -> None:
        super().__init__(shim_path())
        found = ctypes.POINTER(struct("CK_INTERFACE"))()
        rv = self._dll.C_GetInterface(None, ctypes.byref(struct("CK_VERSION")(3, 2)), ctypes.byref(found), 0)
        assert rv == 0, f"C_GetInterface returned {rv:#x}"
        self._list = found.contents.pFunctionList

    @property
    def handle(self) -> int:
        """Return what dlopen returned."""
        return int(self._dll._handle)  # noqa: SLF001 (ctypes has no other name for it)

    def call(self, name: str, *words: Any) -> int:
        """Call a function with its C arguments: integers, pointers, None for NULL. Return its CK_RV."""
        function = tables().functions[name]
        place = self._list + _ENTRY_BYTES * (1 + function.index)
        prototype = ctypes.CFUNCTYPE(ULONG, *(word_type(ctype) for ctype, _ in function.words))
        rv: int = prototype(ctypes.c_void_p.from_address(place).value or 0)(*words)
        return rv

    def rv(self, name: str, *words: Any) -> str:
        """Call a function and return the name of its CK_RV."""
        rv = self.call(name, *words)
        known = tables().constant("ckr", rv)
        return known.name if known else hex(rv)

    def must(self, name: str, *words: Any) -> None:
        """Call a function that returns CKR_OK."""
        rv = self.rv(name, *words)
        assert rv == "CKR_OK", f"{name} returned {rv}"

    def begin(self) -> int:
        """Call C_Initialize for use by many threads, and open a session with the first slot."""
        self.must("C_Initialize", ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(flags=2)))
        return self.open_session(self.slots()[0])

    def slots(self, *, with_token: bool = True) -> list[int]:
        """Return the slots that have a token, or all."""
        found, count = (ULONG * MOST_SLOTS)(), ULONG(MOST_SLOTS)
        self.must("C_GetSlotList", int(with_token), found, ctypes.byref(count))
        return found[: count.value]

    def open_session(self, slot: int) -> int:
        """Open a session for reading and writing."""
        session = ULONG()
        flags = constant("CKF_SERIAL_SESSION") | constant("CKF_RW_SESSION")
        self.must("C_OpenSession", slot, flags, None, None, ctypes.byref(session))
        return session.value

    def use(self, session: int) -> str:
        """Make a small call with a session; return the name of its CK_RV."""
        return self.rv("C_GetSessionInfo", session, ctypes.byref(struct("CK_SESSION_INFO")()))

    def session_info(self, session: int) -> Any:
        """Return the CK_SESSION_INFO of a session."""
        info = struct("CK_SESSION_INFO")()
        self.must("C_GetSessionInfo", session, ctypes.byref(info))
        return info

    def is_logged_in(self, session: int) -> bool:
        """Tell whether a session is the user's."""
        return bool(self.session_info(session).state == constant("CKS_RW_USER_FUNCTIONS"))

    def create_object(self, session: int) -> int:
        """Create an object without attributes, as only some providers do."""
        created = ULONG()
        self.must("C_CreateObject", session, None, 0, ctypes.byref(created))
        return created.value

    def random(self, session: int, length: int = 1) -> bytes:
        """Return random bytes, or what the provider takes for them."""
        room = (ctypes.c_ubyte * length)()
        self.must("C_GenerateRandom", session, room, length)
        return bytes(room)

    def sign(self, session: int) -> str:
        """Sign nothing; return the name of the CK_RV."""
        room = (ctypes.c_ubyte * MOST_SLOTS)()
        return self.rv("C_Sign", session, b"", 0, room, ctypes.byref(ULONG(MOST_SLOTS)))


def await_calls(shim: Shim, session: int, count: int) -> None:
    """Return once the odd provider has so many calls that do not return."""
    end = time.monotonic() + PATIENCE
    while shim.session_info(session).ulDeviceError < count:
        assert time.monotonic() < end


def await_looks(shim: Shim, slot: int, count: int) -> None:
    """Return once the odd provider has been asked so often more how many slots it has."""
    end, info = time.monotonic() + PATIENCE, struct("CK_TOKEN_INFO")()
    shim.must("C_GetTokenInfo", slot, ctypes.byref(info))
    wanted = info.ulRwSessionCount + count
    while info.ulRwSessionCount < wanted:
        assert time.monotonic() < end
        shim.must("C_GetTokenInfo", slot, ctypes.byref(info))


def helpers(pid: int | None = None) -> dict[str, int]:
    """Return the pids of an application's helpers by module, as the broker tells them; by default our own."""
    with Door.of_broker(socket_path()) as door, door.open() as channel:
        status: Any = channel.call("status", [{}])
    of = [each for each in status["applications"] if each["pid"] == (pid or os.getpid())]
    return {helper["module"]: helper["pid"] for each in of for helper in each["helpers"]}


def descriptors() -> dict[int, str]:
    """Return our open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 (its own descriptor is closed when it returns)
        try:
            found[int(name)] = str(Path("/proc/self/fd", name).readlink())
        except FileNotFoundError:
            continue
    return found


def has_children() -> bool:
    """Tell whether we have children, dead or alive, of whatever kind."""
    try:
        os.waitpid(-1, os.WNOHANG | _WALL)
    except ChildProcessError:
        return False
    return True


def in_threads(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each in a thread of its own, all at once; return what they returned."""
    results = start_threads(works)
    return results()


def start_threads(works: Sequence[Callable[[], Any]]) -> Callable[[], list[Any]]:
    """Start a thread for each; return what waits for their ends and gives what they returned."""
    found: dict[int, Any] = {}
    # Threads that hang must not keep the process.
    threads = [
        threading.Thread(target=lambda i=i, work=work: found.update({i: work()}), daemon=True)
        for i, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()

    def results() -> list[Any]:
        for thread in threads:
            thread.join(PATIENCE)
        return [found[i] for i in range(len(works))]

    return results


def in_child(work: Callable[[], Any]) -> Any:
    """Run `work` in a forked child; return what it returned. A child that hangs is ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _live_as_child(work, writer)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {os.waitstatus_to_exitcode(status)}"
    return json.loads(text)


def _live_as_child(work: Callable[[], Any], writer: int) -> None:
    status = 1
    signal.alarm(PATIENCE)
    try:
        os.write(writer, json.dumps(work()).encode())
        status = 0
    finally:
        sys.excepthook(*sys.exc_info()) if status else None
        os._exit(status)


class Report:
    """Where the test reads what we have to say."""

    descriptor = -1


def report(value: Any) -> None:
    """Tell the test something, before the end."""
    os.write(Report.descriptor, json.dumps(value).encode() + b"\n")


def main(module: str, function: str, descriptor: str, *arguments: str) -> None:
    """Run a function of a test module and report what it returns."""
    # Python ignores it; most programs do not.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    Report.descriptor = int(descriptor)
    act = getattr(importlib.import_module(module), function)
    report(act(*map(json.loads, arguments)))
