"""Many modules as one library: their slots in a row, its own information, their events."""

import ctypes
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import Shim, await_calls, helpers, in_child, start_threads
from brokers import module
from cryptoki import ULONG, constant, struct
from life import Host, Hosting

pytest_plugins = ["life_fixtures"]

NO_SUCH_SLOT = "CKR_SLOT_ID_INVALID"
FILL = 0xA5A5A5A5


# ---- slots ----


def test_slots_are_in_the_order_of_the_modules(two: Host) -> None:
    """The slots of all modules are listed one module after the other; ids are small and count from 1."""
    found = two.play(list_slots)

    assert [1, 2, 3, 4] == found["slots"]


def test_slot_ids_stay(two: Host) -> None:
    """A slot has the same id in the next list, and after C_Finalize and C_Initialize too."""
    found = two.play(list_slots)

    assert found["slots"] == found["again"] == found["in the next life"]


def list_slots() -> dict[str, list[int]]:
    """List the slots, again, and in another life."""
    shim = Shim()
    shim.must("C_Initialize", None)
    found = {"slots": shim.slots(), "again": shim.slots()}
    shim.must("C_Finalize", None)
    shim.must("C_Initialize", None)
    return found | {"in the next life": shim.slots()}


def test_calls_reach_the_slot_they_name(two: Host) -> None:
    """Each id leads to its slot, and a session says so; an id that nobody was given leads nowhere."""
    found, sessions = two.play(open_everywhere)

    assert {
        "0": NO_SUCH_SLOT,
        **dict.fromkeys("1234", "CKR_OK"),
        "5": NO_SUCH_SLOT,
        str(0x7000): NO_SUCH_SLOT,
    } == found
    assert [1, 2, 3, 4] == sessions


def open_everywhere() -> tuple[dict[int, str], list[int]]:
    """Ask about slots that are there and that are not; ask sessions of all that are which one they have."""
    shim = Shim()
    shim.must("C_Initialize", None)
    info = struct("CK_SLOT_INFO")()
    slots = shim.slots()
    found = {slot: shim.rv("C_GetSlotInfo", slot, ctypes.byref(info)) for slot in (0, *slots, 5, 0x7000)}
    sessions = [shim.open_session(slot) for slot in slots]
    return found, [shim.session_info(session).slotID for session in sessions]


def test_a_slot_may_be_used_without_a_list(two: Host) -> None:
    """A program that knows a slot's id from its configuration need not list any; here or in a child."""
    opened = {"1": "CKR_OK", "4": "CKR_OK", "0": NO_SUCH_SLOT, "5": NO_SUCH_SLOT}

    assert [opened, opened] == two.play(open_without_list)


def open_without_list() -> list[dict[str, str]]:
    """Open sessions with slots that were never listed, then do the same in a child."""
    shim = Shim()
    shim.must("C_Initialize", None)
    child = in_child(partial(open_by_id, shim))
    return [open_by_id(shim), child]


def open_by_id(shim: Shim) -> dict[str, str]:
    """Open sessions with the last slot, the first, and some that are not there."""
    flags = constant("CKF_SERIAL_SESSION")
    return {
        str(slot): shim.rv("C_OpenSession", slot, flags, None, None, ctypes.byref(ULONG()))
        for slot in (4, 1, 0, 5)
    }


@pytest.mark.parametrize("first", ["those with a token", "all", "one by its id"])
def test_ids_do_not_depend_on_what_is_asked(hosting: Hosting, odd: Path, first: str) -> None:
    """A slot has the same id in every program, whichever slots it asks for first."""
    host = hosting(module("a", odd, env={"ODD_SLOTS": "3", "ODD_EMPTY": "2"}), module("b", odd))

    assert [[3, 4], [1, 2, 3, 4]] == host.play(list_first, first)


def list_first(first: str) -> list[list[int]]:
    """Ask for slots in some way, then list those with a token and all."""
    shim = Shim()
    shim.must("C_Initialize", None)
    if first == "all":
        shim.slots(with_token=False)
    elif first == "one by its id":
        shim.must("C_GetSlotInfo", 4, ctypes.byref(struct("CK_SLOT_INFO")()))
    return [shim.slots(), shim.slots(with_token=False)]


@pytest.mark.parametrize("name", ["plain", "two"])
def test_convention_for_buffers(request: pytest.FixtureRequest, name: str) -> None:
    """C_GetSlotList counts for NULL, says how large a buffer must be, and fills one that is."""
    host: Host = request.getfixturevalue(name)
    count = {"plain": 1, "two": 4}[name]
    slots = list(range(1, count + 1))

    found = host.play(fill_buffers, count)

    assert ["CKR_OK", count] == found["NULL"]
    assert ["CKR_BUFFER_TOO_SMALL", count] == found["none"][:2] == found["too small"][:2]
    assert ["CKR_OK", count, [*slots, FILL]] == found["exact"]
    assert ["CKR_OK", count, [*slots, FILL, FILL]] == found["too large"]
    assert FILL == found["none"][2][0] == found["too small"][2][count - 1]


def fill_buffers(count: int) -> dict[str, Any]:
    """Ask for the slots with buffers of many sizes."""
    shim = Shim()
    shim.must("C_Initialize", None)

    def ask(room: int) -> list[Any]:
        buffer, length = (ULONG * (count + 2))(*[FILL] * (count + 2)), ULONG(room)
        rv = shim.rv("C_GetSlotList", 1, buffer, ctypes.byref(length))
        return [rv, length.value, buffer[: max(room, count) + 1]]

    length = ULONG(77)
    rv = shim.rv("C_GetSlotList", 1, None, ctypes.byref(length))
    sizes = {"none": 0, "too small": count - 1, "exact": count, "too large": count + 1}
    return {"NULL": [rv, length.value]} | {key: ask(room) for key, room in sizes.items()}


def test_no_place_for_the_count(two: Host) -> None:
    """C_GetSlotList without a place for the count is CKR_ARGUMENTS_BAD."""
    assert "CKR_ARGUMENTS_BAD" == two.play(list_nowhere)


def list_nowhere() -> str:
    """Ask for the slots without a place for their count."""
    shim = Shim()
    shim.must("C_Initialize", None)
    return shim.rv("C_GetSlotList", 1, None, None)


def test_ids_stay_when_modules_come(hosting: Hosting, odd: Path) -> None:
    """When a module is added between two lives the others' slots keep their ids; its own get new ones."""
    host = hosting(module("b", odd, env={"ODD_SLOTS": "2"}))
    more = module("a", odd) + module("b", odd, env={"ODD_SLOTS": "2"})

    assert [[1, 2], [3, 1, 2]] == host.play(list_in_two_lives, str(host.config), more)


def list_in_two_lives(config: str, text: str) -> list[list[int]]:
    """List the slots in one life and, after the configuration has changed, in another."""
    shim = Shim()
    shim.must("C_Initialize", None)
    first = shim.slots()
    shim.must("C_Finalize", None)
    Path(config).write_text(text)
    shim.must("C_Initialize", None)
    return [first, shim.slots()]


def test_a_configuration_read_anew_is_for_new_applications(hosting: Hosting, odd: Path) -> None:
    """After `reload` who runs keeps its helpers, slots and sessions, with its children.

    A new application has the new configuration.
    """
    host = hosting(module("changed", odd, fork="inherit"), module("removed", odd, fork="inherit"))
    anew = module("changed", odd, env={"ODD_SLOTS": "3"}) + module("added", odd, env={"ODD_SLOTS": "2"})
    kept = ["CKR_OK", [1, 2]]

    found = host.play(reload_while_running, str(host.config), anew)
    assert {"here": [kept] * 2, "in a child": [kept] * 2, "helpers": True} == found
    assert [1, 2, 3, 4, 5] == host.play(list_slots)["slots"]


def reload_while_running(config: str, anew: str) -> dict[str, Any]:
    """Use a session with each of two slots, and see them again when the broker has read something else."""
    shim = Shim()
    shim.must("C_Initialize", None)
    before, sessions = helpers(), [shim.open_session(slot) for slot in shim.slots()]
    Path(config).write_text(anew)
    subprocess.run([sys.executable, "-P", "-m", "p11host", "reload"], check=True, stdout=subprocess.DEVNULL)
    seen = {
        "here": [[shim.use(session), count_and_list(shim)] for session in sessions],
        "in a child": in_child(lambda: [[shim.use(session), count_and_list(shim)] for session in sessions]),
    }
    return seen | {"helpers": before == helpers()}


def count_and_list(shim: Shim) -> list[int]:
    """Ask how many slots there are, by which new ones would be seen, and list them."""
    shim.must("C_GetSlotList", 0, None, ctypes.byref(ULONG()))
    return shim.slots(with_token=False)


# ---- information ----


def test_one_module_speaks_for_itself(plain: Host) -> None:
    """With one module C_GetInfo is the provider's: some programs compare."""
    found = plain.play(get_info)

    assert ["odd", "odd", [7, 7]] == [
        found["manufacturerID"],
        found["libraryDescription"],
        found["libraryVersion"],
    ]


def test_many_modules_are_p11host(two: Host) -> None:
    """With several C_GetInfo tells of p11host and the newest version of Cryptoki."""
    found = two.play(get_info)

    assert "p11host" == found["manufacturerID"]
    assert [3, 2] == found["cryptokiVersion"]
    assert 0 == found["flags"]


def get_info() -> dict[str, Any]:
    """Return the CK_INFO."""
    shim = Shim()
    shim.must("C_Initialize", None)
    info = struct("CK_INFO")()
    shim.must("C_GetInfo", ctypes.byref(info))
    return {
        "cryptokiVersion": list(bytes(info.cryptokiVersion)),
        "manufacturerID": bytes(info.manufacturerID).decode().rstrip(),
        "flags": info.flags,
        "libraryDescription": bytes(info.libraryDescription).decode().rstrip(),
        "libraryVersion": list(bytes(info.libraryVersion)),
    }


# ---- events ----


@pytest.mark.parametrize("name", ["plain", "two", "soft"])
def test_no_event(request: pytest.FixtureRequest, name: str) -> None:
    """C_WaitForSlotEvent with CKF_DONT_BLOCK is CKR_NO_EVENT when there is none."""
    host: Host = request.getfixturevalue(name)

    assert "CKR_NO_EVENT" == host.play(look_for_event)


def look_for_event() -> str:
    """Look for an event."""
    shim = Shim()
    shim.must("C_Initialize", None)
    return shim.rv("C_WaitForSlotEvent", constant("CKF_DONT_BLOCK"), ctypes.byref(ULONG()), None)


@pytest.mark.parametrize("name", ["plain", "two"])
def test_waiting_ends_with_the_library(request: pytest.FixtureRequest, name: str) -> None:
    """A thread waiting for an event hinders no other; C_Finalize wakes it, and it is told why."""
    host: Host = request.getfixturevalue(name)

    assert ["CKR_OK", "CKR_OK", ["CKR_CRYPTOKI_NOT_INITIALIZED"]] == host.play(finalize_while_waiting)


def finalize_while_waiting() -> list[Any]:
    """Wait for an event in a thread; meanwhile use a session, then finalize."""
    shim = Shim()
    session = shim.begin()
    results = start_threads([partial(shim.rv, "C_WaitForSlotEvent", 0, ctypes.byref(ULONG()), None)])
    await_calls(shim, session, 1)
    return [shim.use(session), shim.rv("C_Finalize", None), results()]
