"""Making keys: what a person calls a kind of key, and what the token is told.

Knows names of kinds, curves and uses. Must not know where a key's name comes from.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pkcs11
from asn1crypto import keys
from pkcs11 import Attribute, KeyType, MechanismFlag
from pkcs11.mechanisms import MLDSAParameterSet, MLKEMParameterSet
from pkcs11.util.ec import encode_named_curve_parameters

from p11host.errors import P11HostError
from p11host.text import nearest, printable

ID_BYTES = 16
_CURVES: Mapping[str, str] = {
    "p256": "secp256r1",
    "p384": "secp384r1",
    "p521": "secp521r1",
    "prime256v1": "secp256r1",
}
_EDWARDS: Mapping[str, str] = {"ed25519": "1.3.101.112", "ed448": "1.3.101.113"}
#: How many bits a kind of key has, if nothing is said of it.
_BITS: Mapping[str, int] = {"rsa": 3072, "aes": 256, "generic": 256}
_RSA_BITS = range(512, 16385, 8)
_AES_BITS = (128, 192, 256)
_GENERIC_BITS = range(8, 4097, 8)

#: Kinds whose keys are of one of a few parameter sets, by the number in its name; the first is usual.
_SETS: Mapping[str, tuple[KeyType, Mapping[str, int]]] = {
    "ml-dsa": (
        KeyType.ML_DSA,
        {
            "65": MLDSAParameterSet.ML_DSA_65,
            "44": MLDSAParameterSet.ML_DSA_44,
            "87": MLDSAParameterSet.ML_DSA_87,
        },
    ),
    "ml-kem": (
        KeyType.ML_KEM,
        {
            "768": MLKEMParameterSet.ML_KEM_768,
            "512": MLKEMParameterSet.ML_KEM_512,
            "1024": MLKEMParameterSet.ML_KEM_1024,
        },
    ),
}

USES: Mapping[str, MechanismFlag] = {
    "sign": MechanismFlag.SIGN | MechanismFlag.VERIFY,
    "encrypt": MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
    "wrap": MechanismFlag.WRAP | MechanismFlag.UNWRAP,
    "derive": MechanismFlag.DERIVE,
}


@dataclass(frozen=True, slots=True)
class Spec:
    """A kind of key: with `bits`, with the `params` of a curve, or with the number of a parameter set."""

    kind: KeyType
    bits: int | None = None
    params: bytes | None = None
    parameter_set: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What a key shall be called, and what may be done with it; no uses: what is usual for its kind."""

    label: str
    id: bytes
    uses: Sequence[str] = ()
    extractable: bool = False


def parse(text: str) -> Spec:
    """Return the kind of key that `text` is: rsa, ec, ed25519, …, some with `:DETAIL`."""
    kind, colon, detail = text.lower().partition(":")
    if kind == "ec":
        return Spec(KeyType.EC, params=_curve(detail or "secp256r1"))
    if kind in _EDWARDS and not colon:
        return Spec(KeyType.EC_EDWARDS, params=encode_named_curve_parameters(_EDWARDS[kind]))
    if kind in _SETS:
        return _of_set(kind, detail)
    if kind not in _BITS:
        known = ["rsa", "ec", *_EDWARDS, *_SETS, "aes", "generic"]
        remedy = nearest(kind, known) or f"there are {', '.join(known)}"
        raise P11HostError(f"no kind of key is called '{printable(text)}'; {remedy}")
    return _sized(kind, detail)


def _sized(kind: str, detail: str) -> Spec:
    allowed: Mapping[str, tuple[KeyType, Sequence[int], str]] = {
        "rsa": (KeyType.RSA, _RSA_BITS, "512 to 16384, by 8"),
        "aes": (KeyType.AES, _AES_BITS, "128, 192 or 256"),
        "generic": (KeyType.GENERIC_SECRET, _GENERIC_BITS, "8 to 4096, by 8"),
    }
    key_type, sizes, words = allowed[kind]
    bits = int(detail) if detail.isdecimal() and len(detail) < 6 else _BITS[kind] if not detail else 0
    if bits not in sizes:
        raise P11HostError(f"{kind}:{printable(detail)}: a length is in bits, {words}")
    return Spec(key_type, bits)


def _of_set(kind: str, detail: str) -> Spec:
    key_type, sets = _SETS[kind]
    number = sets.get(detail or next(iter(sets)))
    if number is None:
        raise P11HostError(
            f"{kind}:{printable(detail)}: there are {kind}:{f', {kind}:'.join(sorted(sets, key=int))}"
        )
    return Spec(key_type, parameter_set=number)


def _curve(name: str) -> bytes:
    try:
        return encode_named_curve_parameters(keys.NamedCurve.unmap(_CURVES.get(name, name)))
    except ValueError:
        known = [*_CURVES, "secp256r1", "secp384r1", "secp521r1", "secp256k1", "brainpoolp256r1"]
        raise P11HostError(
            f"no curve is called '{printable(name)}'; {nearest(name, known) or 'try secp256r1'}"
        ) from None


def new_id() -> bytes:
    """Return an id that no other key has."""
    return os.urandom(ID_BYTES)


def make(session: pkcs11.Session, spec: Spec, wish: Wish) -> Sequence[pkcs11.Object]:
    """Make a key, or a pair of them, on the token: the public one first."""
    common: dict[str, Any] = {"label": wish.label, "id": wish.id, "store": True}
    if wish.uses:
        common["capabilities"] = _capabilities(wish.uses)
    elif spec.kind is KeyType.GENERIC_SECRET:
        common["capabilities"] = USES["sign"] | USES["derive"]
    hidden = {Attribute.EXTRACTABLE: wish.extractable, Attribute.SENSITIVE: not wish.extractable}
    return _MAKERS.get(spec.kind, _make_curve)(session, spec, common, hidden)


def _capabilities(uses: Sequence[str]) -> MechanismFlag:
    flags = MechanismFlag(0)
    for use in uses:
        flags |= USES[use]
    return flags


_Maker = Callable[[pkcs11.Session, Spec, dict[str, Any], dict[Attribute, Any]], Sequence[pkcs11.Object]]


def _make_rsa(
    session: pkcs11.Session, spec: Spec, common: dict[str, Any], hidden: dict[Attribute, Any]
) -> Sequence[pkcs11.Object]:
    return session.generate_keypair(KeyType.RSA, spec.bits, private_template=hidden, **common)


def _make_curve(
    session: pkcs11.Session, spec: Spec, common: dict[str, Any], hidden: dict[Attribute, Any]
) -> Sequence[pkcs11.Object]:
    curve = session.create_domain_parameters(spec.kind, {Attribute.EC_PARAMS: spec.params}, local=True)
    return curve.generate_keypair(private_template=hidden, **common)


def _make_of_set(
    session: pkcs11.Session, spec: Spec, common: dict[str, Any], hidden: dict[Attribute, Any]
) -> Sequence[pkcs11.Object]:
    chosen = {Attribute.PARAMETER_SET: spec.parameter_set}
    return session.generate_keypair(spec.kind, public_template=chosen, private_template=hidden, **common)


def _make_secret(
    session: pkcs11.Session, spec: Spec, common: dict[str, Any], hidden: dict[Attribute, Any]
) -> Sequence[pkcs11.Object]:
    return [session.generate_key(spec.kind, spec.bits, template=hidden, **common)]


_MAKERS: Mapping[KeyType, _Maker] = {
    KeyType.RSA: _make_rsa,
    KeyType.ML_DSA: _make_of_set,
    KeyType.ML_KEM: _make_of_set,
    KeyType.AES: _make_secret,
    KeyType.GENERIC_SECRET: _make_secret,
}
