"""OpenSC with a PIV card in software: the same calls, by its library itself and through the shim."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from application import Shim
from asn1crypto.x509 import Certificate
from brokers import module
from cards.piv import Piv, Stranger
from cards.vpcd import readers
from cryptoki import ULONG, struct
from life import Host, hosted
from notebook import Made, Notebook, differences, mechanism
from outside import PSS, ec_signature_is_good, rsa_signature_is_good

LIBRARY = next(Path("/").glob("usr/lib/*/opensc-pkcs11.so"), Path("opensc-pkcs11.so"))
PIN = b"123456"
DATA, OTHER = b"signed, sealed, delivered", b"not this"
#: Nothing is read from or left in anybody's home.
CONF = "app default { framework pkcs15 { use_file_caching = no; } }\n"
NAMES = {"AUTHENTICATION": b"\1", "SIGNATURE": b"\2"}
OBJECTS = ("CKO_CERTIFICATE", "CKO_PUBLIC_KEY", "CKO_PRIVATE_KEY", "CKO_DATA")
ABOUT = (
    "LABEL",
    "ID",
    "TOKEN",
    "PRIVATE",
    "MODIFIABLE",
    "VALUE",
    "KEY_TYPE",
    "MODULUS",
    "EC_PARAMS",
    "EC_POINT",
)
ABOUT_PRIVATE = ("SIGN", "DECRYPT", "SENSITIVE", "EXTRACTABLE", "ALWAYS_AUTHENTICATE", "SUBJECT", "OBJECT_ID")

Reports = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reports]:
    """Return what came of the same calls by both ways, with the same card and a stranger beside it."""
    assert LIBRARY.exists(), "OpenSC is not installed: apt-get install opensc-pkcs11"
    directory = tmp_path_factory.mktemp("opensc")
    conf = directory / "opensc.conf"
    conf.write_text(CONF)
    with readers(directory, [Piv(PIN), Stranger()]) as where:
        env = {**where, "OPENSC_CONF": str(conf)}
        found = {"direct": Host(env).play(use, str(LIBRARY))}
        with hosted(directory, module("opensc", LIBRARY, env=env)) as host:
            found["p11host"] = host.play(use, "")
        yield found


def use(path: str) -> dict[str, Any]:
    """Look at the readers and at what is on the card, before and after login; sign with its keys."""
    book = Notebook(path)
    book.initialize()
    book.describe_slots()
    session = book.open_session(book.slots()[0])
    book.same["before login"] = describe(book, session)
    book.same["login"] = [book.login(session, "CKU_USER", pin) for pin in (b"654321", PIN, PIN)]
    book.same["after login"] = describe(book, session)
    sign_with_rsa(book, session)
    sign_with_ec(book, session)
    book.made["events"] = [look_for_event(book) for _ in range(3)]
    book.must("C_Finalize", None)
    return book.report()


def look_for_event(book: Notebook) -> str:
    """Look for an event, which OpenSC itself finds where there is none."""
    return Shim.rv(book, "C_WaitForSlotEvent", 1, ctypes.byref(ULONG()), None)


def describe(book: Notebook, session: int) -> list[Any]:
    """Return the attributes of all that is on the card."""
    found = []
    for kind in OBJECTS:
        names = ABOUT + (ABOUT_PRIVATE if kind == "CKO_PRIVATE_KEY" else ())
        objects = book.find(session, CLASS=kind)
        found += [[kind, book.describe_object(session, each, *names)] for each in objects]
    return found


# ---- what is the same ----


def test_all_is_the_same(reports: Reports) -> None:
    """Every call has the same CK_RV; readers, card, mechanisms and objects say the same of themselves."""
    assert [] == differences(reports["direct"], reports["p11host"])


def test_card(reports: Reports) -> None:
    """The card is there with its certificates; one of an unknown kind beside it is said to be that."""
    same = reports["p11host"]["same"]
    kinds = [kind for kind, _ in same["before login"]]

    assert 2 == kinds.count("CKO_CERTIFICATE") == kinds.count("CKO_PUBLIC_KEY")
    assert "CKR_TOKEN_NOT_RECOGNIZED" == same["slots"][1]["token"]
    assert ["CKR_PIN_INCORRECT", "CKR_OK", "CKR_USER_ALREADY_LOGGED_IN"] == same["login"]


def test_certificates_are_whole(reports: Reports) -> None:
    """The certificates are those of the card's keys."""
    values = [
        about["VALUE"] for kind, about in reports["p11host"]["same"]["after login"] if kind == OBJECTS[0]
    ]
    names = [Certificate.load(bytes.fromhex(value)).subject.native["common_name"] for value in values]

    assert ["key 9A", "key 9C"] == sorted(names)


# ---- signatures ----


def pss() -> Any:
    """Return RSA-PSS with SHA-256."""
    parameter = struct("CK_RSA_PKCS_PSS_PARAMS")(0x250, 2, 32)
    return mechanism("CKM_SHA256_RSA_PKCS_PSS", parameter)


def private_key(book: Notebook, session: int, name: str) -> int:
    """Return the private key of that name."""
    (found,) = book.find(session, CLASS="CKO_PRIVATE_KEY", ID=NAMES[name])
    return found


def sign_with_rsa(book: Notebook, session: int) -> None:
    """Sign with the key for authentication, in two ways."""
    private = private_key(book, session, "AUTHENTICATION")
    (public,) = book.find(session, CLASS="CKO_PUBLIC_KEY", ID=NAMES["AUTHENTICATION"])
    numbers = [book.attribute(session, public, name) for name in ("MODULUS", "PUBLIC_EXPONENT")]
    given = [mechanism("CKM_SHA256_RSA_PKCS"), pss()]
    signatures = [book.operate("Sign", session, each, private, DATA) for each in given]
    book.made["rsa"] = [part.hex() for part in (*numbers, *signatures)]
    pairs = [(DATA, signatures[0]), (OTHER, signatures[0])]
    book.same["verified"] = [book.verify(session, given[0], public, *pair) for pair in pairs]


def sign_with_ec(book: Notebook, session: int) -> None:
    """Sign with the key for signatures: with the PIN once more it does, without it it does not."""
    private = private_key(book, session, "SIGNATURE")
    (public,) = book.find(session, CLASS="CKO_PUBLIC_KEY", ID=NAMES["SIGNATURE"])
    ecdsa = mechanism("CKM_ECDSA_SHA256")
    signature = sign_with_pin(book, session, ecdsa, private)
    book.made["ec"] = [book.attribute(session, public, "EC_POINT").hex(), signature.hex()]
    book.same["without PIN"] = book.operate("Sign", session, ecdsa, private, DATA).rv


def sign_with_pin(book: Notebook, session: int, given: Any, key: int) -> Made:
    """Sign with a key that wants the PIN each time, between the beginning of the operation and its data."""
    book.must("C_SignInit", session, ctypes.byref(given), key)
    book.same["context login"] = book.login(session, "CKU_CONTEXT_SPECIFIC", PIN)
    return book.finish("C_Sign", session, DATA, len(DATA))


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_rsa_signatures(reports: Reports, way: str) -> None:
    """RSA signatures of the card, PKCS#1 and PSS, are good in the eyes of another implementation."""
    modulus, exponent, plain, with_salt = (bytes.fromhex(part) for part in reports[way]["made"]["rsa"])

    assert rsa_signature_is_good([modulus, exponent, plain], DATA)
    assert not rsa_signature_is_good([modulus, exponent, plain], OTHER)
    assert rsa_signature_is_good([modulus, exponent, with_salt], DATA, PSS)
    assert ["CKR_OK", "CKR_SIGNATURE_INVALID"] == reports[way]["same"]["verified"]


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_signature_with_a_pin_of_its_own(reports: Reports, way: str) -> None:
    """A key that wants the PIN for each signature gets it by a C_Login of its own, and only then signs."""
    made = [bytes.fromhex(part) for part in reports[way]["made"]["ec"]]

    assert "CKR_USER_NOT_LOGGED_IN" == reports[way]["same"]["without PIN"]
    assert "CKR_OK" == reports[way]["same"]["context login"]
    assert ec_signature_is_good(made, DATA)


def test_events(reports: Reports) -> None:
    """A card that OpenSC finds when it is initialised is no event, though OpenSC itself tells of one."""
    assert ["CKR_NO_EVENT"] * 3 == reports["p11host"]["made"]["events"]
