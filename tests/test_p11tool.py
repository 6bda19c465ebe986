"""GnuTLS's p11tool: lists, generates, exports and signs through p11host as it does directly."""

from pathlib import Path

import pytest
from reach import Reach

URL = "pkcs11:token=throwaway"


def p11tool(reach: Reach, *arguments: object, status: int | None = 0) -> str:
    """Run p11tool, which takes the PIN from its environment; return all that it printed."""
    options = ["--batch", "--provider", reach.module]
    done = reach.run("p11tool", *options, *arguments, status=status, env={"GNUTLS_PIN": reach.token.pin})
    return done.stdout + done.stderr


def test_token_has_its_url(reach: Reach) -> None:
    """The token is listed with the URL by which everything else names it."""
    listed = p11tool(reach, "--list-token-urls")

    assert "model=SoftHSM%20v2" in listed
    assert "token=throwaway" in listed


@pytest.mark.parametrize(
    ("generate", "signed"),
    [
        (["--generate-ecc", "--curve", "secp256r1"], ["--hash", "sha256"]),
        (["--generate-rsa", "--bits", "2048"], ["--hash", "sha256"]),
        (["--generate-rsa", "--bits", "2048"], ["--sign-params", "RSA-PSS", "--hash", "sha256"]),
    ],
    ids=["ecdsa", "rsa", "rsa-pss"],
)
def test_generated_key_signs(reach: Reach, work: Path, generate: list[str], signed: list[str]) -> None:
    """A key made on the token signs, and p11tool verifies that by the private and by the public key."""
    url = f"{URL};object=mine;type=private"
    p11tool(reach, "--login", *generate, "--label", "mine", "--outfile", work / "made.pem", URL)

    p11tool(reach, "--login", "--export-pubkey", "--outfile", work / "exported.pem", url)
    said = p11tool(reach, "--login", "--test-sign", *signed, url)

    assert (work / "made.pem").read_bytes() == (work / "exported.pem").read_bytes()
    assert "Verifying against public key in the token... ok" in said


def test_all_objects_are_listed_and_deleted(reach: Reach) -> None:
    """What was generated is listed with its type, and not after it was deleted."""
    p11tool(reach, "--login", "--generate-rsa", "--bits", "2048", "--label", "gone", URL)
    before = p11tool(reach, "--login", "--list-all", URL)

    p11tool(reach, "--login", "--delete", f"{URL};object=gone")

    assert "Type: Private key (RSA-2048)" in before
    assert "Type: Public key (RSA-2048)" in before
    assert "No matching objects found" in p11tool(reach, "--login", "--list-all", URL, status=None)


def test_mechanisms_are_listed(reach: Reach) -> None:
    """Mechanisms are listed with their key sizes, those with parameters among them."""
    listed = p11tool(reach, "--list-mechanisms", URL)

    assert "CKM_AES_CBC_PAD keysize range (16, 32)" in listed
    assert "CKM_RSA_PKCS_PSS" in listed
