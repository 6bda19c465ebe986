"""What the hostile provider can do, when, and what the standard has the application be told of it.

A cell is one behaviour in one phase, and the function that is called then. Knows the rows of the tables;
must not know how a cell is lived through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p11host.tables import Function, tables

#: What ends the helper, or cuts it off from everybody.
DIES = ("segv", "abort", "exit", "_exit", "sigkill", "memory", "exec", "close")
#: What keeps the call; of these only the last stops the other threads of the helper.
HANGS = ("loop", "sleep", "sigstop")
#: What leaves the call alone: it is answered as ever, whether the deed was done or refused.
BEARS = ("signals", "threads", "fork", "daemon", "ssh", "connect", "ptrace", "kill")
SPEAKS = ("garbage",)
ACTS = (*DIES, *HANGS, *SPEAKS, *BEARS)
LIES = ("length", "wild", "overrun", "zero", "code", "uninitialized", "error", "unpadded", "silence")
PHASES = ("load", "initialize", "idle", "call", "finalize")
ENDINGS = ("load", "initialize", "finalize")

OK, ERROR, GENERAL = "CKR_OK", "CKR_DEVICE_ERROR", "CKR_GENERAL_ERROR"
GONE = "CKR_SESSION_HANDLE_INVALID"
WILD_CODE, NOT_INITIALIZED = "0x123456789abcdef", "CKR_CRYPTOKI_NOT_INITIALIZED"


@dataclass(frozen=True, order=True)
class Cell:
    """One behaviour, in one phase, with one function."""

    behaviour: str
    phase: str
    function: str

    @property
    def row(self) -> Function:
        """Return the function's row."""
        return tables().functions[self.function]

    @property
    def wish(self) -> str:
        """Return what the provider's environment says."""
        if self.behaviour in LIES:
            return f"{self.behaviour} lie {self.function}"
        of = {"load": "load", "initialize": "call C_Initialize", "finalize": "call C_Finalize"}
        idle_or_call = f"{self.phase} {TRIGGER if self.phase == 'idle' else self.function}"
        return f"{self.behaviour} {of.get(self.phase, idle_or_call)}"


#: What the application calls to have the provider act afterwards.
TRIGGER = "C_SeedRandom"


def functions() -> list[str]:
    """Return the functions that reach a provider by a call of their own."""
    ends = ("C_Initialize", "C_Finalize")
    return [each.name for each in tables().functions.values() if not each.local and each.name not in ends]


def is_slow(act: str, phase: str) -> bool:
    """Tell whether a cell takes seconds: whoever starts a provider waits for it longer than for a call."""
    return act in HANGS and phase in ("load", "initialize")


def whole() -> Iterator[Cell]:
    """Return every cell."""
    for function in functions():
        yield from (Cell(act, phase, function) for phase in PHASES for act in ACTS)
        yield from (Cell(lie, "call", function) for lie in LIES)


def sample() -> list[Cell]:
    """Return a cell for each behaviour in each phase, and for each function: always the same."""
    pairs = [(act, phase) for phase in PHASES for act in ACTS if not is_slow(act, phase)]
    pairs += [(lie, "call") for lie in LIES]
    names = functions()
    # A step that has no factor in common with the number of functions comes past each of them.
    return [Cell(act, phase, names[31 * i % len(names)]) for i, (act, phase) in enumerate(pairs)]


# ---- what must be told ----


def has(function: Function, kind: str) -> bool:
    """Tell whether a function has an argument of that kind."""
    return any(arg.kind == kind for arg in function.args)


def is_merged(function: Function) -> bool:
    """Tell whether a function is about all modules, of which none hides the others."""
    return not has(function, "session") and not has(function, "slot")


def answered(function: Function) -> set[str]:
    """Return what the provider says of itself: there is never an event."""
    return {"CKR_NO_EVENT"} if has(function, "out slot") else {OK}


def unknown(function: Function) -> set[str]:
    """Return what is told of a call that may have been executed."""
    return {GENERAL if function.gone == GENERAL else ERROR}


def expected(cell: Cell) -> set[str]:
    """Return the names of the CK_RVs of which the application must get one."""
    if is_merged(cell.row):
        return answered(cell.row)
    if cell.behaviour in LIES:
        return _of_lie(cell)
    if cell.phase == "finalize":
        return answered(cell.row)
    if cell.phase == "call":
        return _in_call(cell)
    return _after_idle(cell) if cell.phase == "idle" else _of_absent(cell)


def _in_call(cell: Cell) -> set[str]:
    if cell.behaviour == "close":
        return {cell.row.gone} | answered(cell.row)  # an answer may go by memory both ends have
    if cell.behaviour == "memory":
        return {cell.row.gone} | unknown(cell.row)  # it takes its time
    if cell.behaviour in DIES:
        return {cell.row.gone}
    if cell.behaviour in HANGS:
        return unknown(cell.row)
    return answered(cell.row) | (unknown(cell.row) if cell.behaviour in SPEAKS else set())


def _after_idle(cell: Cell) -> set[str]:
    # The first call that depends on what has gone says so; one that only needs a slot has a new helper.
    if cell.behaviour == "close":
        return {cell.row.gone} | answered(cell.row)
    if cell.behaviour in DIES:
        return {cell.row.gone} if has(cell.row, "session") else answered(cell.row)
    if cell.behaviour == "sigstop":
        return unknown(cell.row)
    return answered(cell.row) | (unknown(cell.row) if cell.behaviour in SPEAKS else set())


def _of_absent(cell: Cell) -> set[str]:
    # A module that did not come up has no slots, and no session was opened with it.
    if has(cell.row, "session"):
        return {GONE}
    return answered(cell.row) if cell.behaviour in (*BEARS, *SPEAKS) else {cell.row.absent}


def _of_lie(cell: Cell) -> set[str]:
    # A length that there is no room for and a session without a handle are not believed.
    kinds = {arg.kind for arg in cell.row.args}
    counted = kinds & {"out bytes", "out ulongs", "out slots", "out objects", "inout template"}
    told = {
        "length": {ERROR} if counted else {OK},
        "wild": {ERROR} if counted else {OK},
        "overrun": {OK, cell.row.gone, *unknown(cell.row)},
        "zero": {ERROR} if "out session" in kinds else answered(cell.row),
        "code": {WILD_CODE},
        "uninitialized": {NOT_INITIALIZED},
        "error": {"CKR_FUNCTION_FAILED"},
        "silence": {ERROR} if "out session" in kinds else {OK},
    }
    return told.get(cell.behaviour, answered(cell.row))
