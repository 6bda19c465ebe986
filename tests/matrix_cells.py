"""What the hostile provider can do, when, and what the standard has the application be told of it.

A cell is one behaviour in one phase, and the function that is called then. Knows the rows of the tables;
must not know how a cell is lived through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p11host.tables import Function, tables

#: What ends the helper, or cuts it off from everybody.
DIES = ("segv", "abort", "exit", "_exit", "sigkill", "memory", "close")
#: What keeps the call; of these only the last stops the other threads of the helper.
HANGS = ("loop", "sleep", "sigstop")
#: What the sandbox refuses; without it exec ends the helper, and of the others the call knows nothing.
ATTACKS = ("exec", "fork", "daemon", "ssh", "connect", "ptrace", "kill")
#: What leaves the call alone: it is answered as ever, whether the deed was done or refused.
BEARS = ("signals", "threads", *ATTACKS)
SPEAKS = ("garbage",)
ACTS = (*DIES, *HANGS, *SPEAKS, *BEARS)
LIES = (
    *("length", "wild", "overrun", "zero", "code", "uninitialized"),
    *("error", "unpadded", "silence", "event"),
)
PHASES = ("load", "initialize", "idle", "call", "finalize")
ENDINGS = ("load", "initialize", "finalize")

OK, ERROR, GENERAL = "CKR_OK", "CKR_DEVICE_ERROR", "CKR_GENERAL_ERROR"
GONE = "CKR_SESSION_HANDLE_INVALID"
#: Of a token of many of a module that does not answer.
ABSENT = "CKR_TOKEN_NOT_PRESENT"
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


def whole() -> Iterator[Cell]:
    """Return every cell."""
    for function in functions():
        yield from (Cell(act, phase, function) for phase in PHASES for act in ACTS)
        yield from (Cell(lie, "call", function) for lie in LIES)


def sample() -> list[Cell]:
    """Return a cell for each behaviour in each phase, and for each function: always the same."""
    pairs = [(act, phase) for phase in PHASES for act in ACTS]
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


def expected(cell: Cell, *, confined: bool = True) -> set[str]:
    """Return the names of the CK_RVs of which the application must get one."""
    if cell.function == "C_GetSlotInfo":
        return {OK}  # one slot of many is always described
    told = _expected(cell, confined=confined)
    if cell.function != "C_GetTokenInfo":
        return told
    return {ABSENT if rv in (cell.row.gone, cell.row.absent, ERROR) else rv for rv in told}


def _expected(cell: Cell, *, confined: bool) -> set[str]:
    if is_merged(cell.row):
        return _merged(cell)
    if cell.behaviour in LIES:
        return _of_lie(cell)
    if cell.phase == "finalize":
        return answered(cell.row)
    dies = cell.behaviour in DIES or (cell.behaviour == "exec" and not confined)
    if cell.phase == "call":
        return _in_call(cell, dies=dies)
    return _after_idle(cell, dies=dies) if cell.phase == "idle" else _of_absent(cell, dies=dies)


def comes_back(cell: Cell) -> bool:
    """Tell whether the module answers again in this life: one that has not come up goes on trying."""
    return cell.behaviour not in HANGS or cell.phase not in ("load", "initialize")


def _merged(cell: Cell) -> set[str]:
    told = answered(cell.row)
    makes_up = cell.behaviour in ("silence", "length", "wild", "event", "zero", "unpadded")
    return told | {OK} if cell.behaviour in LIES and makes_up and has(cell.row, "out slot") else told


def _in_call(cell: Cell, *, dies: bool) -> set[str]:
    if cell.behaviour == "close":
        return {cell.row.gone} | answered(cell.row)  # an answer may go by memory both ends have
    if cell.behaviour == "memory":
        return {cell.row.gone} | unknown(cell.row)  # it takes its time
    if dies:
        return {cell.row.gone}
    if cell.behaviour in HANGS:
        return unknown(cell.row)
    return answered(cell.row) | (unknown(cell.row) if cell.behaviour in SPEAKS else set())


def _after_idle(cell: Cell, *, dies: bool) -> set[str]:
    # The first call that depends on what has gone says so; one that only needs a slot has a new helper.
    if cell.behaviour == "close":
        return {cell.row.gone} | answered(cell.row)
    if dies:
        return {cell.row.gone} if has(cell.row, "session") else answered(cell.row)
    if cell.behaviour == "sigstop":
        return unknown(cell.row)
    return answered(cell.row) | (unknown(cell.row) if cell.behaviour in SPEAKS else set())


def _of_absent(cell: Cell, *, dies: bool) -> set[str]:
    # A module that did not come up has no slots, and no session was opened with it.
    if has(cell.row, "session"):
        return {GONE}
    lives = not dies and cell.behaviour not in HANGS
    told = answered(cell.row) if lives else {cell.row.absent}
    return told | {cell.row.absent} if cell.behaviour == "threads" else told  # it may leave the helper none


def _of_lie(cell: Cell) -> set[str]:
    # A length that there is no room for and a session without a handle are not believed.
    kinds = {arg.kind for arg in cell.row.args}
    counted = kinds & {"out bytes", "out ulongs", "out slots", "out objects", "inout template"}
    told = {
        "length": {ERROR} if counted or "out session" in kinds else {OK},
        "wild": {ERROR} if counted or "out session" in kinds else {OK},
        "overrun": {OK, cell.row.gone, *unknown(cell.row)},
        "zero": {ERROR} if kinds & {"out session", "out objects"} else answered(cell.row),
        "code": {WILD_CODE},
        "uninitialized": {NOT_INITIALIZED},
        "error": {"CKR_FUNCTION_FAILED"},
        "silence": {ERROR} if "out session" in kinds else {OK},
    }
    return told.get(cell.behaviour, answered(cell.row))
