"""C_Initialize and what may be called before it: arguments, function lists, interfaces."""

import ctypes
from typing import Any

import pytest
from application import Shim
from cryptoki import ULONG, struct
from life import Host

from p11host import shim_path
from p11host.tables import tables

pytest_plugins = ["life_fixtures"]

OS_LOCKING, NO_THREADS = 2, 1
BAD, CANT_LOCK, OK = "CKR_ARGUMENTS_BAD", "CKR_CANT_LOCK", "CKR_OK"
NOT_INITIALIZED, ALREADY = "CKR_CRYPTOKI_NOT_INITIALIZED", "CKR_CRYPTOKI_ALREADY_INITIALIZED"
MUTEX = ("CreateMutex", "DestroyMutex", "LockMutex", "UnlockMutex")
#: Never called: an address is enough.
SOMEWHERE = 0x1000
LISTS = [[3, 2], [3, 0], [2, 40]]


# ---- arguments ----

ALL = dict.fromkeys(MUTEX, SOMEWHERE)
CASES: dict[str, tuple[dict[str, int] | None, str]] = {
    "NULL": (None, OK),
    "nothing": ({}, OK),
    "locking by the system": ({"flags": OS_LOCKING}, OK),
    "no threads of the library": ({"flags": OS_LOCKING | NO_THREADS}, OK),
    "locking by the system or by callbacks": ({"flags": OS_LOCKING, **ALL}, OK),
    "locking by callbacks alone": ({"flags": 0, **ALL}, CANT_LOCK),
    "pReserved": ({"flags": OS_LOCKING, "pReserved": SOMEWHERE}, BAD),
    **{f"no {name}": ({"flags": OS_LOCKING, **ALL, name: 0}, BAD) for name in MUTEX},
    **{f"only {name}": ({"flags": OS_LOCKING, name: SOMEWHERE}, BAD) for name in MUTEX},
}


def test_arguments(plain: Host) -> None:
    """C_Initialize takes the arguments of section 5.4; what it refuses leaves the library as it was."""
    found = plain.play(initialize_with_all)

    assert {name: expected for name, (_, expected) in CASES.items()} == found


def initialize_with_all() -> dict[str, str]:
    """Call C_Initialize with all arguments, and C_Finalize where it succeeds."""
    shim = Shim()
    found = {}
    for name, (fields, _) in CASES.items():
        args = None if fields is None else ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(**fields))
        found[name] = shim.rv("C_Initialize", args)
        finalized = shim.rv("C_Finalize", None)
        assert finalized == (OK if found[name] == OK else NOT_INITIALIZED), name
    return found


def test_every_combination(plain: Host) -> None:
    """Each set of callbacks with each set of flags and pReserved is judged as section 5.4 says of it."""
    assert [judgement(*case) for case in combinations()] == plain.play(initialize_with_combinations)


def combinations() -> list[tuple[int, int, int]]:
    """Return all: which callbacks, as bits; flags; is there a pReserved."""
    return [(which, flags, reserved) for which in range(16) for flags in range(4) for reserved in range(2)]


def judgement(which: int, flags: int, reserved: int) -> str:
    """Return what the standard has for a library that locks with what the system has, and has no threads."""
    if reserved or which not in (0, 15):
        return BAD
    return CANT_LOCK if which == 15 and not flags & OS_LOCKING else OK


def initialize_with_combinations() -> list[str]:
    """Call C_Initialize with all combinations, and C_Finalize where it succeeds."""
    shim = Shim()
    found = []
    for which, flags, reserved in combinations():
        callbacks = {name: SOMEWHERE for bit, name in enumerate(MUTEX) if which >> bit & 1}
        fields = {"flags": flags, "pReserved": SOMEWHERE * reserved, **callbacks}
        found.append(shim.rv("C_Initialize", ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(**fields))))
        if found[-1] == OK:
            shim.must("C_Finalize", None)
    return found


def test_refusals_while_initialized(plain: Host) -> None:
    """Bad arguments are refused while the library is in use too, and end nothing."""
    assert [BAD, CANT_LOCK, ALREADY, ALREADY, BAD, OK] == plain.play(initialize_again)


def initialize_again() -> list[str]:
    """Call C_Initialize again in all ways, C_Finalize with an argument, and use the session of before."""
    shim = Shim()
    session = shim.begin()
    again: list[dict[str, int]] = [{"pReserved": SOMEWHERE}, ALL, {"flags": OS_LOCKING, **ALL}]
    given = [ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(**fields)) for fields in again]
    found = [shim.rv("C_Initialize", args) for args in [*given, None]]
    return [*found, shim.rv("C_Finalize", ctypes.byref(ULONG())), shim.use(session)]


def test_order_of_calls(plain: Host) -> None:
    """Every call before C_Initialize or after C_Finalize says so; so does a second C_Initialize."""
    found = plain.play(call_in_any_order)

    assert {NOT_INITIALIZED} == set(found["before"].values())
    assert {NOT_INITIALIZED} == set(found["after"].values())
    assert [OK, ALREADY, BAD, OK, NOT_INITIALIZED, OK] == found["between"]


def call_in_any_order() -> dict[str, Any]:
    """Call every function before and after; in between begin twice, end wrongly and twice, begin anew."""
    shim = Shim()
    before = call_all(shim)
    between = [shim.rv("C_Initialize", None), shim.rv("C_Initialize", None)]
    between += [shim.rv("C_Finalize", ctypes.byref(ULONG())), shim.rv("C_Finalize", None)]
    after = call_all(shim)
    between += [shim.rv("C_Finalize", None), shim.rv("C_Initialize", None)]
    return {"before": before, "between": between, "after": after}


def call_all(shim: Shim) -> dict[str, str]:
    """Call every function that needs the library, with nothing."""
    functions = tables().functions.values()
    free = {"C_Initialize", "C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface"}
    return {
        each.name: shim.rv(each.name, *[0] * len(each.words)) for each in functions if each.name not in free
    }


# ---- function lists ----


def test_functions_of_every_version(plain: Host) -> None:
    """Functions that a provider of 2.40 lacks answer CKR_FUNCTION_NOT_SUPPORTED, all of them."""
    found = plain.play(call_what_is_new)

    assert {"CKR_FUNCTION_NOT_SUPPORTED"} == set(found.values())
    assert 34 == len(found), "36 came with 3.0 and 3.2; C_GetInterface and C_GetInterfaceList are ours"


def call_what_is_new() -> dict[str, str]:
    """Call the functions of 3.0 and later with a session and nothing else."""
    shim = Shim()
    session = shim.begin()
    functions = [
        each for each in tables().functions.values() if each.since > "2.40" and each.name[:8] != "C_GetInt"
    ]
    found = {}
    for each in functions:
        room = [session if ctype == "CK_SESSION_HANDLE" else 0 for ctype, _ in each.words]
        found[each.name] = shim.rv(each.name, *room)
    return found


def test_get_function_list(plain: Host) -> None:
    """C_GetFunctionList gives a list of version 2.40 without a NULL in it, and refuses a NULL."""
    assert [BAD, [2, 40], 0] == plain.play(get_function_list)


def get_function_list() -> list[Any]:
    """Get the function list."""
    shim = Shim()
    address = ctypes.c_void_p()
    refused = shim.rv("C_GetFunctionList", None)
    shim.must("C_GetFunctionList", ctypes.byref(address))
    words = ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))
    version = ctypes.cast(address, ctypes.POINTER(struct("CK_VERSION"))).contents
    return [refused, list(bytes(version)), [words[1 + i] for i in range(68)].count(None)]


# ---- interfaces ----


def test_interface_list(plain: Host) -> None:
    """C_GetInterfaceList counts, refuses what is too small, and lists 3.2, 3.0 and 2.40, none fork-safe."""
    found = plain.play(list_interfaces)

    too_small = ["CKR_BUFFER_TOO_SMALL", 3]
    assert [BAD, [OK, 3], too_small, too_small, [OK, 3], [OK, 3]] == found["calls"]
    assert found["untouched"], "beyond what it was given, and before that when it was too small"
    assert [["PKCS 11", version, 0] for version in LISTS] == found["interfaces"]


def list_interfaces() -> dict[str, Any]:
    """Ask for the interfaces with buffers of many sizes."""
    shim = Shim()
    room = (struct("CK_INTERFACE") * 4)()

    def ask(buffer: Any, size: int) -> list[Any]:
        count = ULONG(size)
        return [shim.rv("C_GetInterfaceList", buffer, ctypes.byref(count)), count.value]

    calls = [shim.rv("C_GetInterfaceList", room, None), ask(None, 0), ask(room, 0), ask(room, 2)]
    untouched = not any(bytes(room))
    calls += [ask(room, 3), ask(room, 4)]
    return {
        "calls": calls,
        "interfaces": [describe(each) for each in room[:3]],
        "untouched": untouched and not any(bytes(room[3])),
    }


def describe(interface: Any) -> list[Any]:
    """Return name, version and flags of a CK_INTERFACE."""
    version = ctypes.cast(interface.pFunctionList, ctypes.POINTER(struct("CK_VERSION"))).contents
    return [ctypes.string_at(interface.pInterfaceName).decode(), list(bytes(version)), interface.flags]


FORK_SAFE = 1
ASKED: list[tuple[str | None, list[int] | None, int, list[int] | None]] = [
    (None, None, 0, [3, 2]),
    ("PKCS 11", None, 0, [3, 2]),
    ("PKCS 11", [3, 2], 0, [3, 2]),
    ("PKCS 11", [3, 0], 0, [3, 0]),
    (None, [2, 40], 0, [2, 40]),
    ("PKCS 11", [3, 1], 0, None),
    ("PKCS 11", [4, 0], 0, None),
    ("PKCS 12", None, 0, None),
    ("Vendor NSS Module Interface", None, 0, None),
    ("", None, 0, None),
    (None, None, FORK_SAFE, None),
    ("PKCS 11", [3, 2], FORK_SAFE, None),
    (None, None, 1 << 20, None),
]


def test_interface(plain: Host) -> None:
    """C_GetInterface gives the interface that is asked for, by default the newest; none is fork-safe."""
    expected = [[BAD, None] if version is None else [OK, version] for *_, version in ASKED]

    assert [*expected, [BAD, None]] == plain.play(get_interfaces)


def get_interfaces() -> list[Any]:
    """Ask for interfaces, and for one without a place for it."""
    shim = Shim()
    found: list[Any] = []
    for name, version, flags, _ in ASKED:
        place = ctypes.POINTER(struct("CK_INTERFACE"))()
        wanted = None if version is None else ctypes.byref(struct("CK_VERSION")(*version))
        text = None if name is None else ctypes.create_string_buffer(name.encode())
        rv = shim.rv("C_GetInterface", text, wanted, ctypes.byref(place), flags)
        found.append([rv, describe(place.contents)[1] if rv == OK else None])
    return [*found, [shim.rv("C_GetInterface", None, None, None, 0), None]]


def test_every_list_has_the_same_functions(plain: Host) -> None:
    """Whichever way a program gets them, by name or from a list, the functions are the same ones."""
    found = plain.play(compare_lists)

    assert {"2.40": 68, "3.0": 92, "3.2": 104} == {name: len(same) for name, same in found.items()}
    assert all(all(same) for same in found.values()), found


SINCE = {"2.40": (2, 40), "3.0": (3, 0), "3.2": (3, 2)}


def compare_lists() -> dict[str, list[bool]]:
    """Compare the entries of each list with the functions that the library exports."""
    shim = Shim()
    library = ctypes.CDLL(str(shim_path()))
    found = {}
    for name, version in SINCE.items():
        place = ctypes.POINTER(struct("CK_INTERFACE"))()
        wanted = struct("CK_VERSION")(*version)
        shim.must("C_GetInterface", None, ctypes.byref(wanted), ctypes.byref(place), 0)
        words = ctypes.cast(place.contents.pFunctionList, ctypes.POINTER(ctypes.c_void_p))
        entries = [each for each in tables().functions.values() if each.since <= name]
        exported = [ctypes.cast(getattr(library, each.name), ctypes.c_void_p).value for each in entries]
        found[name] = [words[1 + each.index] == at for each, at in zip(entries, exported, strict=True)]
    return found


@pytest.mark.parametrize("name", ["C_GetFunctionStatus", "C_CancelFunction"])
def test_parallel_functions(plain: Host, name: str) -> None:
    """The functions of a standard long gone go to the provider like all others."""
    assert "CKR_FUNCTION_NOT_SUPPORTED" == plain.play(call_with_session, name)


def call_with_session(name: str) -> str:
    """Call a function with a session alone."""
    shim = Shim()
    return shim.rv(name, shim.begin())
