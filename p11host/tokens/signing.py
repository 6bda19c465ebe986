"""Signing and verifying: which mechanism, what it is given, and how a signature is written.

The digest is made here, so that a file of any length costs the token one small call, and one that knows no
mechanism with a digest signs too. Knows kinds of keys and PKCS#1, ECDSA, EdDSA and HMAC.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pkcs11
from asn1crypto import algos
from pkcs11 import MGF, Attribute, KeyType, Mechanism
from pkcs11.util.ec import decode_ecdsa_signature, encode_ecdsa_signature

from p11host.errors import P11HostError
from p11host.text import nearest, printable
from p11host.tokens.find import read

HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512")
_CHUNK = 1 << 20
#: Bytes of what a token must be given whole.
_WHOLE_MOST = 64 << 20
_PSS = {
    "sha1": (Mechanism.SHA_1, MGF.SHA1),
    "sha224": (Mechanism.SHA224, MGF.SHA224),
    "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384, MGF.SHA384),
    "sha512": (Mechanism.SHA512, MGF.SHA512),
}
_HMAC = {
    "sha1": Mechanism.SHA_1_HMAC,
    "sha224": Mechanism.SHA224_HMAC,
    "sha256": Mechanism.SHA256_HMAC,
    "sha384": Mechanism.SHA384_HMAC,
    "sha512": Mechanism.SHA512_HMAC,
}


@dataclass(frozen=True, slots=True)
class Way:
    """How a person wants it: which digest, PSS or PKCS#1, r and s plain or in DER, or all by its name."""

    hash: str = "sha256"
    pss: bool = False
    raw: bool = False
    prehashed: bool = False
    mechanism: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What the token is told."""

    mechanism: Mechanism
    param: Any
    data: bytes
    ecdsa_der: bool


def plan(key: pkcs11.Object, way: Way, data: BinaryIO) -> Job:
    """Return what the token is told to sign or to verify what `data` holds."""
    kind = read(key, Attribute.KEY_TYPE)
    if way.mechanism is not None:
        named = _named(way.mechanism)
        return Job(named, None, _whole(data), named.name.startswith("ECDSA") and not way.raw)
    if kind == KeyType.RSA:
        return _rsa(way, _digest(way, data))
    if kind == KeyType.EC:
        return Job(Mechanism.ECDSA, None, _digest(way, data), not way.raw)
    if kind == KeyType.EC_EDWARDS:
        return Job(Mechanism.EDDSA, None, _whole(data), ecdsa_der=False)
    if kind == KeyType.AES:
        return Job(Mechanism.AES_CMAC, None, _whole(data), ecdsa_der=False)
    if kind in (KeyType.GENERIC_SECRET, *_hmac_types()):
        return Job(_HMAC[way.hash], None, _whole(data), ecdsa_der=False)
    raise P11HostError("no way to sign with such a key is known here; name one with --mechanism")


def _rsa(way: Way, digest: bytes) -> Job:
    if way.pss:
        mechanism, mgf = _PSS[way.hash]
        return Job(Mechanism.RSA_PKCS_PSS, (mechanism, mgf, len(digest)), digest, ecdsa_der=False)
    info = algos.DigestInfo({"digest_algorithm": {"algorithm": way.hash}, "digest": digest})
    return Job(Mechanism.RSA_PKCS, None, info.dump(), ecdsa_der=False)


def _hmac_types() -> Iterator[KeyType]:
    return (kind for kind in KeyType if kind.name.endswith("_HMAC"))


def _named(name: str) -> Mechanism:
    bare = name.upper().removeprefix("CKM_")
    if bare not in Mechanism.__members__:
        near = nearest(bare, Mechanism.__members__)
        raise P11HostError(f"no mechanism is called '{printable(name)}'; {near or 'see: p11host show'}")
    return Mechanism[bare]


def _digest(way: Way, data: BinaryIO) -> bytes:
    digest = hashlib.new(way.hash, usedforsecurity=True)
    if way.prehashed:
        given = data.read(digest.digest_size + 1)
        if len(given) != digest.digest_size:
            raise P11HostError(f"--prehashed: a digest by {way.hash} has {digest.digest_size} bytes")
        return given
    while chunk := data.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()


def _whole(data: BinaryIO) -> bytes:
    whole = data.read(_WHOLE_MOST + 1)
    if len(whole) > _WHOLE_MOST:
        raise P11HostError(f"such a key must be given all data at once, here at most {_WHOLE_MOST >> 20} MiB")
    return whole


def written(job: Job, signature: bytes) -> bytes:
    """Return a signature as a file has it."""
    return encode_ecdsa_signature(signature) if job.ecdsa_der else signature


def as_token(job: Job, signature: bytes, key: pkcs11.Object) -> bytes:
    """Return a signature from a file as the token wants it; ValueError if it cannot be one."""
    if not job.ecdsa_der:
        return signature
    plain: bytes = decode_ecdsa_signature(signature)
    return _widened(plain, key)


def _widened(plain: bytes, key: pkcs11.Object) -> bytes:
    """Return r and s, each as long as the curve's order, of the two of equal length that DER gives."""
    from asn1crypto import keys  # noqa: PLC0415

    half = len(plain) // 2
    try:
        size = int(keys.ECDomainParameters.load(read(key, Attribute.EC_PARAMS)).key_size)
    except (ValueError, TypeError, KeyError):
        return plain
    return plain[:half].rjust(size, b"\0") + plain[half:].rjust(size, b"\0")
