"""NSS softokn's messages: AES-GCM with IVs that it makes, by its library itself and through the shim."""

import ctypes
from typing import Any

import pytest
from brokers import module
from cryptoki import constant, struct
from life import Host, hosted
from notebook import Made, Notebook, differences, mechanism
from objects import template
from outside import gcm_opened
from test_nss import LIBRARY, RESERVED, SERVICES

DATA, AAD = b"signed, sealed, delivered", b"on the envelope"
IV, TAG, FIXED = 12, 16, 4

Reports = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Return what came of the same calls by both ways; softokn needs no database for them."""
    assert LIBRARY.exists(), "NSS softokn is not installed: apt-get install libnss3"
    directory = tmp_path_factory.mktemp("nss")
    reserved = RESERVED.format(directory) + "noCertDB,noModDB"
    found = {"direct": Host({}).play(use, str(LIBRARY), reserved)}
    with hosted(directory, module("nss", LIBRARY, reserved=reserved)) as host:
        found["p11host"] = host.play(use, "", "")
    return found


def use(path: str, reserved: str) -> dict[str, Any]:
    """Exchange messages."""
    book = Notebook(path, reserved)
    book.initialize()
    exchange_messages(book, book.open_session(book.slot_of(SERVICES)))
    book.must("C_Finalize", None)
    return book.report()


def exchange_messages(book: Notebook, session: int) -> None:
    """Encrypt two messages with IVs of softokn's, and decrypt the second, with its tag and with another."""
    aes = template(VALUE_LEN=16, SENSITIVE=False, EXTRACTABLE=True, ENCRYPT=True, DECRYPT=True)
    key = book.generate(session, "CKM_AES_KEY_GEN", aes)
    book.made["aes"] = book.attribute(session, key, "VALUE").hex()
    gcm = mechanism("CKM_AES_GCM")
    book.must("C_MessageEncryptInit", session, ctypes.byref(gcm), key)
    messages = [encrypt_message(book, session, number) for number in range(2)]
    book.must("C_MessageEncryptFinal", session)
    book.made["messages"] = messages
    book.must("C_MessageDecryptInit", session, ctypes.byref(gcm), key)
    iv, tag, text = (bytes.fromhex(part) for part in messages[1])
    book.same["opened"] = decrypt_message(book, session, iv, tag, text).hex()
    book.same["forged"] = decrypt_message(book, session, iv, bytes(TAG), text).rv
    book.rv("C_MessageDecryptFinal", session)


def parameter_of(iv: Any, tag: Any, generator: str) -> Any:
    """Return a CK_GCM_MESSAGE_PARAMS over these buffers."""
    given = struct("CK_GCM_MESSAGE_PARAMS")(
        pIv=ctypes.addressof(iv),
        ulIvLen=IV,
        ulIvFixedBits=FIXED * 8,
        ivGenerator=constant(generator),
        pTag=ctypes.addressof(tag),
        ulTagBits=TAG * 8,
    )
    given.__dict__["kept"] = (iv, tag)
    return given


def encrypt_message(book: Notebook, session: int, number: int) -> list[str]:
    """Encrypt one message; return the IV and the tag that came back, and the text."""
    iv, tag = (ctypes.c_ubyte * IV)(*b"host"), (ctypes.c_ubyte * TAG)()
    given = parameter_of(iv, tag, "CKG_GENERATE_COUNTER")
    words = [ctypes.byref(given), ctypes.sizeof(given), AAD, len(AAD), DATA, len(DATA)]
    text = book.finish("C_EncryptMessage", session, *words)
    book.same[f"fixed part of IV {number}"] = bytes(iv)[:FIXED].hex()
    return [bytes(iv).hex(), bytes(tag).hex(), text.hex()]


def decrypt_message(book: Notebook, session: int, iv: bytes, tag: bytes, text: bytes) -> Made:
    """Decrypt one message."""
    buffers = (ctypes.c_ubyte * IV)(*iv), (ctypes.c_ubyte * TAG)(*tag)
    given = parameter_of(*buffers, "CKG_NO_GENERATE")
    words = [ctypes.byref(given), ctypes.sizeof(given), AAD, len(AAD), text, len(text)]
    return book.finish("C_DecryptMessage", session, *words)


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_messages(reports: Reports, way: str) -> None:
    """Generated IVs and tags come back: with them another implementation opens what was encrypted."""
    made = reports[way]["made"]
    key, messages = bytes.fromhex(made["aes"]), [list(map(bytes.fromhex, each)) for each in made["messages"]]

    assert [DATA, DATA] == [gcm_opened(key, iv, text, tag, AAD) for iv, tag, text in messages]
    assert messages[0][0] != messages[1][0], "an IV is used once"
    assert DATA.hex() == reports[way]["same"]["opened"]
    assert reports[way]["same"]["forged"].startswith("CKR_")


def test_all_is_the_same(reports: Reports) -> None:
    """Every call has the same CK_RV, and what it decrypts is the same."""
    assert [] == differences(reports["direct"], reports["p11host"])
