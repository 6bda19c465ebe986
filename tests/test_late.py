"""A module that takes long over C_GetSlotList: a list of many does without it, and has it again later."""

import ctypes
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import PATIENCE, Shim, helpers, in_child, in_threads, start_threads
from brokers import Starter
from containment import watch
from cryptoki import ULONG, struct
from life import Hosting, has_ended
from rack import Rack, Racks
from test_slots import count, fill, table

pytest_plugins = ["broker_fixtures", "life_fixtures"]

#: Milliseconds: what a list waits for one that is late here, and what nobody would sit through.
SOON, NEVER = 300, 600_000
LATE, GOOD = "1 t 1 Late", "1 g 1 Good"


@pytest.fixture
def late(racks: Racks) -> Rack:
    """Return a rack that holds nobody up yet."""
    return racks.make("late", LATE)


def hold(late: Rack) -> Path:
    """Return the file that holds its callers up as long as it is there."""
    file = late.file.with_suffix(".hold")
    file.touch()
    return file


def both(late: Rack, racks: Racks, short: int = NEVER, **keys: object) -> tuple[str, str]:
    """Return the tables of the one that may be late and of one that is not, which comes after it."""
    deadlines = {"short": short, "list": SOON}
    return late.table(deadlines=deadlines, spare=False, **keys), racks.make("good", GOOD).table(**keys)


# ---- what an application does ----


def begin() -> Shim:
    """Return the shim, initialised for many threads."""
    shim = Shim()
    shim.must("C_Initialize", ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(flags=2)))
    return shim


def calls(file: str) -> int:
    """Tell how many calls have been held up; all of them still are if the file is there."""
    held = Path(f"{file}.held")
    return held.stat().st_size if held.exists() else 0


def await_table(shim: Shim, slots: int) -> list[list[Any]]:
    """Return the table once it has so many slots."""
    end = time.monotonic() + PATIENCE
    while len(found := table(shim)) < slots:
        assert time.monotonic() < end, found
    return found


# ---- lists ----


@pytest.mark.parametrize("what", ["count", "slots"])
def test_first_list(hosting: Hosting, racks: Racks, late: Rack, what: str) -> None:
    """A module that hangs when slots get their numbers is left out; when it has answered it has its own.

    Nobody asks it anything meanwhile.
    """
    file = hold(late)
    late.fill(LATE, f"holds {what} {file}")
    found = hosting(*both(late, racks)).play(list_first, str(file))

    assert [[[1, "Good"]]] * 3 == found["while it hangs"]
    assert 1 == found["calls that hang"]
    assert [[2, "Late"], [1, "Good"]] == found["when it has answered"]


def list_first(file: str) -> dict[str, Any]:
    """List slots while a module hangs, and when it does not any more."""
    shim = begin()
    found: dict[str, Any] = {"while it hangs": [table(shim) for _ in range(3)]}
    found["calls that hang"] = calls(file)
    Path(file).unlink()
    return found | {"when it has answered": await_table(shim, 2)}


@pytest.mark.parametrize("what", ["count", "slots"])
def test_later_list(hosting: Hosting, racks: Racks, late: Rack, what: str) -> None:
    """One that hangs later is left out too, and its slots keep their numbers; its sessions are as before."""
    file = hold(late)
    found = hosting(*both(late, racks)).play(list_later, str(late.file), str(file), what)

    assert found["before"] == found["when it has answered"]
    assert found["before"][1:] == found["while it hangs"]
    assert 1 == found["calls that hang"]
    assert ["CKR_OK", "CKR_OK"] == found["its sessions"]


def list_later(rack: str, file: str, what: str) -> dict[str, Any]:
    """List slots before, while and after a module hangs; use a session of it meanwhile and open another."""
    shim = begin()
    found: dict[str, Any] = {"before": await_table(shim, 2)}
    its = found["before"][0][0]
    session = shim.open_session(its)
    fill(rack, LATE, f"holds {what} {file}")
    found["while it hangs"] = table(shim)
    found["calls that hang"] = calls(file)
    found["its sessions"] = [shim.use(session), shim.use(shim.open_session(its))]
    Path(file).unlink()
    return found | {"when it has answered": await_table(shim, 2)}


def test_no_more_than_was_counted(hosting: Hosting, racks: Racks, late: Rack) -> None:
    """One that was late when slots were counted is in no list before somebody counts again (section 5.5)."""
    file = hold(late)
    found = hosting(*both(late, racks)).play(list_without_counting, str(late.file), str(file))

    slots = found[-1]

    assert [1, [slots[1:]], 2, slots] == found


def list_without_counting(rack: str, file: str) -> list[Any]:
    """Count while a module hangs; then list often as it answers, and count again."""
    shim = begin()
    its = await_table(shim, 2)[0][0]
    fill(rack, LATE, f"holds count {file}")
    counted = count(shim)
    fill(rack, LATE)
    Path(file).unlink()
    use_for_a_while(shim, its)
    lists = [shim.slots() for _ in range(50)]
    end = time.monotonic() + PATIENCE
    while (again := count(shim)) < 2 and time.monotonic() < end:
        continue
    return [counted, [each for i, each in enumerate(lists) if each not in lists[:i]], again, shim.slots()]


def use_for_a_while(shim: Shim, slot: int) -> None:
    """Make calls of the late one for as long as it may need to answer what it was asked before."""
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        shim.must("C_GetSlotInfo", slot, ctypes.byref(struct("CK_SLOT_INFO")()))


def test_always_slow(hosting: Hosting, racks: Racks, late: Rack) -> None:
    """One that always takes longer than it is waited for is waited for longer, until it is seen."""
    late.fill(LATE, "sleep 150")
    slow = late.table(deadlines={"short": NEVER, "list": 50})

    assert ["Late", "Good"] == hosting(slow, racks.make("good", GOOD).table()).play(list_slow)


def list_slow() -> list[str]:
    """List slots until there are two."""
    return [text for _, text in await_table(begin(), 2)]


def test_alone(hosting: Hosting, late: Rack) -> None:
    """A module that an application sees alone is waited for, as long as its own deadline says."""
    late.fill(LATE, "sleep 50")
    alone = late.table(deadlines={"short": NEVER, "list": 1})

    assert [[1, "Late"]] == hosting(alone).play(list_alone)


def list_alone() -> list[list[Any]]:
    """List the slots once."""
    return table(begin())


def test_threads(hosting: Hosting, racks: Racks, late: Rack) -> None:
    """Threads that list at the same time are not held up either, and leave it alone after that."""
    file = hold(late)
    late.fill(LATE, f"holds any {file}")
    found = hosting(*both(late, racks)).play(list_in_threads, str(file))

    assert [[[[1, "Good"]]] * 5] * 4 == found["while it hangs"]
    assert 1 <= found["calls that hang"] <= 4
    assert [[[2, "Late"], [1, "Good"]]] * 4 == found["later"]


def list_in_threads(file: str) -> dict[str, Any]:
    """List slots in four threads, several times each; then release what hangs and do so again."""
    shim = begin()
    found: dict[str, Any] = {
        "while it hangs": in_threads([lambda: [table(shim) for _ in range(5)]] * 4),
        "calls that hang": calls(file),
    }
    Path(file).unlink()
    await_table(shim, 2)
    return found | {"later": in_threads([partial(await_table, shim, 2)] * 4)}


def test_list_command(hosting: Hosting, racks: Racks, late: Rack) -> None:
    """`p11host list` shows the others, and says why one has no slots."""
    file = hold(late)
    late.fill(LATE, f"holds any {file}")
    host = hosting(*both(late, racks))

    told = host.run(sys.executable, "-P", "-m", "p11host", "list", "--json")
    found = {module["name"]: module for module in json.loads(told)["modules"]}

    assert ["Good"] == [slot["description"] for slot in found["good"]["slots"]]
    assert [] == found["late"]["slots"]
    assert "C_GetSlotList: no answer in 0.3 s; its slots come when it has answered" == found["late"]["error"]
    assert file.exists(), "it hung to the end"


# ---- ends ----


def test_finalize(hosting: Hosting, racks: Racks, late: Rack) -> None:
    """C_Finalize does not wait for it, its helper ends; in the next life it has its slots."""
    file = hold(late)
    late.fill(LATE, f"holds any {file}")

    found = hosting(*both(late, racks)).play(finalize_while_late, str(late.file))

    assert [[[1, "Good"]], "CKR_OK", True, [[2, "Late"], [1, "Good"]]] == found
    assert file.exists(), "it hung to the end"


def finalize_while_late(rack: str) -> list[Any]:
    """List slots, end, and begin again when nothing hangs any more."""
    shim = begin()
    found: list[Any] = [table(shim)]
    pid = helpers()["late"]
    found += [shim.rv("C_Finalize", None), has_ended(pid)]
    fill(rack, LATE)
    return [*found, await_table(begin(), 2)]


def test_finalize_wakes(hosting: Hosting, racks: Racks, late: Rack) -> None:
    """C_Finalize ends a list that waits, and says so."""
    file = hold(late)
    late.fill(LATE, f"holds any {file}")
    waits = late.table(deadlines={"short": NEVER, "list": NEVER // 2}, spare=False)

    found = hosting(waits, racks.make("good", GOOD).table()).play(finalize_while_listing, str(file))

    assert ["CKR_OK", ["CKR_CRYPTOKI_NOT_INITIALIZED"]] == found


def finalize_while_listing(file: str) -> list[Any]:
    """End while a thread counts slots."""
    shim = begin()
    results = start_threads([lambda: shim.rv("C_GetSlotList", 0, None, ctypes.byref(ULONG()))])
    end = time.monotonic() + PATIENCE
    while not calls(file):
        assert time.monotonic() < end
    return [shim.rv("C_Finalize", None), results()]


@pytest.mark.parametrize("fork", ["reinit", "inherit", "strict"])
def test_fork(hosting: Hosting, racks: Racks, late: Rack, fork: str) -> None:
    """A child asks for itself, and is not held up; what its parent waits for stays its parent's."""
    file = hold(late)
    found = hosting(*both(late, racks, fork=fork)).play(fork_while_late, str(late.file), str(file), fork)

    good = found["before"][1:]
    assert good == found["parent's"] == found["child's"] == found["parent's again"]
    assert 2 == found["calls that hang"], "each has asked once"
    assert found["before"] == found["child's later"] == found["parent's later"]


def fork_while_late(rack: str, file: str, fork: str) -> dict[str, Any]:
    """List slots while a module hangs, fork, and do so in the child and in the parent; then release it."""
    shim = begin()
    found: dict[str, Any] = {"before": await_table(shim, 2)}
    fill(rack, LATE, f"holds any {file}")
    found["parent's"] = table(shim)

    def child() -> dict[str, Any]:
        if fork == "strict":
            shim.must("C_Initialize", None)
        listed = table(shim)
        hanging = calls(file)
        fill(rack, LATE)
        Path(file).unlink()
        return {"child's": listed, "calls that hang": hanging, "child's later": await_table(shim, 2)}

    found["parent's again"] = table(shim)
    found |= in_child(child)
    return found | {"parent's later": await_table(shim, 2)}


def test_overdue(starter: Starter, racks: Racks, late: Rack) -> None:
    """One that has not answered by its deadline is reported as hung, and its next helper is asked."""
    file = hold(late)
    late.fill(LATE, f"holds any {file}")
    host = watch(starter, *both(late, racks, short=5 * SOON))

    found = host.play(list_until_given_up, str(late.file))

    assert [[1, "Good"]] == found["while it hangs"]
    assert found["has ended"]
    assert [[2, "Late"], [1, "Good"]] == found["with another helper"]
    hung = host.event("helper.hung", module="late", pid=found["helper"])
    assert "C_GetSlotList" == hung["function"]


def list_until_given_up(rack: str) -> dict[str, Any]:
    """List slots until the helper that hangs has been ended; then with the next one."""
    shim = begin()
    found: dict[str, Any] = {"while it hangs": table(shim), "helper": helpers()["late"]}
    fill(rack, LATE)
    end = time.monotonic() + PATIENCE
    while helpers().get("late") == found["helper"] and time.monotonic() < end:
        table(shim)
    found["has ended"] = has_ended(found["helper"])
    return found | {"with another helper": await_table(shim, 2)}


def test_crash_while_late(hosting: Hosting, racks: Racks, late: Rack) -> None:
    """If it dies instead of answering the next list has what its next helper says."""
    file = hold(late)
    late.fill(LATE, f"holds any {file}")

    found = hosting(*both(late, racks)).play(kill_while_late, str(late.file))

    assert [[[1, "Good"]], [[2, "Late"], [1, "Good"]]] == found


def kill_while_late(rack: str) -> list[Any]:
    """List slots, kill the helper that hangs, and list again."""
    shim = begin()
    found: list[Any] = [table(shim)]
    pid = helpers()["late"]
    fill(rack, LATE)
    os.kill(pid, 9)
    assert has_ended(pid)
    return [*found, await_table(shim, 2)]


def test_unknown_slot(hosting: Hosting, racks: Racks, late: Rack) -> None:
    """A slot is found that was never listed, and for one that nobody has, none that hangs is waited for."""
    file = hold(late)
    late.fill(LATE, f"holds any {file}")

    assert ["CKR_OK", "CKR_SLOT_ID_INVALID"] == hosting(*both(late, racks)).play(name_slots)


def name_slots() -> list[str]:
    """Ask about slots by their numbers."""
    shim, info = begin(), struct("CK_SLOT_INFO")()
    return [shim.rv("C_GetSlotInfo", slot, ctypes.byref(info)) for slot in (1, 2)]
