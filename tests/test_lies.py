"""Providers and helpers that lie: nothing goes past its bounds, lies are logged, others are believed as ever.

What is told of every function when its provider lies is in the matrix (test_hostile.py); here is what takes
more than one call to see.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from application import Shim
from brokers import Broker, Starter, module
from cryptoki import ULONG, struct
from life import Host, Workshop

from p11host import helper_path
from p11host.limits import limits

pytest_plugins = ["life_fixtures", "broker_fixtures"]

MODULE_SLOTS = limits().module_slots
GIVES_NONE = "the provider says CKR_OK and gives a handle of 0, or none"
TOO_MUCH = "the provider says that it wrote more than it had room for"
NO_TEXT = "the provider tells what is no text"


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Starter]:
    """Return what starts brokers with real helpers."""
    starter = Starter(tmp_path, helper_path())
    yield starter
    starter.end_all()


@pytest.fixture(scope="module")
def hostile(workshop: Workshop) -> Path:
    """Return the provider that lies as its environment says."""
    return workshop.provider("hostile")


def host_of(broker: Broker) -> Host:
    """Return the environment in which a broker is found."""
    return Host({"P11HOST_SOCKET": str(broker.socket), "P11HOST_NO_START": "1"})


def lying(name: str, provider: Path, wish: str) -> str:
    """Return a module whose provider lies."""
    return module(name, provider, env={"HOSTILE": wish})


LIES = [
    ("zero lie C_OpenSession", "CKR_DEVICE_ERROR", GIVES_NONE),
    ("zero lie C_FindObjects", "CKR_DEVICE_ERROR", GIVES_NONE),
    ("silence lie C_OpenSession", "CKR_DEVICE_ERROR", GIVES_NONE),
    ("unpadded lie C_GetTokenInfo", "CKR_OK", NO_TEXT),
    ("length lie C_GetMechanismList", "CKR_DEVICE_ERROR", TOO_MUCH),
]


@pytest.mark.parametrize(("wish", "told", "reason"), LIES)
def test_told_and_logged(brokers: Starter, hostile: Path, wish: str, told: str, reason: str) -> None:
    """A lie that harms is CKR_DEVICE_ERROR, one that does not is told as it is; the log has it either way."""
    broker = brokers.start(lying("liar", hostile, wish))
    function = wish.rsplit(maxsplit=1)[-1]

    assert [told, told] == host_of(broker).play(call_twice, function)
    said = {"function": function, "module": "liar", "rv": "CKR_OK", "reason": reason}
    assert 1 == broker.wait_event("call.disbelieved", **said)["count"]
    assert 2 == broker.wait_event("call.disbelieved", **said)["count"]


def call_twice(function: str) -> list[str]:
    """Call a function of the first slot, twice."""
    shim = Shim()
    shim.must("C_Initialize", None)
    slot = shim.slots()[0]
    session = shim.open_session(slot) if function == "C_FindObjects" else 0
    count, room = ULONG(4), (ULONG * 4)()
    words: dict[str, list[Any]] = {
        "C_OpenSession": [slot, 4, None, None, ctypes.byref(ULONG())],
        "C_FindObjects": [session, room, 4, ctypes.byref(count)],
        "C_GetTokenInfo": [slot, ctypes.byref(struct("CK_TOKEN_INFO")())],
        "C_GetMechanismList": [slot, room, ctypes.byref(count)],
    }
    return [shim.rv(function, *words[function]) for _ in range(2)]


def test_a_search_without_end(brokers: Starter, hostile: Path) -> None:
    """A provider that finds the same objects for ever is not believed for long, in each search anew."""
    broker = brokers.start(lying("liar", hostile, "round lie C_FindObjects"))

    found = host_of(broker).play(find_all)

    assert ["CKR_DEVICE_ERROR"] * 2 == [rv for rv, _ in found]
    assert all(0 < count < 1000 for _, count in found)
    broker.wait_event("call.disbelieved", reason="the provider finds the same objects again and again")


def find_all() -> list[tuple[str, int]]:
    """Search for all there is, twice; tell how each search ended, and after how many objects."""
    shim = Shim()
    session = shim.begin()
    found, count = (ULONG * 4)(), ULONG(4)
    ended = []
    for _ in range(2):
        shim.must("C_FindObjectsInit", session, None, 0)
        rv, objects = "CKR_OK", 0
        while rv == "CKR_OK" and count.value:
            rv = shim.rv("C_FindObjects", session, found, 4, ctypes.byref(count))
            objects += count.value
        shim.must("C_FindObjectsFinal", session)
        ended.append((rv, objects))
    return ended


def test_text_is_told_as_it_is(brokers: Starter, hostile: Path) -> None:
    """What is no text is told byte by byte, and not a byte more."""
    broker = brokers.start(lying("liar", hostile, "unpadded lie C_GetTokenInfo"))

    assert [255] * 32 == host_of(broker).play(label)


def label() -> list[int]:
    """Return the bytes of the first token's label."""
    shim = Shim()
    shim.must("C_Initialize", None)
    info = struct("CK_TOKEN_INFO")()
    shim.must("C_GetTokenInfo", shim.slots()[0], ctypes.byref(info))
    return list(info.label)


@pytest.mark.parametrize("lie", ["uninitialized", "wild", "length", "code", "silence"])
def test_slots_of_others(brokers: Starter, hostile: Path, lie: str) -> None:
    """Whatever a provider says of its slots, those of the others are listed, and as many as there are."""
    modules = lying("liar", hostile, f"{lie} lie C_GetSlotList") + module("good", hostile)
    counted, listed = host_of(brokers.start(modules)).play(count_and_list)

    assert listed
    assert counted < MODULE_SLOTS


def count_and_list() -> tuple[int, list[int]]:
    """Ask how many slots there are, then which."""
    shim = Shim()
    shim.must("C_Initialize", None)
    count = ULONG()
    shim.must("C_GetSlotList", 1, None, ctypes.byref(count))
    return count.value, shim.slots()


def test_events_of_others(brokers: Starter, hostile: Path) -> None:
    """A provider that always has an event, of a slot that there is not, has none: nobody hears of it."""
    liar = lying("liar", hostile, "event lie C_WaitForSlotEvent")
    broker = brokers.start(liar + module("good", hostile))

    slots, events = host_of(broker).play(list_and_look, 20)

    assert 2 == len(slots)
    assert ["CKR_NO_EVENT"] * 20 == events
    broker.wait_event(
        "helper.stderr", line='p11host: events.wait.unused reason="it has events without an end"'
    )


def list_and_look(times: int) -> tuple[list[int], list[str]]:
    """List the slots, then look so many times for an event."""
    shim = Shim()
    shim.must("C_Initialize", None)
    slots = shim.slots()
    return slots, [shim.rv("C_WaitForSlotEvent", 1, ctypes.byref(ULONG()), None) for _ in range(times)]


# ---- helpers that lie ----


@pytest.mark.parametrize(("lie", "told"), [("twice", "CKR_OK"), ("nobody", "CKR_DEVICE_ERROR")])
def test_replies_nobody_wants(starter: Starter, provider: Path, lie: str, told: str) -> None:
    """A reply too many is never taken for the answer to another call, and others are understood as ever."""
    text = module("fake", provider, env={"FAKE_LIES": "C_GetSlotInfo", "FAKE_LIE": lie})
    host = host_of(starter.start(text))

    assert [told, "CKR_OK", told, "CKR_OK"] == host.play(describe)


def describe() -> list[str]:
    """Ask for the slot's description, and between for what the library says of itself."""
    shim = Shim()
    shim.must("C_Initialize", None)
    slot = shim.slots()[0]
    rvs = []
    for _ in range(2):
        rvs.append(shim.rv("C_GetSlotInfo", slot, ctypes.byref(struct("CK_SLOT_INFO")())))
        rvs.append(shim.rv("C_GetInfo", ctypes.byref(struct("CK_INFO")())))
    return rvs
