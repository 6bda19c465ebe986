"""The judge of what providers make: another implementation, which never saw the key.

Knows keys and signatures as attributes and operations of Cryptoki hold them.
"""

from collections.abc import Sequence

from asn1crypto.core import OctetString
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SHA256 = hashes.SHA256()
PSS = padding.PSS(padding.MGF1(SHA256), SHA256.digest_size)
PKCS1 = padding.PKCS1v15()


def ec_point(value: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a CKA_EC_POINT: an octet string in DER, or, as NSS once had it, the point."""
    point = value if len(value) == 65 else OctetString.load(value).native
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


def ec_signature_is_good(made: Sequence[bytes], data: bytes) -> bool:
    """Tell whether CKA_EC_POINT and an ECDSA signature, r and s side by side, belong to SHA-256 of `data`."""
    point, signature = made
    half = len(signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
    try:
        ec_point(point).verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256))
    except InvalidSignature:
        return False
    return True


def rsa_public_key(modulus: bytes, exponent: bytes) -> rsa.RSAPublicKey:
    """Return the key of CKA_MODULUS and CKA_PUBLIC_EXPONENT."""
    numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
    return numbers.public_key()


def rsa_signature_is_good(made: Sequence[bytes], data: bytes, how: padding.AsymmetricPadding = PKCS1) -> bool:
    """Tell whether CKA_MODULUS, CKA_PUBLIC_EXPONENT and a signature belong to SHA-256 of `data`."""
    modulus, exponent, signature = made
    try:
        rsa_public_key(modulus, exponent).verify(signature, data, how, SHA256)
    except InvalidSignature:
        return False
    return True


def gcm_opened(key: bytes, iv: bytes, text: bytes, tag: bytes, aad: bytes) -> bytes:
    """Return the plaintext of AES-GCM; it is an error if the tag is not that of the text."""
    return AESGCM(key).decrypt(iv, text + tag, aad)
