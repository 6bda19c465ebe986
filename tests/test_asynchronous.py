"""Asynchronous sessions of 3.2: there are none, and a program that asks for one is told so."""

import ctypes
from typing import Any

from application import Shim
from cryptoki import ULONG, constant, struct
from life import Host

pytest_plugins = ["life_fixtures"]

NOT_ASYNC, NO_SUCH_SESSION = "CKR_SESSION_ASYNC_NOT_SUPPORTED", "CKR_SESSION_HANDLE_INVALID"
NOT_INITIALIZED, NOT_SUPPORTED = "CKR_CRYPTOKI_NOT_INITIALIZED", "CKR_FUNCTION_NOT_SUPPORTED"


def test_no_token_has_asynchronous_sessions(plain: Host) -> None:
    """C_GetTokenInfo does not show the flag that the provider sets, and shows all its others."""
    others = constant("CKF_TOKEN_INITIALIZED") | constant("CKF_USER_PIN_INITIALIZED")

    assert others == plain.play(token_flags)


def token_flags() -> int:
    """Return the flags of the first token."""
    shim = Shim()
    shim.must("C_Initialize", None)
    info = struct("CK_TOKEN_INFO")()
    shim.must("C_GetTokenInfo", shim.slots()[0], ctypes.byref(info))
    return int(info.flags)


def test_no_session_is_asynchronous(plain: Host) -> None:
    """C_OpenSession refuses the flag and opens nothing; without it all is as always."""
    wanted = constant("CKF_SERIAL_SESSION")

    found = plain.play(open_sessions, [wanted | constant("CKF_ASYNC_SESSION"), wanted])

    assert [[NOT_ASYNC, False], ["CKR_OK", True]] == found["with a slot"]
    assert [[NOT_ASYNC, False], ["CKR_SLOT_ID_INVALID", False]] == found["without"]


def open_sessions(flags: list[int]) -> dict[str, list[Any]]:
    """Open sessions with such flags, of a slot that is there and of one that is not."""
    shim = Shim()
    shim.must("C_Initialize", None)

    def ask(slot: int, wanted: int) -> list[Any]:
        session = ULONG()
        rv = shim.rv("C_OpenSession", slot, wanted, None, None, ctypes.byref(session))
        return [rv, session.value != 0]

    slot = shim.slots()[0]
    return {
        "with a slot": [ask(slot, wanted) for wanted in flags],
        "without": [ask(slot + 9, wanted) for wanted in flags],
    }


def test_nothing_is_ever_pending(plain: Host) -> None:
    """C_AsyncComplete, C_AsyncGetID and C_AsyncJoin want a session, and do nothing with it."""
    found = plain.play(ask_for_results)

    assert [NOT_SUPPORTED] * 3 == found["session"]
    assert [NO_SUCH_SESSION] * 3 == found["no session"]
    assert [NOT_INITIALIZED] * 3 == found["no library"]


def ask_for_results() -> dict[str, list[str]]:
    """Call the three functions with a session, with none, and when the library is not initialised."""
    shim = Shim()
    session = shim.begin()

    def ask(handle: int) -> list[str]:
        result, number, room = struct("CK_ASYNC_DATA")(), ULONG(), ctypes.create_string_buffer(8)
        return [
            shim.rv("C_AsyncComplete", handle, b"C_Sign", ctypes.byref(result)),
            shim.rv("C_AsyncGetID", handle, b"C_Sign", ctypes.byref(number)),
            shim.rv("C_AsyncJoin", handle, b"C_Sign", 1, room, 8),
        ]

    found = {"session": ask(session), "no session": ask(0)}
    shim.must("C_Finalize", None)
    return found | {"no library": ask(session)}
