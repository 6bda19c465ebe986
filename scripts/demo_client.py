"""The second application of the demo: python-pkcs11, which knows nothing of p11host but a library's path.

    python demo_client.py LIBRARY TOKEN_LABEL PIN

Stays, logged in, until its standard input ends.
"""

import sys
from hashlib import sha256

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.util.ec import encode_named_curve_parameters

DIGEST = sha256(b"signed by a provider that this process never loaded").digest()


def main(library: str, label: str, pin: str) -> None:
    """Make a key pair on the token, sign with it, verify the signature."""
    token = pkcs11.lib(library).get_token(token_label=label)
    print(f"token {token.label!r} of {token.manufacturer_id!r}, serial number {token.serial.decode()}")
    with token.open(user_pin=pin, rw=True) as session:
        curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        public, private = session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair()
        print("key pair: EC, P-256")
        signature = private.sign(DIGEST, mechanism=Mechanism.ECDSA)  # type: ignore[attr-defined]
        print(f"signature: {signature[:16].hex()}… ({len(signature)} bytes)")
        verified = public.verify(DIGEST, signature, mechanism=Mechanism.ECDSA)  # type: ignore[attr-defined]
        print(f"verified: {'yes' if verified else 'NO'}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
