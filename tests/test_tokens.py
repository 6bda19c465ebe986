"""Tokens by hand: keys and certificates made, shown, moved, used and deleted by the commands, on SoftHSM."""

import datetime as dt
import hashlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hand import Hand, hand

from p11host import errors
from p11host.cli import cli
from p11host.tokens.making import Spec
from p11host.tokens.making import parse as parse_kind
from p11host.uri import Uri, parse

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tokens.md"
DATA = b"what is signed"
DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
PKCS8, PLAIN = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """Return a token for all tests of this file; each has labels of its own."""
    with hand(tmp_path_factory.mktemp("mine")) as it:
        (it.directory / "data").write_bytes(DATA)
        yield it


def named(name: str) -> x509.Name:
    """Return the name of a person."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def certificate(
    subject: str, key: ec.EllipticCurvePublicKey, issuer: str, by: ec.EllipticCurvePrivateKey, days: int = 9
) -> x509.Certificate:
    """Return a certificate that `issuer` gives `subject`, which ends after so many days."""
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(named(issuer), named(subject), key)
    builder = builder.serial_number(7).not_valid_before(now - dt.timedelta(30))
    names = x509.SubjectAlternativeName([x509.DNSName("ada.example")])
    return (
        builder.not_valid_after(now + dt.timedelta(days))
        .add_extension(names, critical=False)
        .sign(by, hashes.SHA256())
    )


class TestKeys:
    """`keygen`, `sign`, `verify`, `export`."""

    @pytest.mark.parametrize("kind", ["rsa:1024", "ec", "ed25519"])
    def test_a_pair(self, mine: Hand, kind: str) -> None:
        """A signature of a new key is verified by another program with the exported key, and by the token."""
        label = kind.partition(":")[0]
        public, private = mine.does("keygen", mine.own(f"object={label}"), kind, "--json").json["made"]
        mine.does("sign", f"{private}{mine.pin}", "data", "-o", f"{label}.sig")
        signature = (mine.directory / f"{label}.sig").read_bytes()
        exported = mine.does("export", public).out

        assert ("public", "private") == (parse(public).type, parse(private).type)
        assert parse(public).id == parse(private).id
        assert 16 == len(parse(public).id or b"")
        check(serialization.load_pem_public_key(exported), signature)
        assert "valid\n" == mine.does("verify", public, f"{label}.sig", "data").text
        done = mine.run("verify", public, f"{label}.sig", "--json", stdin=DATA + b"!")
        assert (6, False) == (done.status, done.json["valid"])

    def test_pss(self, mine: Hand) -> None:
        """PSS is as openssl has it, of a digest made elsewhere too."""
        made = mine.does("keygen", mine.own("object=pss;id=%01%02"), "rsa:1024", "--use", "sign").text.split()
        digest = hashlib.sha384(DATA).digest()
        options = ["--pss", "--hash", "sha384"]
        done = mine.does("sign", mine.own("id=%01%02"), "--prehashed", *options, "--json", stdin=digest)
        key = serialization.load_der_public_key(
            bytes.fromhex(mine.does("export", made[0], "--json").json["der"])
        )
        assert isinstance(key, rsa.RSAPublicKey)
        key.verify(
            bytes.fromhex(done.json["signature"]),
            DATA,
            padding.PSS(padding.MGF1(hashes.SHA384()), 48),
            hashes.SHA384(),
        )
        assert "CKM_RSA_PKCS_PSS" == done.json["mechanism"]
        wrong = mine.fails(1, "sign", mine.own("id=%01%02"), "--prehashed", stdin=b"short")
        assert "a digest by sha256 has 32 bytes" in wrong

    def test_a_secret_key(self, mine: Hand) -> None:
        """A secret key signs and verifies what it signed, and nothing else; its value is never shown."""
        (uri,) = mine.does("keygen", mine.own("object=mac"), "generic:256").text.split()
        signed = mine.does("sign", f"{uri}{mine.pin}", "data", "--json").json["signature"]
        (mine.directory / "mac").write_bytes(bytes.fromhex(signed))
        shown = mine.does("show", f"{uri}{mine.pin}", "--json").json[0]["attributes"]

        assert 32 == len(signed) // 2
        assert "valid\n" == mine.does("verify", f"{uri}{mine.pin}", "mac", "data").text
        assert 6 == mine.run("verify", f"{uri}{mine.pin}", "mac", stdin=DATA[1:]).status
        assert ("CKO_SECRET_KEY", True) == (shown["CKA_CLASS"], shown["CKA_SENSITIVE"])
        assert "CKA_VALUE" not in shown

    def test_an_id_is_a_keys_own(self, mine: Hand) -> None:
        """A second key is not given an id that is taken."""
        mine.does("keygen", mine.own("object=first;id=%77"), "aes:128")

        assert "has a key with id 77 already" in mine.fails(1, "keygen", mine.own("id=%77"), "aes")

    @pytest.mark.parametrize(
        ("kind", "why"),
        [
            ("rsaa", "did you mean 'rsa'?"),
            ("dog", "there are rsa, ec, ed25519, ed448, ml-dsa, ml-kem, aes, generic"),
            ("rsa:", "3072"),
            ("rsa:1", "a length is in bits, 512 to 16384, by 8"),
            ("rsa:x", "a length is in bits"),
            ("aes:512", "128, 192 or 256"),
            ("ec:p265", "did you mean 'p256'?"),
            ("ml-dsa:66", "ml-dsa:66: there are ml-dsa:44, ml-dsa:65, ml-dsa:87"),
            ("ml-kem:x", "there are ml-kem:512, ml-kem:768, ml-kem:1024"),
            ("ed25519:1", "no kind of key is called 'ed25519:1'"),
        ],
    )
    def test_kinds(self, kind: str, why: str) -> None:
        """What is no kind of key is told with the nearest that is; what is left open is usual."""
        try:
            said = str(parse_kind(kind))
        except Exception as error:  # noqa: BLE001 (its text is looked at)
            said = str(error)

        assert why in said
        assert isinstance(parse_kind("ec:p384"), Spec)


def check(key: object, signature: bytes) -> None:
    """Verify a signature of DATA without the token."""
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, DATA, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, DATA, ec.ECDSA(hashes.SHA256()))
    else:
        assert isinstance(key, ed25519.Ed25519PublicKey)
        key.verify(signature, DATA)
        with pytest.raises(InvalidSignature):
            key.verify(signature, b"")


class TestFiles:
    """`import` and `export`."""

    def test_certificates(self, mine: Hand) -> None:
        """Certificates come beside their key, are shown with their chain, and go out as they came."""
        public = mine.does("keygen", mine.own("object=ada;id=%AA"), "ec").text.split()[0]
        key = serialization.load_pem_public_key(mine.does("export", public).out)
        root = ec.generate_private_key(ec.SECP256R1())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        top = certificate("Root", root.public_key(), "Root", root)
        leaf = certificate("Ada", key, "Root", root, days=-1)
        (mine.directory / "chain.pem").write_bytes(leaf.public_bytes(PEM) + top.public_bytes(PEM))
        first, second = mine.does("import", mine.own(), "chain.pem").text.split()
        shown = mine.does("show", first, "--json").json[0]
        text = mine.does("show", first).text

        assert (b"\xaa", "Ada") == (parse(first).id, parse(first).object)
        assert "Root" == parse(second).object
        assert ["Common Name: Ada", "Common Name: Root"] == [each["subject"] for each in shown["chain"]]
        assert ("expired", ["ada.example"]) == (
            shown["certificate"]["validity"],
            shown["certificate"]["names"],
        )
        assert leaf.fingerprint(hashes.SHA256()).hex() == shown["certificate"]["sha256"]
        assert re.search(r"(?m)^  validity  +expired 20\d\d-\d\d-\d\d \d\d:\d\d UTC, 1 day ago$", text)
        assert re.search(
            r"(?m)^  0  Common Name: Ada; expired .*\n  1  Common Name: Root; valid until .*, 8 days left$",
            text,
        )
        assert re.search(r"(?m)^  CKA_ISSUER  +Common Name: Root$", text)
        assert re.search(r"(?m)^  CKA_CLASS  +CKO_CERTIFICATE\n  CKA_TOKEN  +yes$", text)
        assert f"… ({len(leaf.public_bytes(DER))} bytes)\n" in text
        assert leaf.public_bytes(PEM) == mine.does("export", first).out
        assert key.public_bytes(DER, SPKI) == mine.does("export", first, "--public", "--der").out
        assert "has that already (cert" in mine.fails(1, "import", mine.own(), "chain.pem")
        assert "cannot all have one object and id" in mine.fails(2, "import", mine.own("id=%01"), "chain.pem")

    def test_a_private_key(self, mine: Hand) -> None:
        """It goes out as PKCS#8, for its owner alone, if it was said so when it came in; else never."""
        key = ec.generate_private_key(ec.SECP384R1())
        mine.does(
            "import", mine.own("object=out"), "-", "--extractable", stdin=key.private_bytes(PEM, PKCS8, PLAIN)
        )
        (mine.directory / "kept").write_bytes(
            key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, PLAIN)
        )
        mine.does("import", mine.own("object=in;id=%1A"), "kept")
        mine.does("export", mine.own("object=out;type=private"), "-o", "out.pem")
        file = mine.directory / "out.pem"
        back = serialization.load_pem_private_key(file.read_bytes(), None)

        assert 0o600 == file.stat().st_mode & 0o777
        assert isinstance(back, ec.EllipticCurvePrivateKey)
        assert key.private_numbers() == back.private_numbers()
        line = mine.fails(1, "export", mine.own("object=in;type=private"), "-o", "in.pem")
        assert "p11host: CKR_ATTRIBUTE_SENSITIVE: the token does not give it up" == line
        assert not (mine.directory / "in.pem").exists()
        assert "name a file with -o" in mine.fails(2, "export", mine.own("object=out;type=private"), "--json")
        assert "out.pem: is there already" in mine.fails(
            1, "export", mine.own("object=out;type=private"), "-o", "out.pem"
        )

    @pytest.mark.parametrize("length", [1024, 2048])
    def test_public_keys(self, mine: Hand, length: int) -> None:
        """A public key is read in each form that files have it in."""
        key = rsa.generate_private_key(65537, length).public_key()
        forms = (PEM, SPKI), (DER, serialization.PublicFormat.PKCS1)
        encoding, form = forms[length == 2048]
        data = key.public_bytes(encoding, form)
        (uri,) = mine.does("import", mine.own(f"object=p{length}"), "-", stdin=data).text.split()

        assert ("public", f"p{length}") == (parse(uri).type, parse(uri).object)
        assert key.public_bytes(PEM, SPKI) == mine.does("export", uri).out

    def test_what_is_none(self, mine: Hand) -> None:
        """What cannot be put on a token is told before anybody logs in."""
        key = ec.generate_private_key(ec.SECP256R1())
        locked = serialization.BestAvailableEncryption(b"x")
        (mine.directory / "locked.pem").write_bytes(key.private_bytes(PEM, PKCS8, locked))

        assert "- : no X.509" in mine.fails(1, "import", mine.uri(), "-", stdin=b"junk").replace("-:", "- :")
        assert "decrypt it first with: openssl pkcs8" in mine.fails(1, "import", mine.uri(), "locked.pem")
        assert "nope: cannot be read: No such file" in mine.fails(1, "import", mine.uri(), "nope")
        data = key.public_key().public_bytes(PEM, SPKI)
        assert "holds public, not cert" in mine.fails(2, "import", mine.uri("type=cert"), "-", stdin=data)


class TestNames:
    """What a URI names, and what it does not."""

    def test_list(self, mine: Hand) -> None:
        """A listing is narrowed to what a URI names, of the module and its library too."""
        mine.does("keygen", mine.own("object=l;id=%4C"), "aes:128")
        found = mine.does("list", mine.own("object=l"), "--uri").text.split()
        (only,) = mine.does("list", mine.own("id=%4C"), "--json").json["modules"]
        library = mine.does(
            "list", "pkcs11:library-version=2.6;token=mine?module-name=soft", "--uri", "--json"
        )

        assert [Uri(object="l", type="secret-key", id=b"L")] == [
            Uri(object=uri.object, type=uri.type, id=uri.id) for uri in map(parse, found)
        ]
        (slot,) = only["slots"]
        assert ["l"] == [item["label"] for item in slot["token"]["objects"]]
        assert "mine" == parse(library.json["uris"][0]).token
        for uri in ("pkcs11:token=none", "pkcs11:library-version=9", "pkcs11:?module-name=no"):
            assert "names nothing that is there" in mine.fails(4, "list", uri)

    def test_delete(self, mine: Hand) -> None:
        """What is deleted is exactly what was named, and only when somebody said yes."""
        mine.does("keygen", mine.own("object=gone"), "ec")
        mine.does("keygen", mine.own("object=gone"), "aes:128")
        ambiguous = mine.fails(4, "delete", mine.own("object=gone"), "--yes")
        unasked = mine.fails(2, "delete", mine.own("object=gone;type=private"))
        (one,) = mine.does("delete", mine.own("object=gone;type=private"), "--yes").text.split()
        others = mine.does("delete", mine.own("object=gone"), "--all", "--yes", "--json").json["deleted"]

        assert "names 3 objects; add type=…, object=… or id=…, or --all" in ambiguous
        assert "There is no terminal to ask on: add --yes" in unasked
        assert "private" == parse(one).type
        assert ["public", "secret-key"] == sorted(str(parse(uri).type) for uri in others)
        assert "names no object" in mine.fails(4, "delete", mine.own("object=gone"), "--all", "--yes")

    def test_asked(self, mine: Hand) -> None:
        """On a terminal it is asked before anything is deleted."""
        mine.does("keygen", mine.own("object=ask"), "aes:128")
        with mine.screen("delete", mine.own("object=ask")) as screen:
            screen.expect("object=ask;type=secret-key")
            screen.expect("[y/N]: ")
            screen.type("n\n")
            screen.expect("nothing was changed")

            assert 1 == screen.end()
        assert 1 == len(mine.does("list", mine.own("object=ask"), "--uri").text.split())

    def test_nothing_or_too_much(self, mine: Hand) -> None:
        """What is not there, is there twice, or cannot be asked for is told in a line with what to do."""
        assert "names no token; see what there is with: p11host list --uri" in mine.fails(
            4, "random", "pkcs11:token=x", "1"
        )
        line = mine.fails(4, "random", "pkcs11:?module-name=x&pin-value=1234", "1")
        assert "p11host: pkcs11:?module-name=x: names no token; see" in line
        assert "names no object of type private or secret-key" in mine.fails(4, "sign", mine.own("object=zz"))
        assert "type is public; this needs private or secret-key" in mine.fails(
            2, "sign", mine.own("type=public")
        )
        assert "use module-name=NAME" in mine.fails(2, "show", "pkcs11:?module-path=/x.so")
        assert "begins with pkcs11:" in mine.fails(2, "show", "token=mine")


class TestBytes:
    """`random`, and where bytes go."""

    def test_random(self, mine: Hand) -> None:
        """As many bytes come as were asked for, others each time, and a file is there whole or not at all."""
        first, second = (mine.does("random", mine.uri(), 5000).out for _ in range(2))
        mine.does("random", mine.uri(), 8, "--hex", "-o", "r")
        before = sorted(mine.directory.iterdir())

        assert (5000, 5000) == (len(first), len(second))
        assert first != second
        assert 16 == len((mine.directory / "r").read_text().strip())
        assert "nowhere/r: cannot be written" in mine.fails(1, "random", mine.uri(), 8, "-o", "nowhere/r")
        assert "is there already" in mine.fails(1, "random", mine.uri(), 8, "-o", "r")
        assert before == sorted(mine.directory.iterdir())

    def test_never_on_a_terminal(self, mine: Hand) -> None:
        """Bytes are not sent to a terminal; JSON and hexadecimal digits are."""
        with mine.screen("random", mine.uri(), 8) as screen:
            screen.expect("name a file with -o, or add --json")

            assert 2 == screen.end()


class TestPage:
    """docs/tokens.md."""

    def test_examples(self, tmp_path: Path) -> None:
        """Every line of the page runs as it stands, in this order."""
        lines = re.findall(r"^(p11host|openssl) (.*)$", PAGE.read_text(), re.MULTILINE)
        root = ec.generate_private_key(ec.SECP256R1())
        with hand(tmp_path) as it:
            (it.directory / "letter").write_bytes(DATA)
            certified = certificate("Root", root.public_key(), "Root", root)
            (it.directory / "root.pem").write_bytes(certified.public_bytes(PEM))
            for name, pin in (("so-pin", "87654321"), ("new-pin", "2468")):
                (it.directory / name).write_text(pin)
                (it.directory / name).chmod(0o400)
            for program, rest in lines:
                words = [word.replace("/work/", f"{it.directory}/") for word in shlex.split(rest)]
                if program == "p11host":
                    assert 0 == it.run(*words).status, rest
                else:
                    subprocess.run([program, *words], cwd=it.directory, check=True, stdout=subprocess.DEVNULL)

            assert "valid" in it.does("verify", "pkcs11:token=server;id=%01", "letter.sig", "letter").text
        assert 13 == len(lines)

    def test_exit_codes(self) -> None:
        """The page, the help and the code have the same exit codes."""
        table = PAGE.read_text().partition("## Exit codes")[2]
        said = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
        codes = {
            value for name, value in vars(errors).items() if name.startswith("EXIT_") and type(value) is int
        }

        assert said == codes | {0}
        assert said == {
            int(code) for code in re.findall(r"(\d+) \w+", (cli.help or "").partition("Exit codes")[2])
        }
