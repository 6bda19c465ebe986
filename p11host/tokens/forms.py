"""Certificates and keys as files have them, and as tokens do: PEM or DER here, attributes there.

Knows X.509, SubjectPublicKeyInfo, PKCS#1, PKCS#8, SEC 1, and the attributes of the standard's objects. Checks
no signature.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pkcs11
from asn1crypto import core, keys, pem, x509
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.util.rsa import decode_rsa_private_key, decode_rsa_public_key
from pkcs11.util.x509 import decode_x509_certificate

from p11host.errors import P11HostError
from p11host.tokens.find import read
from p11host.uri import Kind

Attributes = dict[Attribute, Any]

_EDWARDS = {"ed25519": "1.3.101.112", "ed448": "1.3.101.113"}
#: What asn1crypto raises on bytes that are something else.
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Form:
    """An object as a file has it: its attributes, what it calls itself, its public key if it tells that."""

    kind: Kind
    attributes: Attributes
    name: str
    public: Attributes

    def default_id(self) -> bytes | None:
        """Return an id after the public key: the same for a certificate, a public and a private key."""
        return key_id(self.public)


def key_id(public: Mapping[Attribute, Any]) -> bytes | None:
    """Return the SHA-1 of what a public key is known by; many programs make an id of it."""
    known = public.get(Attribute.MODULUS) or public.get(Attribute.EC_POINT)
    return hashlib.sha1(known, usedforsecurity=False).digest() if known else None


def parse(data: bytes, name: str) -> Sequence[Form]:
    """Return the objects in a file: one in DER, or each in PEM; P11HostError if it has none."""
    if not pem.detect(data):
        return [_parse_der(data, name)]
    try:
        blocks = list(pem.unarmor(data, multiple=True))
    except ValueError as error:
        raise P11HostError(f"{name}: broken PEM: {error}") from error
    encrypted = any("ENCRYPTED" in label or "DEK-Info" in headers for label, headers, _ in blocks)
    if encrypted:
        raise P11HostError(f"{name}: the key is encrypted; decrypt it first with: openssl pkcs8 -in {name}")
    return [_parse_der(block, name) for label, _, block in blocks if label != "EC PARAMETERS"]


def _parse_der(data: bytes, name: str) -> Form:
    for reader in (_certificate, _public_info, _private_info, _rsa_private, _ec_private, _rsa_public):
        try:
            return reader(data)
        except _BROKEN:
            continue
    raise P11HostError(
        f"{name}: no X.509 certificate, public key or unencrypted private key (PKCS#8, PKCS#1, SEC 1) "
        "in PEM or DER"
    )


def _certificate(data: bytes) -> Form:
    parsed = x509.Certificate.load(data, strict=True)
    attributes = decode_x509_certificate(parsed.dump())
    try:
        public = _public_info(parsed.public_key.dump()).attributes
    except _BROKEN:
        public = {}
    common = parsed.subject.native.get("common_name")
    return Form("cert", attributes, common if isinstance(common, str) else "", public)


def _public_info(data: bytes) -> Form:
    info = keys.PublicKeyInfo.load(data, strict=True)
    if info.algorithm == "rsa":
        return _rsa_public(info["public_key"].parsed.dump())
    if info.algorithm == "ec":
        params, point = info["algorithm"]["parameters"].dump(), bytes(info["public_key"])
    else:
        params, point = _edwards_params(info.algorithm), info["public_key"].native
    kind = KeyType.EC if info.algorithm == "ec" else KeyType.EC_EDWARDS
    return _public(_ec(kind, params, point))


def _rsa_public(data: bytes) -> Form:
    parsed = keys.RSAPublicKey.load(data, strict=True)
    return _public(decode_rsa_public_key(parsed.dump(force=True)))


def _public(attributes: Attributes) -> Form:
    attributes = attributes | {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.VERIFY: True}
    return Form("public", attributes, "", attributes)


def _ec(kind: KeyType, params: bytes, point: bytes) -> Attributes:
    return {
        Attribute.KEY_TYPE: kind,
        Attribute.EC_PARAMS: params,
        Attribute.EC_POINT: core.OctetString(point).dump(),
    }


def _private_info(data: bytes) -> Form:
    info = keys.PrivateKeyInfo.load(data, strict=True)
    algorithm = info["private_key_algorithm"]["algorithm"].native
    inner = info["private_key"].parsed
    if algorithm == "rsa":
        return _rsa_private(inner.dump())
    if algorithm == "ec":
        return _private_ec(inner, info["private_key_algorithm"]["parameters"].dump())
    params, value = _edwards_params(algorithm), bytes(inner)
    attributes = {
        Attribute.KEY_TYPE: KeyType.EC_EDWARDS,
        Attribute.EC_PARAMS: params,
        Attribute.VALUE: value,
    }
    return _private(attributes, {})


def _rsa_private(data: bytes) -> Form:
    parsed = keys.RSAPrivateKey.load(data, strict=True)
    attributes = decode_rsa_private_key(parsed.dump(force=True))
    return _private(attributes, {Attribute.MODULUS: attributes[Attribute.MODULUS]})


def _ec_private(data: bytes) -> Form:
    parsed = keys.ECPrivateKey.load(data, strict=True)
    return _private_ec(parsed, parsed["parameters"].chosen.dump())


def _private_ec(parsed: keys.ECPrivateKey, params: bytes) -> Form:
    attributes = {
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.EC_PARAMS: params,
        Attribute.VALUE: parsed["private_key"].contents,
    }
    point = parsed["public_key"].native
    return _private(attributes, {Attribute.EC_POINT: core.OctetString(point).dump()} if point else {})


def _private(attributes: Attributes, public: Attributes) -> Form:
    rights = {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.SIGN: True,
    }
    return Form("private", attributes | rights, "", public)


def _edwards_params(algorithm: str) -> bytes:
    """Return CKA_EC_PARAMS of an Edwards curve, by its object identifier; KeyError for any other."""
    return bytes(core.ObjectIdentifier(_EDWARDS[algorithm]).dump())


def armored(label: str, data: bytes) -> bytes:
    """Return DER as PEM."""
    return bytes(pem.armor(label, data))


def public_info(found: pkcs11.Object) -> bytes:
    """Return a public key, or that which a private key tells, as SubjectPublicKeyInfo in DER."""
    if (modulus := read(found, Attribute.MODULUS)) and (exponent := read(found, Attribute.PUBLIC_EXPONENT)):
        rsa = keys.RSAPublicKey({"modulus": _number(modulus), "public_exponent": _number(exponent)})
        return bytes(keys.PublicKeyInfo.wrap(rsa, "rsa").dump())
    params, point = read(found, Attribute.EC_PARAMS), read(found, Attribute.EC_POINT)
    if not isinstance(params, bytes) or not isinstance(point, bytes):
        raise P11HostError(
            "the token does not tell the public key of this object; try its public key or certificate"
        )
    return _ec_info(params, _point(point))


def _ec_info(params: bytes, point: bytes) -> bytes:
    algorithm: dict[str, object] = {"algorithm": "ec", "parameters": keys.ECDomainParameters.load(params)}
    if edwards := _edwards_name(params):
        algorithm = {"algorithm": edwards}  # RFC 8410, section 3: it has no parameters
    return bytes(keys.PublicKeyInfo({"algorithm": algorithm, "public_key": point}).dump())


def _edwards_name(params: bytes) -> str | None:
    for name, oid in _EDWARDS.items():
        curve = core.PrintableString(f"edwards{name.removeprefix('ed')}").dump()
        if params in (core.ObjectIdentifier(oid).dump(), curve):
            return name
    return None


def _point(value: bytes) -> bytes:
    """Return a point without the OCTET STRING around it, which some tokens leave out."""
    try:
        return bytes(core.OctetString.load(value, strict=True))
    except _BROKEN:
        return value


def private_info(found: pkcs11.Object) -> bytes:
    """Return a private key as PKCS#8 in DER; PKCS11Error if the token does not give it up."""
    makers: Mapping[object, Callable[[pkcs11.Object], bytes]] = {
        KeyType.RSA: _rsa_info,
        KeyType.EC: _ec_private_info,
    }
    kind = read(found, Attribute.KEY_TYPE)
    if kind not in makers:
        raise P11HostError("only RSA and EC keys are written as PKCS#8")
    return makers[kind](found)


def _rsa_info(found: pkcs11.Object) -> bytes:
    names = {
        "modulus": Attribute.MODULUS,
        "public_exponent": Attribute.PUBLIC_EXPONENT,
        "private_exponent": Attribute.PRIVATE_EXPONENT,
        "prime1": Attribute.PRIME_1,
        "prime2": Attribute.PRIME_2,
        "exponent1": Attribute.EXPONENT_1,
        "exponent2": Attribute.EXPONENT_2,
        "coefficient": Attribute.COEFFICIENT,
    }
    parts: dict[str, object] = {name: _number(found[attribute]) for name, attribute in names.items()}
    key = keys.RSAPrivateKey({"version": "two-prime"} | parts)
    return bytes(keys.PrivateKeyInfo.wrap(key, "rsa").dump())


def _ec_private_info(found: pkcs11.Object) -> bytes:
    params = keys.ECDomainParameters.load(found[Attribute.EC_PARAMS])
    value = _number(found[Attribute.VALUE])
    key = keys.ECPrivateKey({"version": "ecPrivkeyVer1", "private_key": value, "parameters": params})
    key["private_key"].set_encoded_width(params.key_size)
    return bytes(keys.PrivateKeyInfo.wrap(key, "ec").dump())


def _number(value: object) -> int:
    return int.from_bytes(value if isinstance(value, bytes) else b"", "big")
