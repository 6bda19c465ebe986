"""What is made of slots, names and certificates."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asn1crypto import algos, keys, x509
from brokers import Broker, Starter, module
from life import Hosting, Workshop

from p11host.enroll import derive_name
from p11host.errors import P11HostError
from p11host.inventory import certificate, owners
from p11host.probe import Probe, probe

pytest_plugins = ["broker_fixtures", "life_fixtures"]

EARLY = datetime(2020, 1, 2, tzinfo=UTC)
LATE = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)


def x509_certificate() -> bytes:
    """Return a certificate in DER; its signature is nobody's."""
    name = x509.Name.build({"common_name": "Ada", "organization_name": "Engines"})
    algorithm = algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"})
    point = keys.ECPointBitString(b"\x04" + bytes(64))
    curve = keys.ECDomainParameters(name="named", value="secp256r1")
    body = x509.TbsCertificate(
        {
            "serial_number": 7,
            "signature": algorithm,
            "issuer": name,
            "validity": {
                "not_before": x509.Time({"utc_time": EARLY}),
                "not_after": x509.Time({"utc_time": LATE}),
            },
            "subject": name,
            "subject_public_key_info": {
                "algorithm": {"algorithm": "ec", "parameters": curve},
                "public_key": point,
            },
        }
    )
    whole = x509.Certificate(
        {"tbs_certificate": body, "signature_algorithm": algorithm, "signature_value": b"\0"}
    )
    data: bytes = whole.dump()
    return data


class TestCertificate:
    """A certificate is shown with its subject and expiry."""

    def test_x509(self) -> None:
        """What a person wants to know of it is found."""
        found = certificate(x509_certificate())

        assert "Common Name: Ada, Organization: Engines" == found.subject == found.issuer
        assert (EARLY, LATE) == (found.not_before, found.not_after)

    @pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x00", b"junk", x509_certificate()[:-5]])
    def test_no_certificate(self, data: bytes) -> None:
        """Bytes that are none are an error that the listing shows."""
        with pytest.raises((ValueError, TypeError)):
            certificate(data)


class TestOwners:
    """Whose slot a slot of the shim is."""

    PROBES = (
        Probe("a", None, None, ("x", "y")),
        Probe("bad", "no", None, ()),
        Probe("b", None, None, ("x",)),
    )

    def test_in_order(self) -> None:
        """Slots are those of the modules, one module after the other."""
        assert ["a", "a", "b"] == list(owners(self.PROBES, ["x", "y", "x"]))

    def test_one_has_gone(self) -> None:
        """A slot that went meanwhile takes nobody else's place."""
        assert ["a", "b"] == list(owners(self.PROBES, ["y", "x"]))

    def test_one_has_come(self) -> None:
        """A slot that nobody had before is nobody's."""
        assert ["a", None, "a", "b"] == list(owners(self.PROBES, ["x", "new", "y", "x"]))


class TestProbe:
    """What a module says for itself, in plain MessagePack-RPC."""

    def test_a_helper(self, broker: Broker) -> None:
        """A provider's names and slots are read from its helper."""
        found = probe(broker.attach()[0])

        assert ("one", None) == (found.name, found.error)
        assert found.library is not None
        assert (True, True) == (bool(found.library.cryptoki), bool(found.slots))

    def test_no_helper(self, starter: Starter, tmp_path: Path, provider: Path, fake_program: Path) -> None:
        """A module without a helper, or with one that fails, has an error in a line."""
        config = module("none", tmp_path / "none.so") + module("ill", provider, env={"FAKE_ERROR": "no card"})
        config += module("dead", provider, env={"FAKE_EXIT": "1"})
        found = [probe(each) for each in starter.start(config, helper=fake_program).attach()]

        assert ["none", "ill", "dead"] == [each.name for each in found]
        assert "no such file" in str(found[0].error)
        assert "no card" == found[1].error
        assert found[2].error in {"nobody is behind the door", "the peer closed the channel"}


def test_objects_of_unknown_classes(hosting: Hosting, mirror: Path) -> None:
    """A provider whose objects are of no class that anybody knows is listed all the same, and it is said."""
    command = Path(sys.executable).with_name("p11host")
    listed = hosting(module("mirror", mirror)).run(command, "list", "--json")

    tokens = [slot["token"] for slot in json.loads(listed)["modules"][0]["slots"] if slot["token"]]
    assert any("unknown here" in (token["error"] or "") for token in tokens)


def test_a_search_that_fails(hosting: Hosting, workshop: Workshop) -> None:
    """A helper that dies in a search is an error in a line, and nothing of python-pkcs11's own."""
    hostile = workshop.provider("hostile")
    host = hosting(module("bad", hostile, env={"HOSTILE": "segv call C_FindObjectsInit"}))
    command = Path(sys.executable).with_name("p11host")
    listed = host.run(command, "list")
    shown = host.run(command, "show", "pkcs11:type=cert", status=1)

    assert "\n    error: CKR_DEVICE_REMOVED: " in listed
    assert "Traceback" not in listed
    assert 1 == len(shown.splitlines())


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("libsofthsm2.so", "softhsm2"),
        ("opensc-pkcs11.so", "opensc"),
        ("libtpm2_pkcs11.so.1", "tpm2"),
        ("libykcs11.so.2.3.0", "ykcs11"),
        ("p11-kit-client.so", "p11-kit-client"),
        ("libCryptoki2_64.so", "cryptoki2_64"),
        ("Vendor PKCS11 (x).so", "vendor-pkcs11-x"),
        ("pkcs11.so", "pkcs11"),
    ],
)
def test_a_name_after_the_file(file: str, name: str) -> None:
    """A module is called as people call the provider."""
    assert name == derive_name(Path("/usr/lib") / file)


@pytest.mark.parametrize("file", ["lib.so", "---.so", f"{'x' * 65}.so"])
def test_no_name_after_the_file(file: str) -> None:
    """Where no name can be made it is asked for."""
    with pytest.raises(P11HostError, match="give one with --name"):
        derive_name(Path(file))
