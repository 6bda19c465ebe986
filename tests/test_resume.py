"""`resume = true`: an application whose helper died goes on with the next one, as docs/resume.md says."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from application import Shim, helpers
from brokers import module
from cryptoki import ULONG
from life import Host, Hosting, has_ended, hosted
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

import p11host
from p11host.client import Door
from p11host.paths import socket_path
from p11host.throwaway import Token, make_token

pytest_plugins = ["life_fixtures"]

DATA = b"data"
NOT_SUPPORTED = "CKR_FUNCTION_NOT_SUPPORTED"
MECHANISM = Mechanism.SHA256_RSA_PKCS


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """Return a token with a key pair."""
    token = make_token(tmp_path_factory.mktemp("token"))
    with hosted(token.directory, resuming(token)) as host:
        host.play(make_keys)
    return token


@pytest.fixture
def pin_file(tmp_path: Path, token: Token) -> Path:
    """Return a file with the token's PIN."""
    path = tmp_path / "pin"
    path.write_text(token.pin)
    path.chmod(0o400)
    return path


@pytest.fixture
def host(tmp_path: Path, token: Token, pin_file: Path) -> Iterator[Host]:
    """Return a broker with the token, whose sessions resume, and its PIN."""
    keys = {"pin-source": f"file:{pin_file}"}
    with hosted(tmp_path, resuming(token, **keys)) as host:
        yield host


def resuming(token: Token, **keys: Any) -> str:
    """Return the token's module."""
    return module("soft", token.provider, env=dict(token.env), resume=True, **keys)


# ---- what applications do ----


def opened(*, rw: bool = False, user_pin: str | None = "123456") -> Any:
    """Return a session."""
    return p11host.lib().get_token(token_label="throwaway").open(rw=rw, user_pin=user_pin)


def make_keys() -> None:
    """Make the keys of the tests: one that is alone, and two that are alike."""
    session = opened(rw=True)
    session.generate_keypair(KeyType.RSA, 2048, id=b"\1", label="web", store=True)
    for _ in range(2):
        session.generate_key(KeyType.AES, 128, id=b"\2", label="twin", store=True)


def private_key(session: Any) -> Any:
    """Return the key that is alone."""
    return session.get_key(object_class=ObjectClass.PRIVATE_KEY, label="web")


def end_helper(name: str = "soft") -> None:
    """Kill our helper and wait until it is gone."""
    pid = helpers()[name]
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)


def error_of(act: Callable[[], Any]) -> str:
    """Return the name of the exception that a call raises."""
    try:
        act()
    except pkcs11.PKCS11Error as error:
        return type(error).__name__
    return ""


def test_goes_on_signing(host: Host) -> None:
    """A server that loaded its key once signs with it however often its helper died: no call fails."""
    assert [True] * 3 == host.play(sign_through_deaths)


def sign_through_deaths() -> list[bool]:
    """Tell for each death whether the same key signs after it."""
    key = private_key(opened())
    before = key.sign(DATA, mechanism=MECHANISM)
    found = []
    for _ in range(3):
        end_helper()
        found.append(before == key.sign(DATA, mechanism=MECHANISM))
    return found


def test_new_sessions_are_logged_in(host: Host) -> None:
    """A server that opens a session for each request is logged in in those it opens after its helper died."""
    assert host.play(sign_in_new_session)


def sign_in_new_session() -> bool:
    """Tell whether a key found in a new session signs like the old one."""
    before = private_key(opened()).sign(DATA, mechanism=MECHANISM)
    end_helper()
    return bool(before == private_key(opened(user_pin=None)).sign(DATA, mechanism=MECHANISM))


def test_without_a_pin(tmp_path: Path, token: Token) -> None:
    """Without a PIN sessions come back and the login does not: the call says so, and a login mends it."""
    with hosted(tmp_path, resuming(token)) as host:
        assert ["UserNotLoggedIn", ""] == host.play(sign_without_login)


def sign_without_login() -> list[str]:
    """Return the errors before and after another login."""
    session = opened()
    key = private_key(session)
    key.sign(DATA, mechanism=MECHANISM)
    end_helper()
    refused = error_of(lambda: key.sign(DATA, mechanism=MECHANISM))
    again = opened()
    return [refused, error_of(lambda: key.sign(DATA, mechanism=MECHANISM)) or again.close() or ""]


def test_objects_that_are_alike(host: Host) -> None:
    """An object that cannot be told from another is refused: nothing is done with a wrong one."""
    assert "ObjectHandleInvalid" == host.play(use_twin)


def use_twin() -> str:
    """Return what is said of one of the objects that are alike."""
    session = opened()
    twin = next(iter(session.get_objects({Attribute.LABEL: "twin"})))
    twin.encrypt(bytes(16), mechanism=Mechanism.AES_ECB)
    end_helper()
    return error_of(lambda: twin.encrypt(bytes(16), mechanism=Mechanism.AES_ECB))


def test_what_is_gone(host: Host) -> None:
    """An operation that was active, a session's object and one that was deleted say that they are gone."""
    expected = {"operation": "OperationNotInitialized", "object": True, "deleted": "ObjectHandleInvalid"}
    assert expected == host.play(use_what_is_gone)


def dying_between() -> Iterator[bytes]:
    """Yield two parts, between which our helper dies."""
    yield DATA
    end_helper()
    yield DATA


def use_what_is_gone() -> dict[str, Any]:
    """Return what is said of an operation, of a session's object and of one that was deleted."""
    session = opened(rw=True)
    key = session.generate_key(KeyType.AES, 128, store=False)
    deleted = session.generate_key(KeyType.AES, 128, id=b"\3", label="short-lived", store=True)
    for each in (key, deleted):
        each.encrypt(bytes(16), mechanism=Mechanism.AES_ECB)
    broken_off = error_of(lambda: private_key(session).sign(dying_between(), mechanism=MECHANISM))
    other = opened(rw=True, user_pin=None)
    next(iter(other.get_objects({Attribute.LABEL: "short-lived"}))).destroy()
    gone = error_of(lambda: key.encrypt(bytes(16), mechanism=Mechanism.AES_ECB))
    return {
        "operation": broken_off,
        "object": gone in ("ObjectHandleInvalid", "KeyHandleInvalid"),
        "deleted": error_of(lambda: deleted.encrypt(bytes(16), mechanism=Mechanism.AES_ECB)),
    }


def test_wrong_pin_is_tried_once(host: Host, pin_file: Path, token: Token) -> None:
    """A PIN that the token refused is not tried again, for as long as it stands in its place."""
    pin_file.unlink()
    pin_file.write_text("000000")
    pin_file.chmod(0o400)
    assert [True, False, False] == host.play(die_and_look)
    pin_file.unlink()
    pin_file.write_text(token.pin)
    pin_file.chmod(0o400)
    assert [False] == host.play(die_and_look, 1)


def die_and_look(deaths: int = 3) -> list[bool]:
    """Tell after each death whether the token has counted a wrong PIN, and log in again to take it back."""
    found = []
    for _ in range(deaths):
        session = opened()
        end_helper()
        list(session.get_objects())
        token = p11host.lib().get_token(token_label="throwaway")
        found.append(bool(token.flags & pkcs11.TokenFlag.USER_PIN_COUNT_LOW))
        session.close()
    return found


def test_no_login_no_pin(host: Host) -> None:
    """An application that has not logged in is not given the PIN, whatever it asks for."""
    assert ["UserNotLoggedIn", 0x101] == host.play(ask_for_login)


def ask_for_login() -> list[Any]:
    """Ask for a helper with the PIN, and it for a login."""
    session = opened(rw=True, user_pin=None)
    refused = error_of(lambda: session.generate_key(KeyType.AES, 128, store=True))
    with Door.of_broker(socket_path()) as door, door.open() as channel:
        offered = channel.open_module("soft", 10, resume=True)
    assert offered.door is not None
    with Door.of_helper(offered.door) as helper, helper.open() as channel:
        slot = channel.call("C_GetSlotList", [True, [True, 64]])[1][1][0]
        opened_session = channel.call("C_OpenSession", [slot, 4, True])[1]
        return [refused, channel.call("login", [opened_session])[0]]


def test_lengths_that_are_claimed(hosting: Hosting, odd: Path) -> None:
    """A length that a provider claims is not believed: an object of more than is remembered is gone."""
    host = hosting(module("odd", odd, resume=True, env={"ODD_LENGTH": str(1 << 20)}))
    assert ["CKR_OK", "CKR_OBJECT_HANDLE_INVALID"] == host.play(use_long_object)


def use_long_object() -> list[str]:
    """Use an object before and after our helper died."""
    shim = Shim()
    session = shim.begin()
    created = shim.create_object(session)
    before = shim.rv("C_GetObjectSize", session, created, ctypes.byref(ULONG()))
    end_helper("odd")
    return [before, shim.rv("C_GetObjectSize", session, created, ctypes.byref(ULONG()))]


# ---- providers that need a restart and do not die ----


def test_broken_provider(hosting: Hosting, odd: Path) -> None:
    """What is in `broken` comes to the caller, and the provider has another helper, once in a while."""
    host = hosting(module("odd", odd, resume=True, broken=["CKR_DEVICE_ERROR", NOT_SUPPORTED]))
    assert [NOT_SUPPORTED, True, NOT_SUPPORTED, False] == host.play(fail_twice)


def fail_twice() -> list[Any]:
    """Return what a call returns, whether there is another helper then, and the same again."""
    shim, found = Shim(), []
    session = shim.begin()
    for _ in range(2):
        before = helpers()["odd"]
        found += [
            shim.rv("C_SetPIN", session, b"", 0, b"", 0),
            shim.use(session) == "CKR_OK" and before != helpers()["odd"],
        ]
    return found
