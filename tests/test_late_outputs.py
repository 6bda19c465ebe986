"""Outputs that come late: memory given to an operation's beginning, and written by a later call of it."""

import ctypes
import mmap
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from application import helpers, in_child
from brokers import PATIENCE, module
from cryptoki import constant, struct
from life import Host, Workshop, hosted
from message_calls import AAD, DATA, Caller, address, raw
from test_helper_death import kill

from p11host.client import Door
from p11host.limits import limits
from p11host.trace import Call, Calls, read

pytest_plugins = ["life_fixtures"]

OK = "CKR_OK"
GIVEN = bytes(range(1, 13))
#: What the provider writes.
OWN = bytes(range(0xC0, 0xC0 + 12))
BATON_OWN = bytes(range(0xC0, 0xC0 + 24))


@pytest.fixture(scope="module")
def provider(workshop: Workshop) -> Path:
    """Return the provider that writes late."""
    return workshop.provider("messages")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, provider: Path) -> Iterator[Host]:
    """Return a broker with it, for all tests of this file."""
    with hosted(tmp_path_factory.mktemp("late"), module("late", provider)) as found:
        yield found


def gcm(iv: Any, aad: Any = None) -> Any:
    """Return a CK_GCM_PARAMS with this IV."""
    lengths = {"ulIvLen": len(iv), "ulIvBits": 8 * len(iv), "ulAADLen": len(aad or b""), "ulTagBits": 128}
    return struct("CK_GCM_PARAMS")(pIv=address(iv), pAAD=address(aad), **lengths)


def test_late(host: Host, provider: Path) -> None:
    """A provider's own IV arrives where the caller's pointer led, in the call that wrote it, not before."""
    direct = host.play(encrypt_and_sign, str(provider))

    assert direct == host.play(encrypt_and_sign, "")
    given, own = GIVEN.hex(), OWN.hex()
    assert [given] * 3 + [own] == direct["C_Encrypt"]
    assert [given] * 2 + [own] == direct["C_SignFinal"]
    half = "bf" * 12 + "00" * 12
    assert [half, BATON_OWN.hex(), BATON_OWN.hex()] == direct["bytes"]


def encrypt_and_sign(path: str) -> dict[str, list[str]]:
    """Encrypt and sign; return what is in the IV after each step."""
    library = Caller(path)
    session = library.begin()
    iv = raw(GIVEN)
    found: dict[str, list[str]] = {}

    def note(name: str, rv: str = OK) -> None:
        assert rv in (OK, "CKR_BUFFER_TOO_SMALL"), rv
        found.setdefault(name, []).append(bytes(iv).hex())

    note("C_Encrypt", library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", gcm(iv, raw(AAD))))
    note("C_Encrypt", library.fill("C_Encrypt", session, DATA, len(DATA), room=None)[0])
    note("C_Encrypt", library.fill("C_Encrypt", session, DATA, len(DATA), room=1)[0])
    note("C_Encrypt", library.fill("C_Encrypt", session, DATA, len(DATA))[0])
    iv[:] = GIVEN
    note("C_SignFinal", library.begin_with("C_SignInit", session, "CKM_AES_GMAC", gcm(iv)))
    note("C_SignFinal", library.rv("C_SignUpdate", session, DATA, len(DATA)))
    note("C_SignFinal", library.fill("C_SignFinal", session)[0])
    iv = raw(bytes(24))
    note("bytes", library.begin_with("C_EncryptInit", session, "CKM_BATON_CBC128", iv))
    note("bytes", library.fill("C_EncryptUpdate", session, DATA, len(DATA))[0])
    note("bytes", library.fill("C_EncryptUpdate", session, DATA, len(DATA))[0])
    return found


def test_late_is_traced(host: Host) -> None:
    """Who watches is told that something was written late, by its length alone."""
    with Door.of_broker(Path(host.env["P11HOST_SOCKET"])) as door, door.open() as channel:
        channel.call("trace", [{}])  # whoever comes is watched from its first call on
        host.play(encrypt_and_sign, "")
        answer, descriptors = channel.call_with_descriptors("trace", [{}])
        sockets = [socket.socket(fileno=each) for each in descriptors]
        calls = [call for ours in sockets for call in heard(ours)]
    late = [call for call in calls if "late" in call.outputs]

    assert ["late"] == [helper["module"] for helper in answer["helpers"]]
    assert ["C_Encrypt", "C_SignFinal", "C_EncryptUpdate"] == [call.function for call in late]
    assert [{"bytes": 12}] * 2 == [call.outputs["late"][0] for call in late[:2]]


def heard(ours: socket.socket) -> list[Call]:
    """Return the calls that a helper has told until its end."""
    calls, found = Calls(), []
    with ours:
        ours.settimeout(PATIENCE)
        while data := ours.recv(limits().told):
            message = read(data)
            if message is not None and (call := calls.hear(message)):
                found.append(call)
    return found


def test_failed_beginning(host: Host, provider: Path) -> None:
    """A beginning that fails leaves the operation that goes on as it is, and its own parameter alone."""
    direct = host.play(begin_twice, str(provider))

    assert direct == host.play(begin_twice, "")
    assert ["CKR_OPERATION_ACTIVE", OK, OWN.hex(), GIVEN.hex()] == direct


def begin_twice(path: str) -> list[str]:
    """Begin an operation where one is active, remembered or not; go on with the first."""
    library = Caller(path)
    session = library.begin()
    first, second = raw(GIVEN), raw(GIVEN)
    assert library.begin_with("C_EncryptInit", session, "CKM_AES_ECB") == OK
    assert library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", gcm(second)) != OK
    assert library.begin_with("C_EncryptInit", session, "") == OK
    assert library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", gcm(first)) == OK
    refused = library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", gcm(second))
    rv = library.fill("C_Encrypt", session, DATA, len(DATA))[0]
    return [refused, rv, bytes(first).hex(), bytes(second).hex()]


def test_many(host: Host) -> None:
    """Each of many operations has its own IV, in whatever order they go on, and whatever is in between."""
    assert {OWN.hex()} == set(host.play(encrypt_in_many_sessions))


def encrypt_in_many_sessions() -> list[str]:
    """Begin an operation in each of many sessions, then end them in another order."""
    library = Caller()
    sessions = [library.begin()]
    slot = library.slots()[0]
    sessions += [library.open_session(slot) for _ in range(20)]
    ivs = {session: raw(GIVEN) for session in sessions}
    for session in sessions:
        assert library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", gcm(ivs[session])) == OK
        assert library.begin_with("C_SignInit", session, "CKM_AES_CMAC") == OK
    for session in reversed(sessions):
        assert library.fill("C_Encrypt", session, DATA, len(DATA))[0] == OK
    return [bytes(iv).hex() for iv in ivs.values()]


def test_again_and_again(host: Host) -> None:
    """However many operations a session has had, what is remembered of them stays as little."""
    before, after = host.play(encrypt_again_and_again)

    assert before == after


def encrypt_again_and_again() -> list[int]:
    """Encrypt with a late IV many times; return how many mappings the helper had early and at the end."""
    library = Caller()
    session = library.begin()
    counts = []
    for number in range(400):
        iv = raw(GIVEN)
        assert library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", gcm(iv)) == OK
        assert library.fill("C_Encrypt", session, DATA, len(DATA))[0] == OK
        assert bytes(iv) == OWN
        if number in (3, 399):
            counts.append(len(Path(f"/proc/{helpers()['late']}/maps").read_text().splitlines()))
    return counts


ENDS = ["NULL mechanism", "C_SessionCancel", "C_CloseSession", "death", "fork"]


@pytest.mark.parametrize("end", ENDS)
def test_ended(host: Host, end: str) -> None:
    """When an operation has ended, or is another process's, its caller's memory is not written again."""
    assert GIVEN.hex() == host.play(end_and_go_on, end)


def end_and_go_on(end: str) -> str:
    """Begin an operation, end it, and go on with another one; return what is in the first one's IV."""
    library = Caller()
    session = library.begin()
    slot = library.slots()[0]
    iv = raw(GIVEN)
    assert library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", gcm(iv)) == OK
    if end == "NULL mechanism":
        assert library.begin_with("C_EncryptInit", session, "") == OK
    elif end == "C_SessionCancel":
        library.must("C_SessionCancel", session, constant("CKF_ENCRYPT"))
    elif end == "C_CloseSession":
        library.must("C_CloseSession", session)
        session = library.open_session(slot)
    elif end == "death":
        kill(helpers()["late"])
        library.slots()
        session = library.open_session(slot)
    elif end == "fork":
        return str(in_child(lambda: _go_on(library, library.open_session(slot), iv)))
    return _go_on(library, session, iv)


def _go_on(library: Caller, session: int, iv: Any) -> str:
    other = raw(GIVEN)
    assert library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", gcm(other)) == OK
    assert library.fill("C_Encrypt", session, DATA, len(DATA))[0] == OK
    assert bytes(other) == OWN
    return bytes(iv).hex()


def test_memory_that_is_no_longer_the_callers(host: Host) -> None:
    """What has other contents by now, cannot be written or is gone is left alone; the call is answered."""
    played = host.played(encrypt_after_all, env={"P11HOST_LOG": "1"})

    assert {"reused": [OK, "00" * 12], "read only": [OK, GIVEN.hex()], "gone": [OK, ""]} == played.result
    assert 3 == played.output.count("output.lost function=C_Encrypt")


def encrypt_after_all() -> dict[str, list[str]]:
    """Encrypt when the IV's memory is not what it was; return what is there after it."""
    library = Caller()
    session = library.begin()
    found = {}
    for what in ("reused", "read only", "gone"):
        page = mmap.mmap(-1, mmap.PAGESIZE)
        page[:12] = GIVEN
        held = (ctypes.c_ubyte * 12).from_buffer(page)
        where = ctypes.addressof(held)
        parameter = gcm(held)
        assert library.begin_with("C_EncryptInit", session, "CKM_AES_GCM", parameter) == OK
        if what == "reused":
            page[:12] = bytes(12)
        elif what == "read only":
            protect(where, mmap.PROT_READ)
        del held
        if what == "gone":
            page.close()
        rv = library.fill("C_Encrypt", session, DATA, len(DATA))[0]
        found[what] = [rv, "" if page.closed else page[:12].hex()]
    return found


def protect(where: int, how: int) -> None:
    """Change what may be done with a page of ours."""
    mprotect = ctypes.CDLL(None).mprotect
    assert mprotect(ctypes.c_void_p(where), ctypes.c_size_t(mmap.PAGESIZE), how) == 0
