"""Attributes, and the session objects that runs of random calls begin with: the same keys for every way."""

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptoki import constant

ULONG_BYTES = 8
CURVE = bytes.fromhex("06082a8648ce3d030107")  # P-256


def ulong(value: int) -> bytes:
    """Return a CK_ULONG as an attribute holds it."""
    return value.to_bytes(ULONG_BYTES, "little")


def integer(value: int) -> bytes:
    """Return a big integer as an attribute holds it."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def template(**values: str | int | bool | bytes) -> list[list[Any]]:
    """Return a template: `CLASS="CKO_DATA"` is the attribute CKA_CLASS with that constant."""
    return [[constant(f"CKA_{name}"), encode(value)] for name, value in values.items()]


def encode(value: str | int | bool | bytes) -> bytes:  # noqa: FBT001 (a value)
    """Return the bytes of an attribute's value."""
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, bytes):
        return value
    return ulong(constant(value) if isinstance(value, str) else value)


def objects() -> Mapping[str, list[list[Any]]]:
    """Return the templates of session objects of every kind, with keys that are the same for every way."""
    aes = template(CLASS="CKO_SECRET_KEY", KEY_TYPE="CKK_AES", VALUE=bytes(range(16)), SENSITIVE=False)
    hmac = template(CLASS="CKO_SECRET_KEY", KEY_TYPE="CKK_GENERIC_SECRET", VALUE=bytes(32), SENSITIVE=False)
    uses = template(ENCRYPT=True, DECRYPT=True, SIGN=True, VERIFY=True, WRAP=True, UNWRAP=True, DERIVE=True)
    uses += template(EXTRACTABLE=True)
    data = template(CLASS="CKO_DATA", LABEL=b"letter", APPLICATION=b"post", VALUE=bytes(range(256)) * 8)
    pairs = {**_rsa_pair(), **_ec_pair()}
    return {"aes": aes + uses, "hmac": hmac + uses, "data": data, **pairs}


def _rsa_pair() -> dict[str, list[list[Any]]]:
    key = rsa.generate_private_key(65537, 2048).private_numbers()
    public = {
        "MODULUS": integer(key.public_numbers.n),
        "PUBLIC_EXPONENT": integer(key.public_numbers.e),
    }
    secret = {
        "PRIVATE_EXPONENT": integer(key.d),
        "PRIME_1": integer(key.p),
        "PRIME_2": integer(key.q),
        "EXPONENT_1": integer(key.dmp1),
        "EXPONENT_2": integer(key.dmq1),
        "COEFFICIENT": integer(key.iqmp),
    }
    return {
        "rsa": template(
            CLASS="CKO_PRIVATE_KEY", KEY_TYPE="CKK_RSA", SIGN=True, DECRYPT=True, **public, **secret
        ),
        "rsa public": template(
            CLASS="CKO_PUBLIC_KEY", KEY_TYPE="CKK_RSA", VERIFY=True, ENCRYPT=True, **public
        ),
    }


def _ec_pair() -> dict[str, list[list[Any]]]:
    key = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    point = b"\x04\x41\x04" + b"".join(
        n.to_bytes(32, "big") for n in (key.public_numbers.x, key.public_numbers.y)
    )
    secret = template(CLASS="CKO_PRIVATE_KEY", KEY_TYPE="CKK_EC", SIGN=True, DERIVE=True, EC_PARAMS=CURVE)
    public = template(CLASS="CKO_PUBLIC_KEY", KEY_TYPE="CKK_EC", VERIFY=True, EC_PARAMS=CURVE, EC_POINT=point)
    return {"ec": secret + template(VALUE=key.private_value.to_bytes(32, "big")), "ec public": public}


OBJECTS = objects()
POINT = dict(OBJECTS["ec public"])[constant("CKA_EC_POINT")][2:]
WRAPPED = aes_key_wrap(dict(OBJECTS["aes"])[constant("CKA_VALUE")], bytes(16))
