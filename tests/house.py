"""A house: all kinds of provider on one machine, good ones and hostile ones, for programs to live in.

Two SoftHSM tokens, NSS's database and a PIV card are good; the mirror says whatever it is asked; the hostile
provider is there three times: as one that crashes, one that hangs and one that lies. Each SoftHSM token has
an RSA and an EC key, with certificates of the house's own authority. Knows what is there. Must not know any
program but those that make tokens.
"""

import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import test_nss as nss
import test_opensc as opensc
from brokers import module
from cards.piv import Piv, Stranger
from cards.vpcd import readers
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from life import Workshop
from reach import Reach

from p11host import shim_path
from p11host.throwaway import Token, add_token, make_token

PATIENCE = 60
PAUSE = 0.02
#: The SoftHSM tokens; what each of them has, by label and id.
LABELS = ("mine", "archive")
KEYS = {"rsa": ("rsa:2048", "01"), "ec": ("EC:prime256v1", "02")}
#: What the card calls itself.
CARD = "key 9A"

#: How the hostile provider harms; what hangs is waited for that many milliseconds.
HOSTILE = {
    "crasher": "segv call C_OpenSession",
    "hanger": "sleep call C_GetTokenInfo",
    "liar": "zero lie C_FindObjects",
}
WAITED = 400


class Authority:
    """A small authority, whose certificates are good for servers and clients on this machine."""

    def __init__(self) -> None:
        """Make its key and its own certificate."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("the house's authority")
        made = self._builder(self._name, self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = made.sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def certify(self, public: bytes, name: str) -> bytes:
        """Return a certificate over a public key, both as DER."""
        key: Any = serialization.load_der_public_key(public)
        made = self._builder(_named(name), key)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def _builder(self, subject: x509.Name, public: Any) -> x509.CertificateBuilder:
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.serial_number(x509.random_serial_number()).public_key(public)
        return builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=30))


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@dataclass(frozen=True)
class House:
    """The house: its tokens as reached through p11host among all others, and directly, alone."""

    directory: Path
    merged: Reach
    alone: Reach
    log: Path
    config: Path

    @property
    def authority(self) -> Path:
        """The certificate that all others follow from, as PEM."""
        return self.directory / "authority.pem"

    @property
    def database(self) -> Path:
        """The directory of NSS's database."""
        return self.directory / "nss"

    def certificate(self, label: str, key: str) -> Path:
        """Return the certificate of a key of a SoftHSM token, as PEM."""
        return self.directory / f"{label}-{key}.pem"

    def public(self, label: str, key: str) -> str:
        """Return the public half of a key, as OpenSSH writes it."""
        found = x509.load_pem_x509_certificate(self.certificate(label, key).read_bytes()).public_key()
        form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        return found.public_bytes(*form).decode() + "\n"

    def has_signed(self, label: str, key: str, data: bytes, signature: bytes) -> bool:
        """Tell whether the key with that certificate has signed SHA-256 of the data, with PKCS#1 or ECDSA."""
        public = x509.load_pem_x509_certificate(self.certificate(label, key).read_bytes()).public_key()
        try:
            if isinstance(public, rsa.RSAPublicKey):
                public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            elif isinstance(public, ec.EllipticCurvePublicKey):
                public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def events(self, name: str, **fields: object) -> list[Mapping[str, Any]]:
        """Return the events of that name and with these fields that the broker has logged."""
        found = [json.loads(line) for line in self.log.read_text().split("\n")[:-1] if line.startswith("{")]
        return [each for each in found if each["event"] == name and fields.items() <= each.items()]


@contextmanager
def house(directory: Path, workshop: Workshop) -> Iterator[House]:
    """Furnish a house; its broker and its cards end with the `with`."""
    soft = directory / "soft"
    soft.mkdir()
    token = make_token(soft, LABELS[0])
    add_token(token, LABELS[1])
    furnish(directory, token)
    make_database(directory / "nss")
    conf = directory / "opensc.conf"
    conf.write_text(opensc.CONF)
    with readers(directory, [Piv(opensc.PIN), Stranger()]) as where:
        card = {**where, "OPENSC_CONF": str(conf)}
        config = directory / "p11host.toml"
        config.write_text("\n".join(modules(directory, workshop, token, card)))
        log = directory / "broker.log"
        with broker(config, directory / "broker.sock", log) as env:
            merged = Reach("merged", shim_path(), env, token)
            yield House(directory, merged, Reach("alone", token.provider, token.env, token), log, config)


def modules(directory: Path, workshop: Workshop, token: Token, card: Mapping[str, str]) -> Iterator[str]:
    """Return the tables of all modules: the bad ones come first, so that programs meet them."""
    hostile = workshop.provider("hostile")
    for name, how in HOSTILE.items():
        yield module(name, hostile, env={"HOSTILE": how}, deadlines={"short": WAITED})
    yield module("mirror", workshop.provider("mirror"))
    yield module("opensc", opensc.LIBRARY, env=dict(card))
    yield module("nss", nss.LIBRARY, reserved=nss.RESERVED.format(directory / "nss"))
    yield module("softhsm", token.provider, env=dict(token.env))


@contextmanager
def broker(config: Path, socket: Path, log: Path) -> Iterator[dict[str, str]]:
    """Run a broker that logs into a file; yield the environment in which it is found."""
    words = ["--log-format", "json", "--config", str(config), "--socket", str(socket)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "p11host", "serve", *words],
            stdin=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        await_true(lambda: "broker.listening" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield {"P11HOST_SOCKET": str(socket), "P11HOST_NO_START": "1"}
    finally:
        process.terminate()
        process.wait(PATIENCE)


def await_true(ask: Callable[[], object]) -> None:
    """Return once what is asked is so."""
    end = time.monotonic() + PATIENCE
    while not ask():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(PAUSE)


# ---- tokens ----


def furnish(directory: Path, token: Token) -> None:
    """Make the keys of the SoftHSM tokens, and certificates over them."""
    authority = Authority()
    (directory / "authority.pem").write_bytes(authority.pem)
    public, certificate = directory / "public.der", directory / "certificate.der"
    for label in LABELS:
        reach = Reach("alone", token.provider, token.env, Token(token.directory, token.provider, label))
        for name, (kind, number) in KEYS.items():
            named = ["--id", number, "--label", name]
            reach.user_tool("--keypairgen", "--key-type", kind, *named)
            reach.tool("--read-object", "--type", "pubkey", "--id", number, "-o", public)
            made = authority.certify(public.read_bytes(), f"{label} {name}")
            certificate.write_bytes(made)
            reach.user_tool("--write-object", certificate, "--type", "cert", *named)
            pem = x509.load_der_x509_certificate(made).public_bytes(serialization.Encoding.PEM)
            (directory / f"{label}-{name}.pem").write_bytes(pem)


def make_database(directory: Path) -> None:
    """Make NSS's database, with a PIN."""
    directory.mkdir()
    pin = directory.with_suffix(".pin")
    pin.write_bytes(nss.PIN + b"\n")
    subprocess.run(["certutil", "-N", "-d", f"sql:{directory}", "-f", pin], check=True, timeout=PATIENCE)
