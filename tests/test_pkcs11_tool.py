"""OpenSC's pkcs11-tool: every operation it has works on SoftHSM through p11host as it does directly."""

import hashlib
import subprocess
from pathlib import Path

import pytest
from reach import Reach, reached

from p11host.throwaway import Token

MESSAGE = b"signed, sealed, delivered\n"
IV = "000102030405060708090a0b0c0d0e0f"


@pytest.fixture
def message(work: Path) -> Path:
    """Return a file with something to sign."""
    path = work / "message"
    path.write_bytes(MESSAGE)
    return path


def openssl(*arguments: object) -> str:
    """Run the independent judge of signatures; it must succeed."""
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_key_pair(reach: Reach, kind: str, key_id: str) -> None:
    """Make a key pair on the token."""
    reach.user_tool("--keypairgen", "--key-type", kind, "--id", key_id, "--label", kind, "--usage-derive")


def make_aes_key(reach: Reach, key_id: str, *options: str) -> None:
    """Make an AES key on the token."""
    reach.user_tool("--keygen", "--key-type", "AES:32", "--id", key_id, "--label", "aes", *options)


def public_key(reach: Reach, key_id: str, work: Path) -> Path:
    """Return a file with the public key, as DER."""
    path = work / f"public-{key_id}.der"
    reach.tool("--read-object", "--type", "pubkey", "--id", key_id, "-o", path)
    return path


def test_token_is_listed(reach: Reach) -> None:
    """The token shows with its label, its serial number and its flags, and so does the free slot after it."""
    listed = reach.tool("--list-slots")

    assert f"token label        : {reach.token.label}" in listed
    assert "token manufacturer : SoftHSM project" in listed
    assert "token initialized, PIN initialized" in listed
    assert "token state:   uninitialized" in listed


def test_self_test_passes(reach: Reach) -> None:
    """`pkcs11-tool --test` finds no error on a token without keys."""
    said = reach.user_tool("--test")

    assert "No errors" in said


def test_self_test_with_keys_says_the_same(token: Token) -> None:
    """With keys `--test` meets what SoftHSM lacks, and says so in the same words, by the same status."""
    with reached("direct", token) as direct:
        make_key_pair(direct, "rsa:2048", "01")
        make_key_pair(direct, "EC:prime256v1", "02")
        make_aes_key(direct, "03")
        expected = direct.user_tool("--test", status=None)
    with reached("p11host", token) as ours:
        found = ours.user_tool("--test", status=None)

    assert "RSA-X-509: OK" in expected
    assert expected == found


def test_mechanisms_read_the_same(token: Token) -> None:
    """`--list-mechanisms` prints the same names, key sizes and flags in the same order."""
    with reached("direct", token) as direct:
        expected = direct.tool("--list-mechanisms")
    with reached("p11host", token) as ours:
        found = ours.tool("--list-mechanisms")

    assert "AES-CBC-PAD" in expected
    assert expected == found


def test_digest(reach: Reach, message: Path, work: Path) -> None:
    """A digest is the one that hashlib computes."""
    reach.tool("--hash", "-m", "SHA256", "-i", message, "-o", work / "digest")

    assert hashlib.sha256(MESSAGE).digest() == (work / "digest").read_bytes()


def test_random_bytes_have_the_length_asked_for(reach: Reach, work: Path) -> None:
    """Random bytes come in the number asked for."""
    reach.tool("--generate-random", "64", "-o", work / "random")

    assert 64 == (work / "random").stat().st_size
    assert bytes(64) != (work / "random").read_bytes()


@pytest.mark.parametrize("mechanism", ["SHA256-RSA-PKCS", "SHA512-RSA-PKCS", "SHA256-RSA-PKCS-PSS"])
def test_rsa_signature_verifies(reach: Reach, message: Path, work: Path, mechanism: str) -> None:
    """An RSA signature satisfies the token itself and OpenSSL, and does not after the message changed."""
    make_key_pair(reach, "rsa:2048", "01")
    signature = work / "signature"
    verify = ["--verify", "-m", mechanism, "--id", "01", "--signature-file", signature]

    reach.user_tool("--sign", "-m", mechanism, "--id", "01", "-i", message, "-o", signature)

    assert "Signature is valid" in reach.tool(*verify, "-i", message)
    check_rsa(mechanism, public_key(reach, "01", work), signature, message)
    message.write_bytes(MESSAGE + b".")
    assert "Signature is valid" not in reach.tool(*verify, "-i", message, status=None)


def check_rsa(mechanism: str, public: Path, signature: Path, message: Path) -> None:
    """Let OpenSSL verify an RSA signature."""
    digest = "-sha512" if "SHA512" in mechanism else "-sha256"
    pss = (
        ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"] if "PSS" in mechanism else []
    )
    key = ["-verify", public, "-keyform", "DER"]
    assert "Verified OK" in openssl("dgst", digest, *pss, *key, "-signature", signature, message)


def test_ecdsa_signature_verifies(reach: Reach, work: Path) -> None:
    """An ECDSA signature made on the token satisfies OpenSSL."""
    make_key_pair(reach, "EC:prime256v1", "02")
    digest, signature = work / "digest", work / "signature"
    digest.write_bytes(hashlib.sha256(MESSAGE).digest())

    sign = ["--sign", "-m", "ECDSA", "--id", "02", "--signature-format", "openssl"]
    reach.user_tool(*sign, "-i", digest, "-o", signature)

    key = ["-pubin", "-inkey", public_key(reach, "02", work), "-keyform", "DER"]
    said = openssl("pkeyutl", "-verify", *key, "-in", digest, "-sigfile", signature)
    assert "Signature Verified Successfully" in said


def test_aes_encrypts_and_decrypts(reach: Reach, message: Path, work: Path) -> None:
    """AES-CBC-PAD, a mechanism with an initialisation vector, gives back what went in."""
    make_aes_key(reach, "03")
    aes = ["-m", "AES-CBC-PAD", "--id", "03", "--iv", IV]

    reach.user_tool("--encrypt", *aes, "-i", message, "-o", work / "sealed")
    reach.user_tool("--decrypt", *aes, "-i", work / "sealed", "-o", work / "opened")

    assert 32 == (work / "sealed").stat().st_size
    assert MESSAGE == (work / "opened").read_bytes()


@pytest.mark.parametrize(
    ("mechanism", "padding"), [("RSA-PKCS", "pkcs1"), ("RSA-PKCS-OAEP", "oaep")], ids=["pkcs1", "oaep"]
)
def test_rsa_decrypts(reach: Reach, message: Path, work: Path, mechanism: str, padding: str) -> None:
    """What OpenSSL encrypts for the public key is decrypted on the token."""
    make_key_pair(reach, "rsa:2048", "01")
    key = ["-pubin", "-inkey", public_key(reach, "01", work), "-keyform", "DER"]
    options = ["-pkeyopt", f"rsa_padding_mode:{padding}"]
    openssl("pkeyutl", "-encrypt", *key, *options, "-in", message, "-out", work / "sealed")

    hashed = ["--hash-algorithm", "SHA-1"] if padding == "oaep" else []
    decrypt = ["--decrypt", "-m", mechanism, *hashed, "--id", "01"]
    reach.user_tool(*decrypt, "-i", work / "sealed", "-o", work / "opened")

    assert MESSAGE == (work / "opened").read_bytes()


def test_key_is_wrapped_and_unwrapped(reach: Reach, work: Path) -> None:
    """A key wrapped by an RSA key and unwrapped again has the same value."""
    make_key_pair(reach, "rsa:2048", "01")
    make_aes_key(reach, "05", "--extractable")
    wrapped = work / "wrapped"

    reach.user_tool("--wrap", "-m", "RSA-PKCS", "--id", "01", "--application-id", "05", "-o", wrapped)
    unwrap = ["--unwrap", "-m", "RSA-PKCS", "--id", "01", "-i", wrapped, "--key-type", "AES:"]
    reach.user_tool(*unwrap, "--application-id", "06", "--application-label", "again", "--extractable")

    values = [secret(reach, key_id, work) for key_id in ("05", "06")]
    assert 256 == wrapped.stat().st_size
    assert 32 == len(values[0])
    assert values[0] == values[1]


def secret(reach: Reach, key_id: str, work: Path) -> bytes:
    """Return the value of an extractable secret key."""
    path = work / f"secret-{key_id}"
    reach.user_tool("--read-object", "--type", "secrkey", "--id", key_id, "-o", path)
    return path.read_bytes()


def test_secret_is_derived(reach: Reach, work: Path) -> None:
    """ECDH on the token agrees with the same on OpenSSL's side."""
    make_key_pair(reach, "EC:prime256v1", "02")
    peer, peer_public = work / "peer.pem", work / "peer.der"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", peer)
    openssl("pkey", "-in", peer, "-pubout", "-outform", "DER", "-out", peer_public)

    reach.user_tool("--derive", "-m", "ECDH1-DERIVE", "--id", "02", "-i", peer_public, "-o", work / "ours")

    theirs = ["-inkey", peer, "-peerkey", public_key(reach, "02", work), "-peerform", "DER"]
    openssl("pkeyutl", "-derive", *theirs, "-out", work / "theirs")
    assert 32 == (work / "ours").stat().st_size
    assert (work / "theirs").read_bytes() == (work / "ours").read_bytes()


def test_objects_are_listed(reach: Reach) -> None:
    """Every kind of key shows with its attributes; what is private only after login."""
    make_key_pair(reach, "rsa:2048", "01")
    make_key_pair(reach, "EC:prime256v1", "02")
    make_aes_key(reach, "03")

    logged_in, public = reach.user_tool("--list-objects"), reach.tool("--list-objects")

    assert "Private Key Object; RSA" in logged_in
    assert "Access:     sensitive, always sensitive, never extractable, local" in logged_in
    assert "Secret Key Object; AES length 32" in logged_in
    assert "Public Key Object; EC  EC_POINT 256 bits" in public
    assert "Private Key Object" not in public


def test_data_object_is_stored(reach: Reach, message: Path) -> None:
    """A private data object is there for the user, who gets back its bytes, and for nobody else."""
    name = ["--type", "data", "--label", "letter"]

    reach.user_tool("--write-object", message, *name, "--application-label", "post", "--private")

    assert MESSAGE.decode() in reach.user_tool("--read-object", *name)
    assert "letter" not in reach.tool("--list-objects")


def test_large_data_object_is_stored(reach: Reach, work: Path) -> None:
    """A value of every byte there is, 4000 bytes long, comes back unchanged."""
    large = work / "large"
    large.write_bytes(bytes(i % 256 for i in range(4000)))
    reach.user_tool("--write-object", large, "--type", "data", "--label", "large")

    reach.user_tool("--read-object", "--type", "data", "--label", "large", "-o", work / "back")

    assert large.read_bytes() == (work / "back").read_bytes()


def test_object_is_deleted(reach: Reach) -> None:
    """A deleted key is gone, and its public half stays."""
    make_key_pair(reach, "rsa:2048", "01")

    reach.user_tool("--delete-object", "--type", "privkey", "--id", "01")

    assert "Private Key Object" not in reach.user_tool("--list-objects")
    assert "Public Key Object; RSA" in reach.tool("--list-objects")
    reach.user_tool("--delete-object", "--type", "privkey", "--id", "01", status=1)


def test_pin_changes(reach: Reach) -> None:
    """After a change of the PIN the new one opens the token and the old one does not."""
    reach.user_tool("--change-pin", "--new-pin", "222222")

    reach.tool("--login", "--pin", "222222", "--list-objects")
    reach.user_tool("--list-objects", status=1)


def test_wrong_pin_is_said_to_be_wrong(reach: Reach) -> None:
    """A wrong PIN comes back as CKR_PIN_INCORRECT."""
    with_pin = ["--module", reach.module, "--token-label", reach.token.label, "--login", "--pin", "000000"]

    done = reach.run("pkcs11-tool", *with_pin, "--list-objects", status=1)

    assert "CKR_PIN_INCORRECT" in done.stderr


def test_security_officer_sets_pins(reach: Reach) -> None:
    """The security officer changes the own PIN and gives the user a new one."""
    officer = ["--login", "--login-type", "so", "--so-pin"]

    reach.tool(*officer, reach.token.so_pin, "--change-pin", "--new-pin", "11112222")
    reach.tool(*officer, "11112222", "--init-pin", "--pin", "333333")

    reach.tool("--login", "--pin", "333333", "--list-objects")
    reach.tool(*officer, reach.token.so_pin, "--init-pin", "--pin", "444444", status=1)


def test_token_is_initialised(reach: Reach) -> None:
    """The free slot becomes a second token, and the first stays as it was."""
    slots = reach.run("pkcs11-tool", "--module", reach.module, "--list-slots").stdout
    free = (
        next(line for line in slots.splitlines() if line.startswith("Slot 1 (")).split("(")[1].split(")")[0]
    )

    module = ["--module", reach.module]
    reach.run(
        "pkcs11-tool", *module, "--slot", free, "--init-token", "--label", "second", "--so-pin", "77777777"
    )

    after = reach.run("pkcs11-tool", *module, "--list-slots").stdout
    assert "token label        : second" in after
    assert f"token label        : {reach.token.label}" in after
