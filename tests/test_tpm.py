"""tpm2-pkcs11 with a TPM in software: the same calls, by its library itself and through the shim."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import module
from cryptography.hazmat.primitives.asymmetric import padding
from cryptoki import constant, struct
from life import Host, hosted
from notebook import Notebook, differences, mechanism
from objects import CURVE, template
from outside import SHA256, ec_signature_is_good, rsa_public_key, rsa_signature_is_good

LIBRARY = next(Path("/").glob("usr/lib/*/pkcs11/libtpm2_pkcs11.so"), Path("libtpm2_pkcs11.so"))
PATIENCE_S = 30
LABEL, SO_PIN, PIN = "chip", b"87654321", b"123456"
DATA, OTHER = b"signed, sealed, delivered", b"not this"

Reports = dict[str, dict[str, Any]]


# ---- a TPM ----


@contextmanager
def tpm(directory: Path) -> Iterator[dict[str, str]]:
    """Run a TPM with its state in a directory; yield the environment in which the provider finds it."""
    program = shutil.which("swtpm")
    assert program, "there is no TPM in software: apt-get install swtpm"
    (directory / "store").mkdir()
    at = directory / "tpm"
    sockets = [f"--server=type=unixio,path={at}", f"--ctrl=type=unixio,path={at}.ctrl"]
    command = [program, "socket", "--tpm2", "--tpmstate", f"dir={directory}", *sockets]
    process = subprocess.Popen(
        [*command, "--flags", "not-need-init,startup-clear"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_socket(process, at)
        yield {"TPM2_PKCS11_STORE": str(directory / "store"), "TPM2_PKCS11_TCTI": f"swtpm:path={at}"}
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def await_socket(process: subprocess.Popen[bytes], at: Path) -> None:
    """Return once somebody listens there."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(at)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError(f"swtpm does not listen; it has ended with {process.poll()}")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Return what came of the same calls by both ways, each with a new TPM."""
    assert LIBRARY.exists(), "tpm2-pkcs11 is not installed: apt-get install libtpm2-pkcs11-1"
    found = {}
    with tpm(tmp_path_factory.mktemp("direct")) as env:
        found["direct"] = Host(env).play(use, str(LIBRARY))
    directory = tmp_path_factory.mktemp("p11host")
    with tpm(directory) as env, hosted(directory, module("tpm", LIBRARY, env=env)) as host:
        found["p11host"] = host.play(use, "")
    return found


def use(path: str) -> dict[str, Any]:
    """Make a token of the TPM, and keys on it; sign, decrypt; then sign in another life."""
    book = Notebook(path)
    book.initialize()
    make_token(book)
    book.describe_slots()
    session = book.open_session(book.slot_of(LABEL))
    book.same["login"] = [book.login(session, "CKU_USER", pin) for pin in (b"wrong", PIN, PIN)]
    book.made["random"] = book.random(session, 32).hex()
    sign(book, session)
    for act in (decrypt, sign_with_the_key_of_before):
        begin_again(book, session)
        session = book.open_session(book.slot_of(LABEL))
        book.login(session, "CKU_USER", PIN)
        act(book, session)
    book.must("C_Finalize", None)
    return book.report()


def begin_again(book: Notebook, session: int) -> None:
    """End a life of the library, and begin the next.

    Without a resource manager a TPM has room for three objects, which the provider frees at logout.
    """
    book.must("C_Logout", session)
    book.must("C_CloseSession", session)
    book.must("C_Finalize", None)
    book.initialize()


def make_token(book: Notebook) -> None:
    """Initialise the free slot that the provider offers, and set the user's PIN."""
    slot = book.slots()[0]
    book.must("C_InitToken", slot, SO_PIN, len(SO_PIN), LABEL.ljust(32).encode())
    session = book.open_session(book.slot_of(LABEL))
    book.login(session, "CKU_SO", SO_PIN)
    book.must("C_InitPIN", session, PIN, len(PIN))
    book.must("C_Logout", session)
    book.must("C_CloseSession", session)


# ---- what is the same ----


def test_all_is_the_same(reports: Reports) -> None:
    """Every call has the same CK_RV; slots, tokens, mechanisms and attributes say the same of themselves."""
    assert [] == differences(reports["direct"], reports["p11host"])


def test_token(reports: Reports) -> None:
    """The token that was made is there, with the TPM's mechanisms, and knows its PIN."""
    first = reports["p11host"]["same"]["slots"][0]

    assert LABEL == bytes.fromhex(first["token"]["label"]).decode().strip()
    assert {"CKM_ECDSA_SHA256", "CKM_RSA_PKCS_OAEP"} <= {
        name
        for name in ("CKM_ECDSA_SHA256", "CKM_RSA_PKCS_OAEP")
        if constant(name) in dict(first["mechanisms"])
    }
    assert ["CKR_PIN_INCORRECT", "CKR_OK"] == reports["p11host"]["same"]["login"][:2]


# ---- keys in the TPM ----

EC_PUBLIC = template(TOKEN=True, VERIFY=True, EC_PARAMS=CURVE, LABEL=b"ec", ID=b"\1")
EC_PRIVATE = template(TOKEN=True, PRIVATE=True, SENSITIVE=True, SIGN=True, LABEL=b"ec", ID=b"\1")
RSA_PUBLIC = template(TOKEN=True, ENCRYPT=True, PUBLIC_EXPONENT=b"\1\0\1", MODULUS_BITS=2048, ID=b"\2")
RSA_PRIVATE = template(TOKEN=True, PRIVATE=True, SIGN=True, DECRYPT=True, ID=b"\2")
ABOUT = ("SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL", "KEY_GEN_MECHANISM", "ALLOWED_MECHANISMS", "VALUE")
#: An attribute of the provider's own: what the TPM calls the public area of the key.
PUBLIC_AREA = 0x8F000002


def sign(book: Notebook, session: int) -> None:
    """Make a key pair of elliptic curves, look at it and sign with it."""
    public, private = book.generate_pair(session, "CKM_EC_KEY_PAIR_GEN", EC_PUBLIC, EC_PRIVATE)
    book.same["private"] = book.describe_object(session, private, *ABOUT)
    ecdsa = mechanism("CKM_ECDSA_SHA256")
    signature = book.operate("Sign", session, ecdsa, private, DATA)
    book.same["verified"] = [book.verify(session, ecdsa, public, data, signature) for data in (DATA, OTHER)]
    book.made["ec"] = [book.attribute(session, public, "EC_POINT").hex(), signature.hex()]
    book.made["public area"] = book.attribute(session, private, PUBLIC_AREA).hex()


def decrypt(book: Notebook, session: int) -> None:
    """Make an RSA key pair, sign with it, and decrypt what was encrypted elsewhere."""
    public, private = book.generate_pair(session, "CKM_RSA_PKCS_KEY_PAIR_GEN", RSA_PUBLIC, RSA_PRIVATE)
    numbers = [book.attribute(session, public, name) for name in ("MODULUS", "PUBLIC_EXPONENT")]
    signature = book.operate("Sign", session, mechanism("CKM_SHA256_RSA_PKCS"), private, DATA)
    book.made["rsa"] = [part.hex() for part in (*numbers, signature)]
    oaep = padding.OAEP(padding.MGF1(SHA256), SHA256, None)
    encrypted = rsa_public_key(*numbers).encrypt(DATA, oaep)
    parameter = struct("CK_RSA_PKCS_OAEP_PARAMS")(
        constant("CKM_SHA256"), constant("CKG_MGF1_SHA256"), constant("CKZ_DATA_SPECIFIED")
    )
    given = mechanism("CKM_RSA_PKCS_OAEP", parameter)
    book.same["decrypted"] = book.operate("Decrypt", session, given, private, encrypted).hex()


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_signatures(reports: Reports, way: str) -> None:
    """Signatures of the TPM's new keys are good in the eyes of another implementation, and in its own."""
    ec, rsa = ([bytes.fromhex(part) for part in reports[way]["made"][name]] for name in ("ec", "rsa"))

    assert ec_signature_is_good(ec, DATA)
    assert not ec_signature_is_good(ec, OTHER)
    assert rsa_signature_is_good(rsa, DATA)
    assert ["CKR_OK", "CKR_SIGNATURE_INVALID"] == reports[way]["same"]["verified"]


def test_decryption(reports: Reports) -> None:
    """What was encrypted to the TPM's key elsewhere, with OAEP, is decrypted in it."""
    assert DATA.hex() == reports["p11host"]["same"]["decrypted"]


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_key_lives_in_the_tpm(reports: Reports, way: str) -> None:
    """The key was made in the TPM and does not leave it; the TPM's own record of it is of this key."""
    point, _ = reports[way]["made"]["ec"]
    private = reports[way]["same"]["private"]

    assert ["01", "01", "01"] == [private[name] for name in ("SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL")]
    assert private["VALUE"].startswith("CKR_ATTRIBUTE_")
    assert point[-64:] in reports[way]["made"]["public area"]


def sign_with_the_key_of_before(book: Notebook, session: int) -> None:
    """Find the key in another life of the library, and sign with it."""
    (private,) = book.find(session, CLASS="CKO_PRIVATE_KEY", ID=b"\1")
    book.made["again"] = book.operate("Sign", session, mechanism("CKM_ECDSA_SHA256"), private, DATA).hex()


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_key_in_another_life(reports: Reports, way: str) -> None:
    """A key is there after C_Finalize and C_Initialize, and signs."""
    made = reports[way]["made"]

    assert ec_signature_is_good([bytes.fromhex(part) for part in (made["ec"][0], made["again"])], DATA)


def test_random_bytes(reports: Reports) -> None:
    """Two TPMs do not give the same random bytes."""
    assert reports["direct"]["made"]["random"] != reports["p11host"]["made"]["random"]
