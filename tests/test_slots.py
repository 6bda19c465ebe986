"""Slots of many modules that change, fail, and say what cannot be: numbers stay, none hides another."""

import ctypes
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import Shim, helpers, in_child
from cryptoki import ULONG, struct
from life import Host, Hosting, has_ended
from rack import Racks

pytest_plugins = ["life_fixtures"]

MOST = 1024  # of one module: limits.module_slots


# ---- what an application does ----


def begin() -> Shim:
    """Return the shim, initialised."""
    shim = Shim()
    shim.must("C_Initialize", None)
    return shim


def count(shim: Shim) -> int:
    """Ask how many slots there are."""
    number = ULONG()
    shim.must("C_GetSlotList", 0, None, ctypes.byref(number))
    return number.value


def table(shim: Shim) -> list[list[Any]]:
    """Ask how many slots there are and list them: each by its number, with its description."""
    count(shim)
    return [[slot, describe(shim, slot)] for slot in shim.slots(with_token=False)]


def describe(shim: Shim, slot: int) -> str:
    """Return a slot's description, or why there is none."""
    info = struct("CK_SLOT_INFO")()
    rv = shim.rv("C_GetSlotInfo", slot, ctypes.byref(info))
    return bytes(info.slotDescription).decode().rstrip() if rv == "CKR_OK" else rv


def fill(file: str, *lines: str) -> None:
    """Fill a rack, at once for whoever looks."""
    Path(f"{file}.new").write_text("".join(f"{line}\n" for line in lines))
    Path(f"{file}.new").rename(file)


# ---- numbers ----


def test_numbers_stay(hosting: Hosting, racks: Racks) -> None:
    """A slot keeps its number while others come, go and change places; one that comes back has its own again.

    So it is in a child, in the next life, and when another helper lists the slots in another order.
    """
    one, two = racks.make("one", "10 a 1 A", "11 b 1 B"), racks.make("two", "10 c 1 C")
    host = hosting(one.table(), two.table())
    seen = host.play(change_and_list, str(one.file))

    assert [[1, "A"], [2, "B"], [3, "C"]] == seen["first"]
    assert [[4, "D"], [2, "B"], [1, "A"], [3, "C"]] == seen["new and in another order"]
    assert [[2, "B"], [3, "C"]] == seen["some gone"]
    assert "CKR_SLOT_ID_INVALID" == seen["one that is gone"]
    assert [[5, "E"], [1, "A"], [2, "B"], [4, "D"], [3, "C"]] == seen["after a crash"]
    assert seen["after a crash"] == seen["in a child"] == seen["in the next life"]


def change_and_list(file: str) -> dict[str, Any]:
    """List the slots as one module's change."""
    shim = begin()
    seen: dict[str, Any] = {"first": table(shim)}
    fill(file, "12 d 1 D", "11 b 1 B", "10 a 1 A")
    seen["new and in another order"] = table(shim)
    fill(file, "11 b 1 B")
    seen["some gone"] = table(shim)
    seen["one that is gone"] = describe(shim, 1)
    fill(file, "99 e 1 E", "10 a 1 A", "11 b 1 B", "12 d 1 D")
    pid = helpers()["one"]
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)
    seen["after a crash"] = table(shim)
    seen["in a child"] = in_child(partial(table, shim))
    shim.must("C_Finalize", None)
    shim.must("C_Initialize", None)
    return seen | {"in the next life": table(shim)}


def test_new_slots_come_when_they_are_counted(hosting: Hosting, racks: Racks) -> None:
    """A slot that is new is in no list before somebody has asked how many there are (section 5.5)."""
    one, two = racks.make("one", "1 a"), racks.make("two", "1 b")

    assert [[1, 2], [1, 2], 3, [1, 3, 2]] == hosting(one.table(), two.table()).play(add_one, str(one.file))


def add_one(file: str) -> list[Any]:
    """List slots when one has come, then count them and list them again."""
    shim = begin()
    count(shim)
    before = shim.slots()
    fill(file, "1 a", "2 c")
    return [before, shim.slots(), count(shim), shim.slots()]


def test_order_is_by_priority(hosting: Hosting, racks: Racks) -> None:
    """Slots come by their modules' priority, and where that is equal in the order of the file."""
    priorities = {"low": -1, "first": 0, "second": 0, "high": 7}
    tables = [racks.make(name, f"1 t 1 {name}").table(priority=n) for name, n in priorities.items()]

    expected = [[1, "high"], [2, "first"], [3, "second"], [4, "low"]]
    assert expected == hosting(*tables).play(list_once)


def list_once() -> list[list[Any]]:
    """List the slots, whose numbers are given by that."""
    return table(begin())


# ---- none waits for another ----


def test_all_are_asked_at_the_same_time(hosting: Hosting, racks: Racks, tmp_path: Path) -> None:
    """Modules work on C_GetSlotList together: here each answers only when the others have been asked too."""
    made = [racks.make(f"m{n}", f"1 t 1 S{n}", f"meets 5 {tmp_path}/place") for n in range(5)]

    assert [[n + 1, f"S{n}"] for n in range(5)] == hosting(*(rack.table() for rack in made)).play(list_once)


BROKEN: dict[str, tuple[str, ...]] = {
    "dies": ("1 t 1 Bad", "dies"),
    "claims": ("1 t 1 Bad", "claims 100000"),
    "many": ("many 100000",),
    "all": ("1 t 1 Bad", f"claims {2**64 - 1}"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_bad_module_hides_no_other(hosting: Hosting, racks: Racks, how: str) -> None:
    """A module that dies, or has more slots than one may have, shows none; the others show theirs."""
    good, last = racks.make("good", "1 a 1 Good").table(), racks.make("last", "1 b 1 Last").table()

    expected = [[1, "Good"], [2, "Last"]]
    assert expected == hosting(good, racks.make("bad", *BROKEN[how]).table(), last).play(list_once)


def test_a_hung_module_is_given_up(hosting: Hosting, racks: Racks) -> None:
    """Modules that do not answer are waited for as long as one of them may take, and the others are shown."""
    deadlines = {"short": 1500}
    hung = [racks.make(f"hung{n}", "1 t", "sleep 600000").table(deadlines=deadlines) for n in range(3)]
    good = racks.make("good", "1 a 1 Good").table()

    assert [[1, "Good"]] == hosting(*hung, good).play(list_once)


# ---- what a module says of slots ----


@pytest.mark.parametrize("others", [0, 1])
def test_a_slot_that_is_named_twice_is_one(hosting: Hosting, racks: Racks, others: int) -> None:
    """A slot that its provider lists more than once is listed once, where it came first."""
    twice = racks.make("twice", "5 a 1 A", "6 b 1 B", "5 a 1 A", "5 a 1 A", "7 c 1 C", "6 b 1 B")
    other = [racks.make("other", "5 d 1 D").table()] * others

    expected = [[1, "A"], [2, "B"], [3, "C"], [4, "D"]][: 3 + others]
    assert expected == hosting(twice.table(), *other).play(list_once)


@pytest.mark.parametrize("others", [0, 1])
def test_odd_numbers_are_slots_like_others(hosting: Hosting, racks: Racks, others: int) -> None:
    """A provider may number its slots as it likes, 0 and ~0 included: applications see small numbers."""
    odd = racks.make("odd", "0 a 1 A", f"{2**64 - 1} b 1 B", f"{2**63} c 1 C", f"{2**32} d 1 D")
    other = [racks.make("other", "0 e 1 E").table()] * others

    expected = [[1, "A"], [2, "B"], [3, "C"], [4, "D"], [5, "E"]][: 4 + others]
    host = hosting(odd.table(), *other)
    assert [expected, [2, 4], ["CKR_SLOT_ID_INVALID"] * 3] == host.play(use_odd)


def use_odd() -> list[Any]:
    """List slots, open sessions with the odd ones, and ask about numbers that are none of ours."""
    shim = begin()
    listed = table(shim)
    sessions = [shim.session_info(shim.open_session(slot)).slotID for slot in (2, 4)]
    return [listed, sessions, [describe(shim, slot) for slot in (0, 2**63, 2**64 - 1)]]


def test_too_many_of_one_module_alone(hosting: Hosting, racks: Racks) -> None:
    """A module alone with more slots than one may have is not believed, and `list` and `doctor` say why."""
    host = hosting(racks.make("many", "many 100000").table())

    assert ["CKR_DEVICE_ERROR"] * 4 == host.play(list_in_many_ways)
    assert "it has 100000 slots, and applications see none of them" in " ".join(told(host, "list", 1).split())
    assert "it has 100000 slots, and applications see none of them" in " ".join(
        told(host, "doctor", 1).split()
    )


def told(host: Host, command: str, status: int) -> str:
    """Return what a command of ours says."""
    return host.run(sys.executable, "-P", "-m", "p11host", command, status=status)


def test_as_many_as_there_may_be(hosting: Hosting, racks: Racks) -> None:
    """A module may have as many slots as the limit says, beside others."""
    many, other = racks.make("many", f"many {MOST}"), racks.make("other", "1 a 1 A")

    found = hosting(many.table(), other.table()).play(list_all)

    assert [list(range(1, MOST + 2)), "A"] == found


def list_in_many_ways() -> list[str]:
    """Count, and list with little room, with as much as there is and with more."""
    shim = begin()
    ways = []
    for room in (None, 1, MOST, 100000):
        number = ULONG(room or 0)
        slots = None if room is None else (ULONG * room)()
        ways.append(shim.rv("C_GetSlotList", 0, slots, ctypes.byref(number)))
    return ways


def list_all() -> list[Any]:
    """List more slots than most programs expect, and use the last."""
    shim = begin()
    number = ULONG(count(shim))
    slots = (ULONG * number.value)()
    shim.must("C_GetSlotList", 0, slots, ctypes.byref(number))
    listed = slots[: number.value]
    return [listed, describe(shim, listed[-1])]
