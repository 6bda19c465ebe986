"""32-bit and 64-bit meet: a helper of 32 bits and its provider serve an application of 64.

The mirror is built for both. What it says of a call and what it answers do not depend on the width of a
CK_ULONG, so its outcomes directly, with 64 bits, and through p11host, with 32, are the same; but for numbers
that 32 bits cannot hold.
"""

import ctypes
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from application import Shim, helpers
from brokers import module
from cryptoki import ULONG, constant, struct
from life import Act, Host, Workshop, hosted
from lone import PATIENCE, lone_helper
from mirror_case import Case
from mirror_cases import groups
from mirror_run import Way, differences, refused
from objects import ulong
from test_late_outputs import begin_twice, encrypt_and_sign
from test_messages import change_operations, exchange_messages, sign_messages, wrap_and_unwrap

from p11host import P11HostError, narrow_helper_path, shim_path
from p11host.limits import limits
from p11host.wire import RemoteError

pytest_plugins = ["life_fixtures"]

MOST, WIDE = (1 << 32) - 1, 1 << 40
#: Of the wishes of mirror_give.h: it answers with no number that needs more than 32 bits.
FLAG_NARROW = 2
KEPT: list[Any] = []
NO_HELPER = (
    "a 32-bit library, for which this p11host has no helper; install gcc-multilib and build p11host again"
)
SHOWN = 20
#: Bytes are said in hexadecimal, and so are handles that nobody has.
HEXADECIMAL = re.compile(r" (bytes|number) [0-9a-f.]+.*")
ODD = re.compile(r"odd \w+ [1-9]\d* bytes")
REFUSALS = (
    *("CKR_MECHANISM_PARAM_INVALID", "CKR_ATTRIBUTE_VALUE_INVALID", "CKR_ARGUMENTS_BAD"),
    *("CKR_ATTRIBUTE_TYPE_INVALID", "CKR_MECHANISM_INVALID"),
)


@pytest.fixture(scope="module")
def narrow(workshop: Workshop) -> Path:
    """Return the mirror with 32 bits."""
    try:
        narrow_helper_path()
    except P11HostError as error:
        pytest.skip(str(error))
    return workshop.provider("mirror", "-m32")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, narrow: Path) -> Iterator[Host]:
    """Return a broker with the mirror of 32 bits."""
    with hosted(tmp_path_factory.mktemp("narrow"), module("narrow", narrow)) as found:
        yield found


def fits(said: str) -> bool:
    """Tell whether 32 bits can hold every number the mirror was given, and each is one."""
    numbers = re.findall(r"\d+", HEXADECIMAL.sub("", said))
    return not ODD.search(said) and all(int(number) <= MOST for number in numbers)


def run_all(mirror: str) -> dict[str, Any]:
    """Make all cases directly with 64 bits and through p11host with 32; return in what they differ."""
    direct, shim = Way(Path(mirror)), Way(shim_path())
    ways: Counter[str] = Counter()
    wrong = []
    for group in groups():
        if any(case.otp for case in group):
            continue  # a struct in a buffer has another size with another width: only its bound is promised
        for case in group:
            case.wish = dataclasses.replace(case.wish, flags=case.wish.flags | FLAG_NARROW)
            way, found = compared(case, direct, shim)
            ways[way] += 1
            wrong += [f"{case.function} {case.subject} {dict(case.picks)}: {each}" for each in found]
    return {"ways": ways, "wrong": wrong[:SHOWN], "wrongs": len(wrong)}


def compared(case: Case, direct: Way, shim: Way) -> tuple[str, list[str]]:
    """Make a case both ways; return what came of it, and in what that is wrong."""
    if case.refusal:
        return "refused by both", list(refused_somehow(case, shim))
    outcome = direct.outcome(case)
    if fits(outcome.said):
        return "carried", list(differences(case, outcome, shim.outcome(case)))
    if case.function == "C_OpenSession" and outcome.rv == 0 and case.words[-1]:
        shim.open_session()
    case.refuse(REFUSALS[0], f"given {outcome.said}")
    return "refused", list(refused_somehow(case, shim))


def refused_somehow(case: Case, shim: Way) -> Iterator[str]:
    """Say in what the shim does not refuse a call: a call may have more than one fault."""
    found = list(refused(case, shim))
    if not found:
        return
    for name in REFUSALS:
        case.refusal = name
        if not list(refused(case, shim)):
            return
    yield from found


@pytest.fixture(scope="module")
def run(host: Host, mirror: Path) -> Any:
    """Run all cases once."""
    return host.play(run_all, str(mirror))


def test_same_outcome(run: Any) -> None:
    """Every call has the outcome it has with 64 bits, or is refused unseen if 32 bits cannot hold it."""
    assert [] == run["wrong"], (run["wrongs"], run["ways"])
    assert run["ways"]["carried"] > 10 * run["ways"]["refused"] > 0


# ---- what does not fit, by where it stands (section 4.6 of the protocol) ----


def attribute(name: str | int, value: bytes | int) -> Any:
    """Return a CK_ATTRIBUTE with these bytes, or with none and that length."""
    kind = constant(name) if isinstance(name, str) else name
    if isinstance(value, int):
        return struct("CK_ATTRIBUTE")(kind, None, value)
    return struct("CK_ATTRIBUTE")(kind, ctypes.addressof(keep(value)), len(value))


def keep(value: bytes) -> Any:
    """Return bytes in memory that stays."""
    KEPT.append(ctypes.create_string_buffer(value, max(1, len(value))))
    return KEPT[-1]


def mechanism(name: str | int, parameter: bytes | int) -> Any:
    """Return a pointer to a CK_MECHANISM with these bytes, or with none and that length."""
    given = attribute(name, parameter)
    return ctypes.byref(struct("CK_MECHANISM")(given.type, given.pValue, given.ulValueLen))


def give_too_wide() -> dict[str, str]:
    """Give numbers that 32 bits cannot hold in every place; return the names of the CK_RVs."""
    shim = Shim()
    session = shim.begin()
    slot, cell, wide = shim.slots()[0], ULONG(), ulong(WIDE)
    pss = b"".join(map(ulong, (constant("CKM_SHA256"), constant("CKG_MGF1_SHA256"), WIDE)))
    general = mechanism("CKM_AES_MAC_GENERAL", wide)

    def create(name: str | int, value: bytes | int) -> str:
        given = attribute(name, value)
        return shim.rv("C_CreateObject", session, ctypes.byref(given), 1, ctypes.byref(cell))

    inner = attribute("CKA_CLASS", wide)
    return {
        "argument": shim.rv("C_GetMechanismInfo", slot, WIDE, ctypes.byref(struct("CK_MECHANISM_INFO")())),
        "length": shim.rv("C_DigestUpdate", session, None, WIDE),
        "asked": shim.rv("C_GetAttributeValue", session, 1, ctypes.byref(attribute(WIDE, 0)), 1),
        "type": create(WIDE, b""),
        "value": create("CKA_CLASS", wide),
        "values": create("CKA_ALLOWED_MECHANISMS", ulong(1) + wide),
        "within": create("CKA_WRAP_TEMPLATE", bytes(inner)),
        "no value": create("CKA_LABEL", WIDE),
        "short": create("CKA_CLASS", bytes(4)),
        "mechanism": shim.rv("C_DigestInit", session, mechanism(WIDE, 0)),
        "parameter": shim.rv("C_SignInit", session, general, 1),
        "short parameter": shim.rv("C_SignInit", session, mechanism("CKM_AES_MAC_GENERAL", bytes(4)), 1),
        "no parameter": shim.rv("C_DigestInit", session, mechanism("CKM_SHA256", WIDE)),
        "field": shim.rv("C_SignInit", session, mechanism("CKM_RSA_PKCS_PSS", pss), 1),
        "most": create("CKA_CLASS", ulong(MOST)),
        "empty": create("CKA_CLASS", b""),
    }


def test_too_wide(host: Host) -> None:
    """A number that 32 bits cannot hold is refused with the CK_RV of its place."""
    arguments = dict.fromkeys(("argument", "length", "asked"), "CKR_ARGUMENTS_BAD")
    values = dict.fromkeys(("value", "values", "within", "no value", "short"), "CKR_ATTRIBUTE_VALUE_INVALID")
    parameters = ("parameter", "short parameter", "no parameter", "field")

    assert {
        **arguments,
        "type": "CKR_ATTRIBUTE_TYPE_INVALID",
        **values,
        "mechanism": "CKR_MECHANISM_INVALID",
        **dict.fromkeys(parameters, "CKR_MECHANISM_PARAM_INVALID"),
        **dict.fromkeys(("most", "empty"), "CKR_OK"),
    } == host.play(give_too_wide)


def ask_with_room() -> list[int]:
    """Ask for bytes with more room than 32 bits can say; return the lengths that came back."""
    shim = Shim()
    session, room = shim.begin(), keep(bytes(64))
    lengths = []
    for buffer, length in ((None, WIDE), (room, WIDE), (room, 64)):
        cell = ULONG(length)
        shim.must("C_GetOperationState", session, buffer, ctypes.byref(cell))
        lengths.append(cell.value)
    asked = attribute("CKA_CLASS", WIDE)
    shim.call("C_GetAttributeValue", session, 1, ctypes.byref(asked), 1)
    return [*lengths, asked.ulValueLen]


def test_room(host: Host) -> None:
    """A buffer may be longer than 32 bits can say: only its room is, and the provider learns of less."""
    *lengths, asked = host.play(ask_with_room)

    assert [20, 20, 20] == lengths
    assert asked in (8, (1 << 64) - 1)


# ---- what needs more than one call ----


@pytest.mark.parametrize(
    ("act", "words"),
    [
        *((exchange_messages, (name,)) for name in ("CKM_AES_GCM", "CKM_AES_CCM", "CKM_CHACHA20_POLY1305")),
        *((act, ()) for act in (sign_messages, change_operations, wrap_and_unwrap)),
        *((act, ()) for act in (encrypt_and_sign, begin_twice)),
    ],
)
def test_operations(
    tmp_path: Path, workshop: Workshop, narrow: Path, act: Act, words: tuple[str, ...]
) -> None:
    """Messages and outputs that come late are as with 64 bits."""
    del narrow  # without its helper nothing of this can be
    with hosted(tmp_path, module("narrow", workshop.provider("messages", "-m32"))) as found:
        direct = found.play(act, str(workshop.provider("messages")), *words)

        assert direct == found.play(act, "", *words)


def sign_with_struct() -> dict[str, Any]:
    """Sign with a one-time password: ask for the length, then sign with too little room, then with enough."""
    shim = Shim()
    session, lengths = shim.begin(), []
    shim.must("C_SignInit", session, mechanism("CKM_HOTP", 0), 1)
    length, room = ULONG(), keep(bytes(1024))
    shim.must("C_Sign", session, b"", 0, None, ctypes.byref(length))
    lengths.append(length.value)
    short = ULONG(length.value - 1)
    rv = shim.rv("C_Sign", session, b"", 0, room, ctypes.byref(short))
    shim.must("C_Sign", session, b"", 0, room, ctypes.byref(length))
    lengths += [short.value, length.value]
    return {"rv": rv, "lengths": lengths, "params": one_time_password(room, length.value)}


def one_time_password(room: Any, size: int) -> list[Any]:
    """Return the values of a signature that is a CK_OTP_SIGNATURE_INFO, all of which lie in the buffer."""
    start = ctypes.addressof(room)
    info = struct("CK_OTP_SIGNATURE_INFO").from_buffer(room)
    params = (struct("CK_OTP_PARAM") * info.ulCount).from_address(info.pParams)
    found = []
    for each in params:
        inside = each.pValue is None or start < each.pValue <= each.pValue + each.ulValueLen <= start + size
        value = None if each.pValue is None else ctypes.string_at(each.pValue, each.ulValueLen)
        found.append([each.type, inside, value and value.hex()])
    return found


def test_signature_with_pointers(host: Host) -> None:
    """A signature that is a struct is laid out for 64 bits; the length it is asked for suffices for it."""
    found = host.play(sign_with_struct)
    value, flags, pin = found["params"]
    asked, short, _ = found["lengths"]

    assert ("CKR_BUFFER_TOO_SMALL", asked) == (found["rv"], short)
    assert [constant(f"CK_OTP_{name}") for name in ("VALUE", "FLAGS", "PIN")] == [value[0], flags[0], pin[0]]
    assert (True, True, True, None) == (value[1], flags[1], pin[1], pin[2])
    assert (20, 8) == (len(bytes.fromhex(value[2])), len(bytes.fromhex(flags[2])))
    number = int.from_bytes(bytes.fromhex(flags[2]), "little")
    assert number < MOST or number == (1 << 64) - 1


# ---- 32 bits of addresses ----


def test_channels(narrow: Path) -> None:
    """A helper has so many channels as the protocol says, each with room for the longest call."""
    with lone_helper(narrow, program=narrow_helper_path()) as lone, ExitStack() as stack:
        channels = [stack.enter_context(lone.open()) for _ in range(limits().narrow_channels)]
        with pytest.raises(RemoteError, match="too many channels"):
            lone.open()
        answers = [
            channel.call("C_GetOperationState", [1, [True, limits().bytes]], PATIENCE) for channel in channels
        ]

    assert {20} == {length for _, [length, _] in answers}


def digest_much() -> list[str]:
    """Digest as much as the helper has addresses for, a byte more, and little."""
    shim = Shim()
    session, data = shim.begin(), keep(bytes(limits().narrow_bytes + 1))
    return [shim.rv("C_DigestUpdate", session, data, length) for length in (len(data) - 1, len(data), 1)]


def test_long_call(host: Host) -> None:
    """What a helper has no addresses for is refused before it is sent; the next call is as ever."""
    assert ["CKR_OK", "CKR_HOST_MEMORY", "CKR_OK"] == host.play(digest_much)


# ---- the command line ----


def p11host(*words: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-P", "-m", "p11host", *map(str, words)]
    environ = os.environ | dict(env or {})
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_command_line(tmp_path: Path, workshop: Workshop, narrow: Path) -> None:
    """A provider of 32 bits is added like any other, and listed as what it is."""
    del narrow  # without its helper nothing of this can be
    config, odd = tmp_path / "p11host.toml", workshop.provider("odd", "-m32")
    added = p11host("add", "--config", config, "--name", "odd", odd)
    shown = p11host("list", "--config", config)
    listed = json.loads(p11host("list", "--json", "--config", config).stdout)

    assert (0, 0) == (added.returncode, shown.returncode), added.stderr + shown.stderr
    assert ["module odd  odd 7.7  32-bit", f"  {odd}"] == shown.stdout.splitlines()[:2]
    assert [32] == [module["library"]["bits"] for module in listed["modules"]]


def test_without_the_helper(tmp_path: Path, narrow: Path) -> None:
    """Where there is no helper for it, adding and listing say in one line what to do."""
    config = tmp_path / "p11host.toml"
    config.write_text(module("narrow", narrow))
    without = {"P11HOST_HELPER32": str(tmp_path / "none")}
    added = p11host("add", "--config", config, "--name", "other", narrow, env=without)
    shown = p11host("list", "--config", config, env=without)

    assert (1, 1) == (added.returncode, shown.returncode)
    assert f"p11host: {narrow}: {NO_HELPER}\n" == added.stderr
    assert NO_HELPER in " ".join(shown.stdout.split())


def helper_programs() -> list[str]:
    """Return the names of our helpers' programs."""
    Shim().begin()
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in helpers().values()]


def test_helper_by_provider(tmp_path: Path, mirror: Path, narrow: Path) -> None:
    """The broker gives each module the helper that can load its provider."""
    with hosted(tmp_path, module("wide", mirror), module("narrow", narrow)) as both:
        programs = both.play(helper_programs)

    assert ["p11host-helper", "p11host-helper3"] == sorted(programs)  # the kernel keeps 15 characters
