"""Cells of the matrix, lived through by an application: run in a process of its own that has loaded the shim.

Knows what the application sees: CK_RVs, memory, descriptors, time, how the other module answers,
and what is left. Must not know how it was started.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from any_call import AnyCall, Handles
from application import Shim, descriptors, helpers, report
from cryptoki import ULONG, constant, struct
from matrix_cells import ATTACKS, BEARS, ENDINGS, HANGS, LIES, TRIGGER, Cell, comes_back, expected
from matrix_left import end_what_is_left, processes_of

from p11host.wire import RemoteError

#: Seconds after which something that must happen will not.
PATIENCE = 20.0
PAUSE = 0.002
HOSTILE, GOOD = "hostile", "good"
MESSAGE = b"a message"
DONE = 1


@dataclass
class Found:
    """What became of a cell, as the application tells it."""

    rv: str = ""
    wrong: list[str] = field(default_factory=list)
    """What must not have been: other CK_RVs, memory, the other module, descriptors."""
    waited: float = 0.0
    """Seconds that the call took."""
    recovered: float = -1.0
    """Seconds after it until the module answered again."""
    disturbed: float = 0.0
    """The longest that a call to the other module took meanwhile."""
    outcome: int = 0
    """What came of the act: 0 unknown, 1 done, 2 + errno refused."""


def live(template: str, around: tuple[str, str, int], cells: list[list[str]]) -> None:
    """Live through the cells, one after the other, and report each."""
    config, provider, broker = around
    life = Life(template, Path(config), Path(provider), broker)
    for cell in cells:
        report(asdict(life.through(Cell(*cell))))


class Life:
    """An application, and the handles it has from a time when all was well."""

    def __init__(self, template: str, config: Path, provider: Path, broker: int) -> None:
        """Learn the slots."""
        self._template, self._config, self._provider, self._broker = template, config, provider, broker
        self._used: set[int] = set()
        self._shim = Shim()
        self._arm("")
        self._initialize()
        self._slot, self._good_slot, *_ = self._shim.slots()
        self._old = self._shim.open_session(self._slot)
        self._shim.must("C_Finalize", None)
        self._before = descriptors()

    def through(self, cell: Cell) -> Found:
        """Live through one cell."""
        found = Found()
        self._used = set()
        self._arm(cell.wish)
        try:
            self._initialize()
            self._meet(cell, found)
        except AssertionError as error:
            found.wrong.append(str(error))
        self._end(found)
        return found

    def _arm(self, wish: str) -> None:
        """Say what helpers that are started from now on will do."""
        text = self._template.replace("{wish}", wish)
        place = self._config.with_suffix(".new")
        place.write_text(text)
        place.rename(self._config)

    def _initialize(self) -> None:
        self._shim.must("C_Initialize", ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(flags=2)))

    # ---- one cell ----

    def _meet(self, cell: Cell, found: Found) -> None:
        good = self._shim.open_session(self._good_slot)
        self._work(good)
        session = self._session_for(cell)
        self._note_helpers()
        if cell.phase == "idle":
            self._provoke(cell, session)
        if cell.phase not in ENDINGS:
            self._arm("")
        call = AnyCall(cell.row, Handles(session, self._slot))
        found.rv = self._call(cell, call, good, found)
        told = expected(cell, confined="sandbox" not in self._template)
        if found.rv not in told:
            found.wrong.append(f"{found.rv} instead of {' or '.join(sorted(told))}")
        found.wrong += call.wrong(0 if found.rv == "CKR_OK" else 1)
        self._arm("" if cell.phase != "finalize" else cell.wish)
        if comes_back(cell):
            self._recover(cell, found)
        self._work(good)
        self._note_helpers()

    def _session_for(self, cell: Cell) -> int:
        """Return a session with the hostile module; where it never came up, one of an earlier life."""
        if cell.function == "C_OpenSession" and cell.phase == "call":
            return self._old
        if cell.phase in ("load", "initialize"):
            return self._old
        return self._shim.open_session(self._slot)

    def _provoke(self, cell: Cell, session: int) -> None:
        """Have the provider act in a thread of its own, and wait until it has."""
        pid = helpers()[HOSTILE]
        descriptor = os.pidfd_open(pid)
        try:
            self._shim.must(TRIGGER, session, b"x", 1)
            until(
                lambda: has_acted(pid, descriptor, cell.behaviour), f"the provider never did {cell.behaviour}"
            )
        finally:
            os.close(descriptor)

    def _call(self, cell: Cell, call: AnyCall, good: int, found: Found) -> str:
        """Make the call in a thread of its own; meanwhile the other module must answer as ever."""
        rvs: list[tuple[str, float]] = []

        def make() -> None:
            begun = time.monotonic()
            rv = self._shim.rv(cell.function, *call.words)
            rvs.append((rv, time.monotonic() - begun))

        thread = threading.Thread(target=make, daemon=True)
        thread.start()
        end = time.monotonic() + PATIENCE
        while thread.is_alive():
            found.disturbed = max(found.disturbed, self._work(good))
            assert time.monotonic() < end, f"{cell.function} has not returned"
            thread.join(PAUSE)
        rv, found.waited = rvs[0]
        return rv

    def _work(self, session: int) -> float:
        """Have the other module compute what we know; return the seconds it took."""
        mechanism = struct("CK_MECHANISM")(mechanism=constant("CKM_SHA256"))
        digest, length = (ctypes.c_ubyte * 32)(), ULONG(32)
        begun = time.monotonic()
        self._shim.must("C_DigestInit", session, ctypes.byref(mechanism))
        self._shim.must("C_Digest", session, MESSAGE, len(MESSAGE), digest, ctypes.byref(length))
        assert bytes(digest) == hashlib.sha256(MESSAGE).digest(), "the other module's digest is wrong"
        return time.monotonic() - begun

    def _recover(self, cell: Cell, found: Found) -> None:
        """Use the module until it answers as it should."""
        begun = time.monotonic()
        opened = ULONG()
        use: Callable[[], str] = lambda: self._shim.rv(  # noqa: E731
            "C_OpenSession", self._slot, 4, None, None, ctypes.byref(opened)
        )
        if cell.behaviour in LIES and cell.function == "C_OpenSession":
            use = lambda: self._shim.rv(  # noqa: E731
                "C_GetSlotInfo", self._slot, ctypes.byref(struct("CK_SLOT_INFO")())
            )
        until(lambda: use() == "CKR_OK", "the module has not come back")
        found.recovered = time.monotonic() - begun
        if opened.value and cell.behaviour in BEARS:
            found.outcome = int(self._shim.session_info(opened.value).ulDeviceError)
        if found.outcome == DONE and cell.behaviour in ATTACKS and "sandbox" not in self._template:
            found.wrong.append("the sandbox let it be done")

    def _note_helpers(self) -> None:
        with suppress(OSError, RemoteError):  # the broker may have been killed
            self._used |= set(helpers().values())

    def _end(self, found: Found) -> None:
        begun = time.monotonic()
        rv = self._shim.rv("C_Finalize", None)
        took = time.monotonic() - begun
        if rv != "CKR_OK" or took > PATIENCE:
            found.wrong.append(f"C_Finalize returned {rv} after {took:.3f} s")
        left = {number: what for number, what in descriptors().items() if number not in self._before}
        if left:
            found.wrong.append(f"descriptors are left: {left}")
        found.wrong += end_what_is_left(lambda: processes_of(self._used, self._provider, self._broker))


def until(is_so: Callable[[], bool], otherwise: str) -> None:
    """Wait for what must come."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, otherwise
        time.sleep(PAUSE)


def tasks(pid: int) -> list[Path]:
    """Return the state of each thread of a process; it may end meanwhile."""
    with suppress(OSError):
        return list(Path(f"/proc/{pid}/task").glob("*/stat"))
    return []


def has_acted(pid: int, descriptor: int, behaviour: str) -> bool:
    """Tell whether a helper's provider has done what it was to do between calls."""
    if select.select([descriptor], [], [], 0)[0]:
        return True
    names, states = set(), set()
    for stat in tasks(pid):
        with suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(") ")
            names.add(name)
            states.add(rest[0])
    if behaviour == "sigstop":
        return states == {"T"}
    awaited = {"exec": {"sleep", "acted"}, **{key: {"acting"} for key in HANGS}}
    return bool(names & awaited.get(behaviour, {"acted"}))
