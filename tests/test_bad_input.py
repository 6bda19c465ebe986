"""What cannot be carried or believed: the documented CK_RV, and the reason in the broker's log."""

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from application import Shim
from brokers import Broker, Event, Starter, module
from cryptoki import ULONG, constant, struct
from life import Host, Workshop

from p11host import helper_path, refusals
from p11host.limits import limits

pytest_plugins = ["life_fixtures"]

VENDOR = 0x8000_0001
LIE = "the provider says that it wrote more than it had room for"
#: What the buffers of these tests hold until something is written.
BLANK = 0xC3


@dataclass(frozen=True)
class Logged:
    """An application's host whose broker's log can be read."""

    host: Host
    broker: Broker

    def reason(self, event: str, **fields: object) -> Event:
        """Return the event of that name, without what is said of every one of its kind."""
        found = dict(self.broker.wait_event(event, **fields))
        assert found.pop("module") == "one"
        return {key: value for key, value in found.items() if key not in ("event", "time", "pid")}


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    """Return what starts brokers whose log can be read."""
    starter = Starter(tmp_path, helper_path())
    yield starter
    starter.end_all()


def logged(starter: Starter, provider: Path) -> Logged:
    """Start a broker with one module."""
    broker = starter.start(module("one", provider))
    env = {"P11HOST_SOCKET": str(broker.socket), "P11HOST_NO_START": "1"}
    return Logged(Host(env), broker)


# ---- what the shim refuses ----


def test_parameter_that_does_not_fit(starter: Starter, odd: Path) -> None:
    """A parameter whose length does not fit its struct is CKR_MECHANISM_PARAM_INVALID; the log says why."""
    found = logged(starter, odd)

    assert "CKR_MECHANISM_PARAM_INVALID" == found.host.play(init_encryption, constant("CKM_AES_GCM"), 5)
    assert {
        "level": "warning",
        "function": "C_EncryptInit",
        "mechanism": "CKM_AES_GCM",
        "length": 5,
        "rv": "CKR_MECHANISM_PARAM_INVALID",
        "count": 1,
        "reason": "the parameter has not the length of a struct it may be here",
    } == found.reason("call.refused")


def test_unknown_mechanism_with_a_parameter(starter: Starter, odd: Path) -> None:
    """A vendor's mechanism that no table knows is refused with a parameter; the log has its number."""
    found = logged(starter, odd)

    assert "CKR_MECHANISM_PARAM_INVALID" == found.host.play(init_encryption, VENDOR, 16)
    assert {
        "level": "warning",
        "function": "C_EncryptInit",
        "mechanism": hex(VENDOR),
        "length": 16,
        "rv": "CKR_MECHANISM_PARAM_INVALID",
        "count": 1,
        "reason": "no table knows the mechanism",
    } == found.reason("call.refused")


def init_encryption(mechanism: int, length: int) -> str:
    """Begin to encrypt with a parameter of so many bytes."""
    shim = Shim()
    session, parameter = shim.begin(), ctypes.create_string_buffer(length)
    given = struct("CK_MECHANISM")(mechanism, ctypes.addressof(parameter), length)
    return shim.rv("C_EncryptInit", session, ctypes.byref(given), 1)


def test_template_of_2_32_rows(starter: Starter, odd: Path) -> None:
    """A template with 2^32 rows is CKR_ARGUMENTS_BAD before the first is read; the log says why."""
    found = logged(starter, odd)

    assert "CKR_ARGUMENTS_BAD" == found.host.play(create_from_many)
    assert {
        "level": "warning",
        "function": "C_CreateObject",
        "rv": "CKR_ARGUMENTS_BAD",
        "count": 1,
        "reason": "a template has more attributes than limits.elements, or nests too deep",
    } == found.reason("call.refused")


def create_from_many() -> str:
    """Create an object from more attributes than there is memory for."""
    shim = Shim()
    session, row = shim.begin(), struct("CK_ATTRIBUTE")()
    return shim.rv("C_CreateObject", session, ctypes.byref(row), 1 << 32, ctypes.byref(ULONG()))


def test_flood(starter: Starter, odd: Path) -> None:
    """A program that does it all the time fills no log, and goes on to be served."""
    found = logged(starter, odd)

    assert ["CKR_OK", 1000] == found.host.play(refuse_and_use, 1000)
    counts = [found.reason("call.refused")["count"] for _ in range(16 + 5)]
    assert [*range(1, 17), 32, 64, 128, 256, 512] == counts


def refuse_and_use(times: int) -> tuple[str, int]:
    """Make calls that are refused, and one that is not; return its CK_RV and how many were."""
    shim = Shim()
    session = shim.begin()
    given = struct("CK_MECHANISM")(VENDOR, ctypes.addressof(ULONG()), 1)
    refused = [shim.rv("C_DigestInit", session, ctypes.byref(given)) for _ in range(times)]
    return shim.use(session), refused.count("CKR_MECHANISM_PARAM_INVALID")


# ---- what is not believed ----


@pytest.mark.parametrize(
    "name", ["C_GetOperationState", "C_GetMechanismList", "C_Digest", "C_FindObjects", "C_GetAttributeValue"]
)
def test_length_larger_than_the_buffer(starter: Starter, workshop: Workshop, name: str) -> None:
    """One too many, or a pointer where a length belongs, is CKR_DEVICE_ERROR; nothing is written anywhere."""
    found = logged(starter, workshop.provider("liar"))

    assert ["CKR_DEVICE_ERROR", True, True] == found.host.play(believe, name)
    assert {
        "level": "warning",
        "function": name,
        "rv": "CKR_OK",
        "count": 1,
        "reason": LIE,
    } == found.reason("call.disbelieved")


def believe(name: str) -> tuple[str, bool, bool]:
    """Ask a liar to fill a buffer: what it says, whether all is as it was, whether it is still served."""
    shim = Shim()
    session, buffer, cell = shim.begin(), (ctypes.c_ubyte * 64)(*[BLANK] * 64), ULONG(4)
    row = struct("CK_ATTRIBUTE")(constant("CKA_LABEL"), ctypes.addressof(buffer), 4)
    words: Mapping[str, list[Any]] = {
        "C_GetOperationState": [session, buffer, ctypes.byref(cell)],
        "C_GetMechanismList": [shim.slots()[0], buffer, ctypes.byref(cell)],
        "C_Digest": [session, b"data", 4, buffer, ctypes.byref(cell)],
        "C_FindObjects": [session, buffer, 4, ctypes.byref(cell)],
        "C_GetAttributeValue": [session, 1, ctypes.byref(row), 1],
    }
    said = shim.rv(name, *words[name])
    untouched = {BLANK} == set(buffer) and (cell.value, row.ulValueLen) == (4, 4)
    return said, untouched, shim.random(session) == b"\7"


def test_lie_with_a_mechanism(starter: Starter, workshop: Workshop) -> None:
    """Where the call has a mechanism the log names it."""
    found = logged(starter, workshop.provider("liar"))

    assert "CKR_DEVICE_ERROR" == found.host.play(wrap)
    assert {
        "level": "warning",
        "function": "C_WrapKey",
        "mechanism": "CKM_AES_KEY_WRAP",
        "length": 0,
        "rv": "CKR_OK",
        "count": 1,
        "reason": LIE,
    } == found.reason("call.disbelieved")


def wrap() -> str:
    """Wrap a key with a liar."""
    shim = Shim()
    session, buffer, cell = shim.begin(), (ctypes.c_ubyte * 64)(), ULONG(64)
    given = struct("CK_MECHANISM")(constant("CKM_AES_KEY_WRAP"), None, 0)
    return shim.rv("C_WrapKey", session, ctypes.byref(given), 1, 2, buffer, ctypes.byref(cell))


# ---- the line in between ----


def test_only_whole_lines_are_believed() -> None:
    """A line that is not exactly what a helper writes is a line like any other."""
    line = 'p11host: call.refused function=C_Sign mechanism=0x1 length=2 rv=0x71 count=3 reason="why"'
    whole = refusals.read(line)
    assert whole is not None
    assert "call.refused" == whole.event
    assert ["function", "mechanism", "length", "rv", "count", "reason"] == list(whole.fields)
    for end in range(len(line)):
        assert refusals.read(line[:end]) is None
    forged = line.replace("call.refused", "broker.died")
    for wrong in (f"{line} ", f" {line}", line.replace("C_", "D_"), forged):
        assert refusals.read(wrong) is None


def test_the_longest_line_is_not_cut() -> None:
    """A refusal as long as can be is shorter than a line that the broker keeps."""
    assert limits().line > 512
