"""The message API: parameters whose struct follows from the operation, directly and through p11host alike."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from application import in_child
from brokers import module
from cryptoki import ULONG, constant, struct
from life import Host, Workshop, hosted
from lone import PATIENCE, lone_helper
from message_calls import AAD, DATA, STRUCTS, Caller, Parameter, raw

from p11host.wire import LocalError

pytest_plugins = ["life_fixtures"]

NOT_BEGUN, OK = "CKR_OPERATION_NOT_INITIALIZED", "CKR_OK"
END = 1


@pytest.fixture(scope="module")
def provider(workshop: Workshop) -> Path:
    """Return the provider that generates IVs and tags."""
    return workshop.provider("messages")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, provider: Path) -> Iterator[Host]:
    """Return a broker with it, for all tests of this file."""
    with hosted(tmp_path_factory.mktemp("messages"), module("messages", provider)) as found:
        yield found


def test_messages_begun_by_a_parent(provider: Path, tmp_path: Path) -> None:
    """What was begun before a fork is not begun in an heir, which begins its own; the parent goes on."""
    with hosted(tmp_path, module("messages", provider, fork="inherit")) as host:
        child, parent = host.play(fork_between_messages)

    assert [NOT_BEGUN, NOT_BEGUN, NOT_BEGUN, OK, [OK, len(DATA)], OK] == child
    assert [[OK, len(DATA)], OK, NOT_BEGUN] == parent


def fork_between_messages() -> list[Any]:
    """Begin messages, fork, and encrypt one in the child and in the parent."""
    library = Caller()
    session, mechanism = library.begin(), "CKM_AES_GCM"
    parameter = Parameter(STRUCTS[mechanism])
    whole = (session, *parameter.words, AAD, len(AAD))

    def encrypt() -> list[Any]:
        return library.fill("C_EncryptMessage", *whole, DATA, len(DATA))[:2]

    def begin() -> str:
        return library.begin_with("C_MessageEncryptInit", session, mechanism)

    def finish() -> str:
        return library.rv("C_MessageEncryptFinal", session)

    def live() -> list[Any]:
        refused = [encrypt()[0], library.rv("C_EncryptMessageBegin", *whole), finish()]
        return [*refused, begin(), encrypt(), finish()]

    assert begin() == OK
    return [in_child(live), [encrypt(), finish(), encrypt()[0]]]


@pytest.mark.parametrize("mechanism", STRUCTS)
def test_messages(host: Host, provider: Path, mechanism: str) -> None:
    """Messages are encrypted and decrypted, whole and in parts; IVs and tags come back, on errors too."""
    direct = host.play(exchange_messages, str(provider), mechanism)

    assert direct == host.play(exchange_messages, "", mechanism)
    assert [OK, len(DATA), DATA.hex()] == direct["decrypted"]
    assert [OK, len(DATA[9:]), DATA[9:].hex()] == direct["decrypted parts"][1]
    assert "CKR_AEAD_DECRYPT_FAILED" == direct["wrong tag"][0]
    iv, tag = direct["encrypted to"]
    assert set(tag) != {"0"}
    if "POLY1305" not in mechanism:
        assert iv.startswith("a0")
        # Generated anew by the call that failed.
        assert direct["too small left"][0].startswith("a1")
        assert direct["too small left"][1] == tag


def exchange_messages(path: str, mechanism: str) -> dict[str, Any]:
    """Encrypt and decrypt with one mechanism; return all that comes back."""
    library = Caller(path)
    session = library.begin()
    parameter = Parameter(STRUCTS[mechanism])
    found: dict[str, Any] = {
        "begun": [
            library.begin_with(f"C_Message{verb}Init", session, mechanism) for verb in ("Encrypt", "Decrypt")
        ]
    }
    whole = (session, *parameter.words, AAD, len(AAD))
    found["encrypted"] = library.fill("C_EncryptMessage", *whole, DATA, len(DATA))
    found["encrypted to"] = parameter.contents()
    ciphertext = bytes.fromhex(found["encrypted"][2])
    found["decrypted"] = library.fill("C_DecryptMessage", *whole, ciphertext, len(ciphertext))
    other = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    found["wrong tag"] = library.fill("C_DecryptMessage", *whole, other, len(other))
    found["too small"] = library.fill("C_EncryptMessage", *whole, DATA, len(DATA), room=3)
    found["too small left"] = parameter.contents()
    found["length"] = library.fill("C_EncryptMessage", *whole, DATA, len(DATA), room=None)
    found["nothing associated"] = library.fill(
        "C_EncryptMessage", *whole[:3], None, 0, DATA, len(DATA), cell=True
    )
    found |= exchange_parts(library, session, parameter)
    found["finished"] = [library.rv(f"C_Message{verb}Final", session) for verb in ("Encrypt", "Decrypt")]
    found["after"] = library.rv("C_EncryptMessageBegin", *whole)
    return found


def exchange_parts(library: Caller, session: int, parameter: Parameter) -> dict[str, Any]:
    """Encrypt and decrypt a message in two parts."""
    whole = (session, *parameter.words, AAD, len(AAD))
    found: dict[str, Any] = {"encryption begun": library.rv("C_EncryptMessageBegin", *whole)}
    found["iv"] = parameter.contents()[0]
    head, tail = DATA[:9], DATA[9:]
    parts = [
        library.fill("C_EncryptMessageNext", *whole[:3], part, len(part), flags)
        for part, flags in ((head, 0), (tail, END))
    ]
    found["encrypted parts"], found["tag of parts"] = parts, parameter.contents()
    library.must("C_DecryptMessageBegin", *whole)
    texts = [bytes.fromhex(part[2]) for part in parts]
    found["decrypted parts"] = [
        library.fill("C_DecryptMessageNext", *whole[:3], text, len(text), flags)
        for text, flags in zip(texts, (0, END), strict=True)
    ]
    return found


def test_signatures(host: Host, provider: Path) -> None:
    """Where no struct is defined the parameter is bytes both ways; a NULL that says more follows arrives."""
    direct = host.play(sign_messages, str(provider))

    assert direct == host.play(sign_messages, "")
    assert {OK} == set(direct["rvs"])
    assert ["1122", "1222", "1322"] == direct["ivs"]
    assert [1, 1] == [len(bytes.fromhex(signature)) for signature in direct["signatures"]]
    assert ["CKR_SIGNATURE_INVALID", OK, OK, "CKR_SIGNATURE_INVALID"] == direct["verified"]


def sign_messages(path: str) -> dict[str, Any]:
    """Sign and verify messages, whole and in parts, with an IV that the provider counts up."""
    library = Caller(path)
    session = library.begin()
    iv = raw(b"\x11\x22")
    words = (session, ctypes.addressof(iv), len(iv))
    rvs = [library.begin_with(f"C_Message{verb}Init", session, "CKM_AES_CMAC") for verb in ("Sign", "Verify")]
    ivs, signatures = [bytes(iv).hex()], []
    rv, _, signature = library.fill("C_SignMessage", *words, DATA, len(DATA))
    rvs, signatures, ivs = [*rvs, rv], [signature], [*ivs, bytes(iv).hex()]
    rvs += [library.rv("C_SignMessageBegin", *words)]
    rvs += [library.rv("C_SignMessageNext", *words, DATA[:5], 5, None, None)]
    rv, _, signature = library.fill("C_SignMessageNext", *words, DATA[5:], len(DATA) - 5)
    rvs, signatures, ivs = [*rvs, rv], [*signatures, signature], [*ivs, bytes(iv).hex()]
    verified = []
    for first in (0x14, 0x12):
        iv[0] = first
        good = bytes.fromhex(signatures[1])
        verified += [library.rv("C_VerifyMessage", *words, DATA, len(DATA), good, 1)]
    iv[0] = 0x12
    library.must("C_VerifyMessageBegin", *words)
    library.must("C_VerifyMessageNext", *words, DATA[:5], 5, None, 0)
    verified += [library.rv("C_VerifyMessageNext", *words, DATA[5:], len(DATA) - 5, good, 1)]
    verified += [library.rv("C_VerifyMessage", *words, DATA, len(DATA), b"?", 1)]
    rvs += [library.rv(f"C_Message{verb}Final", session) for verb in ("Sign", "Verify")]
    return {"rvs": rvs, "ivs": ivs, "signatures": signatures, "verified": verified}


def test_operations(host: Host, provider: Path) -> None:
    """The mechanism is that of the session's present operation, whatever was before or is elsewhere."""
    direct = host.play(change_operations, str(provider))

    assert direct == host.play(change_operations, "")
    assert {"gcm": OK, "ccm": OK, "other session": OK} == direct["in use"]
    assert {NOT_BEGUN} == set(direct["ended"].values())
    assert OK == direct["NULL"]


def change_operations(path: str) -> dict[str, Any]:
    """Begin, replace, cancel and close operations; use each with the parameter of its mechanism."""
    library = Caller(path)
    first = library.begin()
    slot = library.slots()[0]
    second = library.open_session(slot)
    gcm, ccm = (Parameter(STRUCTS[name]) for name in ("CKM_AES_GCM", "CKM_AES_CCM"))

    def begin(session: int, mechanism: str = "CKM_AES_GCM") -> None:
        assert library.begin_with("C_MessageEncryptInit", session, mechanism) == OK

    def use(session: int, parameter: Parameter = gcm) -> str:
        return library.rv("C_EncryptMessageBegin", session, *parameter.words, None, 0)

    found: dict[str, Any] = {"in use": {}, "ended": {"before": use(first)}}
    begin(first)
    begin(second, "CKM_AES_CCM")
    found["in use"] |= {"gcm": use(first), "other session": use(second, ccm)}
    begin(first, "CKM_AES_CCM")
    found["in use"]["ccm"] = use(first, ccm)
    found["other operation"] = library.rv("C_DecryptMessageBegin", first, *gcm.words, None, 0)
    found["sign"] = library.begin_with("C_MessageSignInit", first, "CKM_AES_CMAC")
    found["NULL"] = library.rv("C_SignMessageBegin", first, None, 0)
    library.begin_with("C_MessageEncryptInit", first, "")
    found["ended"]["by a NULL mechanism"] = use(first, ccm)
    begin(first)
    library.must("C_SessionCancel", first, constant("CKF_MESSAGE_ENCRYPT"))
    found["ended"]["by C_SessionCancel"] = use(first)
    begin(first)
    library.must("C_SessionCancel", first, constant("CKF_MESSAGE_DECRYPT"))
    found["not its flag"] = use(first)
    library.must("C_CloseSession", second)
    assert library.open_session(slot) == second
    found["ended"]["by C_CloseSession"] = use(second, ccm)
    library.must("C_CloseAllSessions", slot)
    assert library.open_session(slot) == first
    found["ended"]["by C_CloseAllSessions"] = use(first)
    return found


def test_the_helper_knows_the_operation(provider: Path) -> None:
    """Bytes never reach a provider as the struct that its operation takes, whatever a request calls them."""
    begin, lie = "C_EncryptMessageBegin", [constant("CKM_AES_CBC"), bytes(24)]
    poly1305 = [constant("CKM_CHACHA20_POLY1305"), None]
    with lone_helper(provider) as helper, helper.open() as first:
        _, session = first.call("C_OpenSession", [5, 4, True], PATIENCE)

        assert [0, None] == first.call("C_MessageEncryptInit", [session, poly1305, 0], PATIENCE)
        assert [0x71, None] == first.call(begin, [session, 0, 0], PATIENCE)
        assert [0x91, None] == first.call("C_DecryptMessageBegin", [session, 0, 0], PATIENCE)
        for name in (begin, "C_DecryptMessageBegin"):
            with helper.open() as channel, pytest.raises(LocalError, match="malformed"):
                channel.call(name, [session, lie, 0], PATIENCE)
        assert [0, None] == first.call("C_MessageEncryptInit", [session, [lie[0], None], 0], PATIENCE)
        assert [0, None] == first.call(begin, [session, lie, 0], PATIENCE)


def test_wrapping(host: Host, provider: Path) -> None:
    """Authenticated wrapping takes the parameters of messages: IV and tag come back, and go to unwrap."""
    direct = host.play(wrap_and_unwrap, str(provider))

    assert direct == host.play(wrap_and_unwrap, "")
    assert OK == direct["wrapped"][0]
    assert direct["parameter"][0].startswith("a0")
    assert [OK, "CKR_AEAD_DECRYPT_FAILED"] == direct["unwrapped"]


def wrap_and_unwrap(path: str) -> dict[str, Any]:
    """Wrap a key and unwrap it, with the right associated data and with other."""
    library = Caller(path)
    session = library.begin()
    parameter = Parameter(STRUCTS["CKM_AES_GCM"])
    mechanism = struct("CK_MECHANISM")(constant("CKM_AES_GCM"), *parameter.words)
    given = (session, ctypes.byref(mechanism), 0)
    wrapped = library.fill("C_WrapKeyAuthenticated", *given, 0, AAD, len(AAD))
    found = {"wrapped": wrapped, "parameter": parameter.contents()}
    data = bytes.fromhex(wrapped[2])
    found["unwrapped"] = [
        library.rv(
            *("C_UnwrapKeyAuthenticated", *given, data, len(data), None, 0),
            *(aad, len(aad), ctypes.byref(ULONG())),
        )
        for aad in (AAD, b"other")
    ]
    return found
