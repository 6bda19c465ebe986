"""NSS softokn: the same calls, by its library itself and through the shim, and what only it has."""

import ctypes
from pathlib import Path
from typing import Any

import pytest
from brokers import module
from cryptoki import ULONG, constant, struct
from life import Host, hosted
from notebook import Notebook, array_of, differences, mechanism
from objects import CURVE, template
from outside import PSS, ec_signature_is_good, rsa_signature_is_good

LIBRARY = next(Path("/").glob("usr/lib/*/libsoftokn3.so"), Path("libsoftokn3.so"))
#: Where its database is, and that it has one; softokn does not start without this string.
RESERVED = "configdir='sql:{}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
DATABASE = "NSS Certificate DB"
SERVICES = "NSS Generic Crypto Services"
PIN = b"123456"
DATA = b"signed, sealed, delivered"
AAD = b"on the envelope"

Reports = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Return what came of the same calls by both ways, each with a new database."""
    assert LIBRARY.exists(), "NSS softokn is not installed: apt-get install libnss3"
    directories = {name: tmp_path_factory.mktemp(name) for name in ("direct", "p11host")}
    text = RESERVED.format(directories["direct"])
    found = {"direct": Host({}).play(use, str(LIBRARY), text)}
    ours = module("nss", LIBRARY, reserved=RESERVED.format(directories["p11host"]))
    with hosted(directories["p11host"], ours) as host:
        found["p11host"] = host.play(use, "", "")
    return found


def use(path: str, reserved: str) -> dict[str, Any]:
    """Use softokn: look at it, give it a PIN, make keys, sign, exchange messages; then in another life."""
    book = Notebook(path, reserved)
    book.initialize()
    book.describe_slots()
    session = book.open_session(book.slot_of(DATABASE))
    set_pin(book, session)
    sign(book, session)
    derive(book, session)
    derive_public_key(book, session)
    book.must("C_Finalize", None)
    book.initialize()
    sign_with_the_key_of_before(book)
    book.must("C_Finalize", None)
    return book.report()


# ---- what is the same ----


def test_all_is_the_same(reports: Reports) -> None:
    """Every call has the same CK_RV; slots, tokens, mechanisms and attributes say the same of themselves."""
    assert [] == differences(reports["direct"], reports["p11host"])


def test_it_is_softokn(reports: Reports) -> None:
    """Both tokens of softokn are there, with all their mechanisms."""
    labels = [bytes.fromhex(each["token"]["label"]).decode().strip() for each in slots(reports)]

    assert [SERVICES, DATABASE] == labels
    assert all(len(each["mechanisms"]) > 150 for each in slots(reports))


def slots(reports: Reports) -> list[dict[str, Any]]:
    """Return what was told of the slots."""
    found: list[dict[str, Any]] = reports["p11host"]["same"]["slots"]
    return found


def set_pin(book: Notebook, session: int) -> None:
    """Set the PIN of a database that has none, as only its security officer may; log in with it."""
    book.login(session, "CKU_SO", b"")
    book.rv("C_InitPIN", session, PIN, len(PIN))
    book.rv("C_Logout", session)
    book.same["login"] = [book.login(session, "CKU_USER", pin) for pin in (b"wrong", PIN, PIN)]


def give_pin(path: str, reserved: str) -> None:
    """Set the PIN of a new database, and end."""
    book = Notebook(path, reserved)
    book.initialize()
    set_pin(book, book.open_session(book.slot_of(DATABASE)))
    book.must("C_Finalize", None)


def test_login(reports: Reports) -> None:
    """A wrong PIN is refused, the right one is not, and a second login is one too many."""
    assert ["CKR_PIN_INCORRECT", "CKR_OK"] == reports["p11host"]["same"]["login"][:2]


# ---- keys and signatures ----

EC_PUBLIC = template(TOKEN=True, VERIFY=True, EC_PARAMS=CURVE, LABEL=b"ec")
EC_PRIVATE = template(TOKEN=True, PRIVATE=True, SENSITIVE=True, SIGN=True, LABEL=b"ec")
RSA_PUBLIC = template(VERIFY=True, PUBLIC_EXPONENT=b"\1\0\1", MODULUS_BITS=2048)
RSA_PRIVATE = template(SIGN=True, LABEL=b"rsa")


def pss() -> Any:
    """Return RSA-PSS with SHA-256."""
    parameter = struct("CK_RSA_PKCS_PSS_PARAMS")(constant("CKM_SHA256"), constant("CKG_MGF1_SHA256"), 32)
    return mechanism("CKM_SHA256_RSA_PKCS_PSS", parameter)


def sign(book: Notebook, session: int) -> None:
    """Make key pairs and sign with them."""
    public, private = book.generate_pair(session, "CKM_EC_KEY_PAIR_GEN", EC_PUBLIC, EC_PRIVATE)
    ecdsa = mechanism("CKM_ECDSA_SHA256")
    signature = book.operate("Sign", session, ecdsa, private, DATA)
    book.made["ec"] = [book.attribute(session, public, "EC_POINT").hex(), signature.hex()]
    book.same["verified"] = [book.verify(session, ecdsa, public, data, signature) for data in (DATA, AAD)]
    public, private = book.generate_pair(session, "CKM_RSA_PKCS_KEY_PAIR_GEN", RSA_PUBLIC, RSA_PRIVATE)
    numbers = [book.attribute(session, public, name).hex() for name in ("MODULUS", "PUBLIC_EXPONENT")]
    book.made["rsa"] = [*numbers, book.operate("Sign", session, pss(), private, DATA).hex()]
    secret = book.describe_object(session, private, "PRIVATE_EXPONENT", "SENSITIVE", "KEY_TYPE")
    book.same["secret"] = {name: secret[name] for name in ("SENSITIVE", "KEY_TYPE")}


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_signatures(reports: Reports, way: str) -> None:
    """ECDSA and RSA-PSS signatures of new keys are good in the eyes of another implementation."""
    ec, rsa = ([bytes.fromhex(part) for part in reports[way]["made"][name]] for name in ("ec", "rsa"))

    assert ec_signature_is_good(ec, DATA)
    assert not ec_signature_is_good(ec, AAD)
    assert rsa_signature_is_good(rsa, DATA, PSS)
    assert ["CKR_OK", "CKR_SIGNATURE_INVALID"] == reports[way]["same"]["verified"]


def sign_with_the_key_of_before(book: Notebook) -> None:
    """Find the key on the token in another life of the library and sign with it."""
    session = book.open_session(book.slot_of(DATABASE))
    book.same["without login"] = len(book.find(session, CLASS="CKO_PRIVATE_KEY"))
    book.login(session, "CKU_USER", PIN)
    (private,) = book.find(session, CLASS="CKO_PRIVATE_KEY", LABEL=b"ec")
    (public,) = book.find(session, CLASS="CKO_PUBLIC_KEY", LABEL=b"ec")
    signature = book.operate("Sign", session, mechanism("CKM_ECDSA_SHA256"), private, DATA)
    book.made["again"] = [book.attribute(session, public, "EC_POINT").hex(), signature.hex()]


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_key_in_another_life(reports: Reports, way: str) -> None:
    """A key in the database is there after C_Finalize and C_Initialize, behind the PIN, and signs."""
    point, signature = reports[way]["made"]["again"]

    assert 0 == reports[way]["same"]["without login"]
    assert reports[way]["made"]["ec"][0] == point
    assert ec_signature_is_good([bytes.fromhex(part) for part in (point, signature)], DATA)


# ---- of 3.0, and of its own ----

# RFC 5869, test case 1.
IKM, SALT, INFO = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
OKM = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def derive(book: Notebook, session: int) -> None:
    """Derive a key with HKDF, whose parameter has two buffers."""
    salt, info = (ctypes.create_string_buffer(part, len(part)) for part in (SALT, INFO))
    given = struct("CK_HKDF_PARAMS")(
        bExtract=1,
        bExpand=1,
        prfHashMechanism=constant("CKM_SHA256"),
        ulSaltType=constant("CKF_HKDF_SALT_DATA"),
        pSalt=ctypes.addressof(salt),
        ulSaltLen=len(salt),
        pInfo=ctypes.addressof(info),
        ulInfoLen=len(info),
    )
    base = array_of(template(CLASS="CKO_SECRET_KEY", KEY_TYPE="CKK_HKDF", DERIVE=True, VALUE=IKM))
    rows = array_of(
        template(CLASS="CKO_SECRET_KEY", KEY_TYPE="CKK_GENERIC_SECRET", VALUE_LEN=42, SENSITIVE=False)
    )
    key, made = ULONG(), ULONG()
    book.must("C_CreateObject", session, base, len(base), ctypes.byref(key))
    hkdf = mechanism("CKM_HKDF_DERIVE", given)
    book.must("C_DeriveKey", session, ctypes.byref(hkdf), key, rows, len(rows), ctypes.byref(made))
    book.same["derived"] = book.attribute(session, made.value, "VALUE").hex()


def test_derived_key(reports: Reports) -> None:
    """HKDF of 3.0, with salt and info in its parameter, derives what RFC 5869 says."""
    assert OKM == reports["p11host"]["same"]["derived"]


#: Softokn's own: the public key of a private one. 0x80000000 | "NSCP", and its number.
PUB_FROM_PRIV = 0xCE534350 + 40


def derive_public_key(book: Notebook, session: int) -> None:
    """Derive a public key from the private one, by a mechanism of NSS's own, without a parameter."""
    (private,) = book.find(session, CLASS="CKO_PRIVATE_KEY", LABEL=b"rsa")
    rows = array_of(template(CLASS="CKO_PUBLIC_KEY", KEY_TYPE="CKK_RSA"))
    given, public = mechanism(PUB_FROM_PRIV), ULONG()
    book.must("C_DeriveKey", session, ctypes.byref(given), private, rows, len(rows), ctypes.byref(public))
    book.made["derived modulus"] = book.attribute(session, public.value, "MODULUS").hex()


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_mechanism_of_its_own(reports: Reports, way: str) -> None:
    """A mechanism of NSS's own, without a parameter, derives a public key from a private one."""
    made = reports[way]["made"]

    assert made["rsa"][0] == made["derived modulus"]
