"""A PIV card in software: a key for authentication, and one for signatures that wants the PIN each time.

Knows NIST SP 800-73-4, as far as a host reads and signs. Must not know how commands reach it (vpcd.py).
"""

import datetime
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import NameOID

ATR = bytes.fromhex("3b951381018073ff01000b")
APPLICATION = bytes.fromhex("a000000308")
OK, MORE, WRONG_PIN = b"\x90\x00", 0x61, 0x63C0
NOT_FOUND, NOT_SELECTED, NOT_ALLOWED = b"\x6a\x82", b"\x69\x85", b"\x69\x82"
BLOCKED, NO_SUCH, WRONG_DATA = b"\x69\x83", b"\x6d\x00", b"\x6a\x80"
CHAINED, TRIES, PART = 0x10, 3, 256
HUNG = 60.0  # seconds: nothing waits for ever
AUTHENTICATION, SIGNATURE = 0x9A, 0x9C
#: The data object with the certificate of each key.
CERTIFICATES = {AUTHENTICATION: bytes.fromhex("5fc105"), SIGNATURE: bytes.fromhex("5fc10a")}
CHUID, DISCOVERY = bytes.fromhex("5fc102"), b"\x7e"
FASC_N = bytes.fromhex("d4e739da739ced39ce739da1685a1082108ce73984108e73fe")

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def tlv(tag: bytes, value: bytes) -> bytes:
    """Return a value with its tag and length."""
    size = len(value)
    length = bytes([size]) if size < 0x80 else (b"\x81" if size < 0x100 else b"\x82") + _number(size)
    return tag + length + value


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tags, of one byte, and values in `data`; IndexError if it is cut off."""
    while data:
        tag, size, at = data[0], data[1], 2
        if size > 0x80:
            at += size & 0x7F
            size = int.from_bytes(data[2:at], "big")
        yield tag, data[at : at + size]
        data = data[at + size :]


def certificate(key: Key, name: str) -> bytes:
    """Return a certificate that the key itself has signed."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).serial_number(7)
    builder = builder.not_valid_before(start).not_valid_after(start.replace(year=2044))
    signed = builder.public_key(key.public_key()).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def raw_rsa(key: rsa.RSAPrivateKey, block: bytes) -> bytes:
    """Return a block to the power of the private exponent: the host has padded it."""
    numbers = key.private_numbers()
    n = numbers.public_numbers.n
    return pow(int.from_bytes(block, "big"), numbers.d, n).to_bytes((n.bit_length() + 7) // 8, "big")


def sign(key: Key, block: bytes) -> bytes:
    """Do what a private key does with what the host has made of its data."""
    if isinstance(key, rsa.RSAPrivateKey):
        return raw_rsa(key, block)
    return key.sign(block, ec.ECDSA(Prehashed(hashes.SHA256())))


@dataclass
class Piv:
    """The card: its keys and objects, and what the host has done to it since the reset."""

    pin: bytes = b"123456"
    keys: Mapping[int, Key] = field(default_factory=lambda: dict(new_keys()))
    tries: int = TRIES
    selected: bool = False
    verified: bool = False
    fresh: bool = False  # no key has been used since the PIN came
    chain: bytes = b""
    rest: bytes = b""
    heard: list[int] = field(default_factory=list)  # the instructions of its commands
    delay: float = 0.0  # seconds that it takes to sign,
    busy: threading.Event = field(default_factory=threading.Event)  # which it has begun;
    released: threading.Event = field(default_factory=threading.Event)  # and it waits for this

    def __post_init__(self) -> None:
        """Fill the card with its data objects."""
        self.released.set()
        id_ = tlv(b"\x4f", bytes.fromhex("a000000308000010000100"))
        chuid = tlv(b"\x30", FASC_N) + tlv(b"\x34", b"0123456789abcdef") + tlv(b"\x35", b"20440101")
        self.objects = {
            CHUID: tlv(b"\x53", chuid + tlv(b"\x3e", b"") + tlv(b"\xfe", b"")),
            DISCOVERY: tlv(b"\x7e", id_ + tlv(b"\x5f\x2f", b"\x40\x00")),
        }
        for reference, key in self.keys.items():
            body = tlv(b"\x70", certificate(key, f"key {reference:X}")) + tlv(b"\x71", b"\0")
            self.objects[CERTIFICATES[reference]] = tlv(b"\x53", body + tlv(b"\xfe", b""))

    @property
    def atr(self) -> bytes:
        """What it says when it gets power."""
        return ATR

    def reset(self) -> None:
        """Forget all that was done since the last time, but not wrong PINs."""
        self.selected = self.verified = self.fresh = False
        self.chain = self.rest = b""

    def answer(self, command: bytes) -> bytes:
        """Return what the card says to a command: data, and two bytes of status."""
        kind, instruction, _, reference = command[:4]
        self.heard.append(instruction)
        data = _data_of(command)
        if instruction == 0xC0:
            return self._give(self.rest)
        if kind & CHAINED:
            self.chain += data
            return OK
        data, self.chain = self.chain + data, b""
        if instruction == 0xA4:
            return self._select(data)
        if not self.selected:
            return NOT_SELECTED
        return self._do(instruction, reference, data)

    def _do(self, instruction: int, reference: int, data: bytes) -> bytes:
        match instruction:
            case 0xCB:
                found = self.objects.get(data[2 : 2 + data[1]])
                return self._give(found) if found else NOT_FOUND
            case 0x20:
                return self._verify(data)
            case 0x87:
                return self._authenticate(reference, data)
        return NO_SUCH

    def _give(self, data: bytes) -> bytes:
        self.rest = data[PART:]
        left = len(self.rest) if len(self.rest) < PART else 0
        return data[:PART] + (bytes([MORE, left]) if self.rest else OK)

    def _select(self, data: bytes) -> bytes:
        if not data.startswith(APPLICATION):
            return NOT_FOUND
        self.selected, self.verified = True, False
        inner = tlv(b"\x4f", bytes.fromhex("000010000100")) + tlv(b"\x79", tlv(b"\x4f", APPLICATION))
        return self._give(tlv(b"\x61", inner))

    def _verify(self, data: bytes) -> bytes:
        if not data:
            return OK if self.verified else (WRONG_PIN | self.tries).to_bytes(2, "big")
        if self.tries == 0:
            return BLOCKED
        self.verified = self.fresh = data == self.pin.ljust(8, b"\xff")
        self.tries = TRIES if self.verified else self.tries - 1
        return OK if self.verified else (WRONG_PIN | self.tries).to_bytes(2, "big")

    def _authenticate(self, reference: int, data: bytes) -> bytes:
        if reference not in self.keys:
            return NOT_FOUND
        if not (self.fresh if reference == SIGNATURE else self.verified):
            return NOT_ALLOWED
        self.fresh = False
        self.busy.set()
        self.released.wait(HUNG)
        time.sleep(self.delay)
        challenge = next((value for tag, value in parts(dict(parts(data))[0x7C]) if tag == 0x81), None)
        if challenge is None:
            return WRONG_DATA
        return self._give(tlv(b"\x7c", tlv(b"\x82", sign(self.keys[reference], challenge))))


def _data_of(command: bytes) -> bytes:
    if len(command) <= 5:
        return b""
    if command[4] == 0 and len(command) > 7:
        return command[7 : 7 + int.from_bytes(command[5:7], "big")]
    return command[5 : 5 + command[4]]


def new_keys() -> Iterator[tuple[int, Key]]:
    """Yield a key for each of the card's places."""
    yield AUTHENTICATION, rsa.generate_private_key(65537, 2048)
    yield SIGNATURE, ec.generate_private_key(ec.SECP256R1())


@dataclass
class Stranger:
    """A card of no known kind."""

    atr: bytes = bytes.fromhex("3b00")

    def reset(self) -> None:
        """Forget nothing: it knows nothing."""

    def answer(self, _command: bytes) -> bytes:
        """Return that there is no such command."""
        return NO_SUCH
