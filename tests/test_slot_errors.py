"""A slot that its provider cannot describe hides no other: in the shim, in python-pkcs11, in the commands."""

import ctypes
import json
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pkcs11
import pytest
from application import Shim, in_child
from brokers import module
from cryptoki import struct
from life import Host, Hosting
from rack import Racks

import p11host
from p11host.cards.slots import Slots
from p11host.cards.trouble import explain_slots
from p11host.inventory import Module, Slot, owners
from p11host.probe import Probe
from p11host.slot_errors import VARIABLE, module_of, slot_error
from p11host.throwaway import Token
from p11host.wire import RemoteError

pytest_plugins = ["life_fixtures"]

#: A token; a slot that fails as a whole; one whose token fails; one with an error that has no name; one as
#: OpenSC has it for a moment of a card in exclusive use.
SLOTS = (
    *("7 good 1 first", "8 !! 0x30 second", "9 ! 3 third"),
    *("10 !! 0x80001234 fourth", "11 !- 5 fifth"),
)
ALONE = {"P11HOST_MODULE": "ill"}
ERROR, NONE, OK = "CKR_DEVICE_ERROR", "CKR_TOKEN_NOT_PRESENT", "CKR_OK"
COMMAND = Path(sys.executable).with_name("p11host")


@pytest.fixture
def host(hosting: Hosting, racks: Racks, token: Token) -> Host:
    """Return a broker with a module one of whose slots fails, and SoftHSM."""
    ill = racks.make("ill", *SLOTS).table()
    return hosting(ill, module("soft", token.provider, env=dict(token.env)))


# ---- the shim ----


def test_among_several_modules(host: Host) -> None:
    """Such a slot is there with its error for a description, and no token; a token's own error is told."""
    first, second, third, fourth, fifth, *others = host.play(look)

    assert [OK, "first", "rack", True, OK] == first
    assert [OK, f"ill: {ERROR}", "p11host", False, NONE] == second
    assert [OK, "third", "rack", True, ERROR] == third
    assert [OK, "ill: CK_RV 0x80001234", "p11host", False, NONE] == fourth
    assert [OK, "fifth", "rack", False, NONE] == fifth
    assert {OK} == {each[0] for each in others}


def test_alone(host: Host) -> None:
    """A module alone speaks for itself, unless the program's environment wants to see all slots."""
    exact = host.play(look, env=ALONE)
    wanted, in_a_child = host.play(look_twice, env=ALONE | {VARIABLE: "1"})

    assert wanted == in_a_child
    assert [ERROR, ERROR, ERROR] == [exact[1][0], exact[1][-1], exact[4][-1]]
    assert [OK, f"ill: {ERROR}", "p11host", False, NONE] == wanted[1]
    assert [exact[0], exact[2]] == [wanted[0], wanted[2]]


def test_slot_that_went(host: Host, racks: Racks) -> None:
    """A slot that is no more is none, whatever there is beside it."""
    assert "CKR_SLOT_ID_INVALID" == host.play(look_at_one_that_goes, str(racks.directory / "ill.rack"))


def look() -> list[list[Any]]:
    """Look at every slot: its description, who made it, whether it has a token, and that."""
    shim = Shim()
    shim.must("C_Initialize", None)
    return look_again(shim)


def look_twice() -> list[list[list[Any]]]:
    """Look at every slot, and in a child whose environment is another."""
    found = look()
    del os.environ[VARIABLE]
    return [found, in_child(partial(look_again, Shim()))]


def look_again(shim: Shim) -> list[list[Any]]:
    """Look at every slot, without C_Initialize."""
    return [describe(shim, slot) for slot in shim.slots(with_token=False)]


def describe(shim: Shim, slot: int) -> list[Any]:
    """Look at one."""
    info, token = struct("CK_SLOT_INFO")(), struct("CK_TOKEN_INFO")()
    rv = shim.rv("C_GetSlotInfo", slot, ctypes.byref(info))
    texts = [bytes(field).decode().rstrip() for field in (info.slotDescription, info.manufacturerID)]
    return [rv, *texts, bool(info.flags & 1), shim.rv("C_GetTokenInfo", slot, ctypes.byref(token))]


def look_at_one_that_goes(path: str) -> str:
    """List the slots, have there be but one, and look at the second."""
    shim = Shim()
    shim.must("C_Initialize", None)
    slots = shim.slots(with_token=False)
    Path(path).write_text(SLOTS[0])
    return shim.rv("C_GetSlotInfo", slots[1], ctypes.byref(struct("CK_SLOT_INFO")()))


# ---- python-pkcs11 ----


def test_python(host: Host, token: Token) -> None:
    """All slots are there in Python, by any way to the shim; with p11host.lib() of one module alone too."""
    Path(host.config or "").with_name("ill.rack").write_text(SLOTS[1])
    merged = host.play(find_token, str(p11host.shim_path()), token.label)
    alone = host.play(list_slots, env=ALONE)

    assert token.label == merged
    assert [f"ill: {ERROR}"] == alone


def find_token(shim: str, label: str) -> str:
    """Find a token as any program that uses python-pkcs11 does."""
    return pkcs11.lib(shim).get_token(token_label=label).label


def list_slots() -> list[str]:
    """Return the descriptions of all slots."""
    return [slot.slot_description for slot in p11host.lib().get_slots()]


# ---- the commands ----


def test_list(host: Host, token: Token) -> None:
    """`list` shows all other slots, and this one with its error in a line, also of a module alone."""
    said = json.loads(host.run(COMMAND, "list", "--json"))
    alone = host.run(COMMAND, "list", env=ALONE)
    ill, soft = said["modules"]
    slots = ill["slots"]

    assert [None, None] == [ill["error"], soft["error"]]
    assert token.label in [slot["token"]["label"] for slot in soft["slots"] if slot["token"]]
    assert ["first", "", "third", "", "fifth"] == [slot["description"] for slot in slots]
    assert (None, None) == (slots[0]["error"], slots[1]["token"])
    assert slots[1]["error"].startswith(f"{ERROR}: ")
    assert slots[2]["error"].startswith(f"{ERROR}: ")
    assert slots[3]["error"] == "CK_RV 0x80001234"
    assert f"\n  slot 2  error: {ERROR}: " in alone
    assert "\n    token 'good'" in alone


def test_by_uri(host: Host) -> None:
    """A command finds the token of another slot; where it finds none it says which slot has failed."""
    found = host.run(COMMAND, "list", "--uri", "pkcs11:token=good?module-name=ill", env=ALONE)
    missed = host.run(COMMAND, "show", "pkcs11:token=none", env=ALONE, status=4)
    listed = host.run(COMMAND, "list", "pkcs11:token=none", env=ALONE, status=4)

    assert found.startswith("pkcs11:token=good;")
    for said in (missed, listed):
        assert f"slot 2: {ERROR}: " in said


def test_events(host: Host) -> None:
    """Whoever waits for events hears of the slot by its module and the error."""
    slots = host.play(see_slots)

    assert [None, ERROR, ERROR, "CK_RV 0x80001234"] == [slot["error"] for slot in slots[:4]]
    assert [None, "ill", None, "ill"] == [slot["module"] for slot in slots[:4]]


def see_slots() -> list[dict[str, Any]]:
    """Return all slots as `p11host events` sees them."""
    with Slots(p11host.shim_path()) as slots:
        return [asdict(slots.slot(number)) for number in slots.numbers()]


@pytest.mark.parametrize("error", [TimeoutError(), RemoteError("unknown", "no method readers")])
def test_nobody_says_why(error: Exception) -> None:
    """Where a broker cannot tell of readers a slot that fails is shown as it is, and the others."""
    channel = MagicMock()
    channel.call.side_effect = error
    modules = [Module("ill", "", None, None, (Slot(1, "", "", None, ERROR), Slot(2, "one", "", None, None)))]

    assert modules == explain_slots(modules, channel)
    channel.call.assert_called_once()


# ---- whose it is ----


def test_words() -> None:
    """The shim's words are understood, and only the shim's."""
    assert ERROR == slot_error("p11host", f"a: b: {ERROR}")
    assert "CK_RV 0x80000001" == slot_error("p11host", "a: CK_RV 0x80000001")
    assert "does not answer" == slot_error("p11host", "a does not answer")
    assert None is slot_error("rack", f"a: {ERROR}")
    assert None is slot_error("p11host", "some reader")
    assert ("a: b", None) == (module_of(f"a: b: {ERROR}"), module_of("some reader"))


def test_owners() -> None:
    """A slot without a description is its module's, whether it failed when the module was probed or since."""
    probes = (Probe("a", None, None, ("x", None)), Probe("b", None, None, ("y", "z")))

    assert ["a", "a", "b", "b"] == list(owners(probes, ["x", f"a: {ERROR}", "y", "z"]))
    assert ["a", "a", "b", "b"] == list(owners(probes, ["x", "now described", "y", f"b: {ERROR}"]))
    assert ["a", "b", "b"] == list(owners(probes, [f"a: {ERROR}", "y", "z"]))
    assert [None] == list(owners(probes[1:], ["c: CKR_OK"]))
