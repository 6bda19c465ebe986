"""PKCS#11 URIs: RFC 7512 as it stands, and a line that says what to do for what is none."""

import string
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p11host.uri import Uri, UriError, Value, parse, write

WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)
URIS = st.builds(
    Uri,
    token=st.none() | WORDS,
    manufacturer=st.none() | WORDS,
    serial=st.none() | WORDS,
    model=st.none() | WORDS,
    library_manufacturer=st.none() | WORDS,
    library_description=st.none() | WORDS,
    library_version=st.none() | st.tuples(st.integers(0, 255), st.integers(0, 255)),
    slot_manufacturer=st.none() | WORDS,
    slot_description=st.none() | WORDS,
    slot_id=st.none() | st.integers(0, 2**64 - 1),
    object=st.none() | WORDS,
    type=st.sampled_from([None, "public", "private", "cert", "secret-key", "data"]),
    id=st.none() | st.binary(max_size=20),
    pin_source=st.none() | WORDS,
    pin_value=st.none() | WORDS,
    module_name=st.none() | WORDS,
    module_path=st.none() | WORDS,
)
#: The characters that section 2.3 lets stand for themselves.
PLAIN = string.ascii_letters + string.digits + "-._~" + ":[]@!$'()*+,="


class TestExamples:
    """The examples of section 3."""

    @pytest.mark.parametrize(
        ("text", "uri"),
        [
            ("pkcs11:", Uri()),
            ("PKCS11:", Uri()),
            ("pkcs11:?", Uri()),
            ("pkcs11:object=my-pubkey;type=public", Uri(object="my-pubkey", type="public")),
            (
                "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
                Uri(object="my-key", type="private", pin_source="file:/etc/token"),
            ),
            (
                (
                    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;"
                    "manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;type=cert;"
                    "id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin"
                ),
                Uri(
                    token="The Software PKCS#11 Softtoken",
                    manufacturer="Snake Oil, Inc.",
                    model="1.0",
                    object="my-certificate",
                    type="cert",
                    id=bytes.fromhex("69953e5cf4bdec91"),
                    serial="",
                    pin_source="file:/etc/token_pin",
                ),
            ),
            (
                "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
                Uri(object="my-sign-key", type="private", module_name="mypkcs11"),
            ),
            (
                "pkcs11:library-description=Soft%20Token%20Library;library-manufacturer=Snake;library-version=3",
                Uri(
                    library_description="Soft Token Library",
                    library_manufacturer="Snake",
                    library_version=(3, 0),
                ),
            ),
            ("pkcs11:slot-description=Sun%20Metaslot", Uri(slot_description="Sun Metaslot")),
            (
                "pkcs11:slot-id=327;slot-manufacturer=x?pin-value=the-pin",
                Uri(slot_id=327, slot_manufacturer="x", pin_value="the-pin"),
            ),
            ("pkcs11:object=R%C3%A9sum%c3%a9&b", Uri(object="Résumé&b")),
            ("pkcs11:?module-path=/a/b?c|d", Uri(module_path="/a/b?c|d")),
        ],
    )
    def test_read(self, text: str, uri: Uri) -> None:
        """Each is read as what it says, and again from what is written of it."""
        assert uri == parse(text)
        assert uri == parse(write(uri))

    def test_written(self) -> None:
        """Only what must be is encoded, an id whole; & and / are plain on one side of the '?' each."""
        uri = Uri(token="a b;&/", id=b"ab", library_version=(3, 1), pin_source="/p&q")

        assert "pkcs11:token=a%20b%3B&%2F;library-version=3.1;id=%61%62?pin-source=/p%26q" == str(uri)
        assert f"pkcs11:object={PLAIN}&?pin-value={PLAIN}/?|" == str(
            Uri(object=PLAIN + "&", pin_value=PLAIN + "/?|")
        )


@given(URIS)
def test_what_is_written_is_read(uri: Uri) -> None:
    """Whatever a token calls itself, its URI leads back to it."""
    assert uri == parse(str(uri))


@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    """Whatever is typed is a URI that can be written, or an error of one line."""
    try:
        uri, said = parse("pkcs11:" + text), "a line"
    except UriError as error:
        uri, said = Uri(), str(error)

    assert 1 == len(said.splitlines())
    assert uri == parse(write(uri))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begins with pkcs11:"),
        ("object=a", "begins with pkcs11:"),
        ("pkcs12:object=a", "begins with pkcs11:"),
        ("pkcs11:object", "'object' is not NAME=VALUE; attributes are parted by ';'"),
        ("pkcs11:object=a;", "'' is not NAME=VALUE"),
        ("pkcs11:;object=a", "'' is not NAME=VALUE"),
        ("pkcs11:object=a?pin-source=b&", "'' is not NAME=VALUE; attributes are parted by '&'"),
        ("pkcs11:object=a;object=b", "'object' stands there twice; leave one"),
        ("pkcs11:objekt=a", "no attribute is called 'objekt'; did you mean 'object'?"),
        ("pkcs11:zzz=a", "there are token, manufacturer"),
        ("pkcs11:Token=a", "did you mean 'token'?"),
        ("pkcs11:pin-source=a", "'pin-source' belongs after a '?'"),
        ("pkcs11:?token=a", "'token' belongs before the '?'"),
        ("pkcs11:token=a b", "'token' has ' ', to be written %20"),
        ("pkcs11:token=é", "'token' has 'é', to be written %C3%A9"),
        ("pkcs11:token=a/b", "'token' has '/', to be written %2F"),
        ("pkcs11:token=a%2", "'token' has '%', to be written %25"),
        ("pkcs11:token=100%", "'token' has '%', to be written %25"),
        ("pkcs11:token=a#b", "'token' has '#', to be written %23"),
        ("pkcs11:token=a\x1b[2J", "'token' has '\\x1b', to be written %1B"),
        ("pkcs11:token=%FF", "'token' is not UTF-8 once decoded"),
        ("pkcs11:token=a%00", "'token' has a zero byte"),
        ("pkcs11:type=key", "type 'key' is none of public, private, cert, secret-key, data"),
        ("pkcs11:type=", "type '' is none of"),
        ("pkcs11:library-version=", "library-version '' is not MAJOR"),
        ("pkcs11:library-version=1.", "library-version '1.' is not MAJOR"),
        ("pkcs11:library-version=1.256", "each below 256"),
        ("pkcs11:slot-id=", "slot-id '' is not a decimal number"),
        ("pkcs11:slot-id=0x1", "slot-id '0x1' is not a decimal number"),
        ("pkcs11:slot-id=18446744073709551616", "is not a decimal number below 2^64"),
    ],
)
def test_malformed(text: str, why: str) -> None:
    """What is no URI is refused in a line that says where and what to do."""
    with pytest.raises(UriError) as caught:
        parse(text)

    (line,) = str(caught.value).splitlines()
    assert why in line
    assert "\x1b" not in line
    assert 2 == caught.value.exit_code


def test_a_pin_is_not_told() -> None:
    """Neither an error nor a repr shows the PIN that a URI holds."""
    with pytest.raises(UriError) as caught:
        parse("pkcs11:token=a?pin-value=1234&pin-value=1234")

    assert "1234" not in str(caught.value)
    assert "1234" not in repr(parse("pkcs11:?pin-value=1234"))


class TestFits:
    """Section 2.5: when a URI names a thing."""

    FACTS: ClassVar[Mapping[str, Value]] = {"token": "mine", "serial": "", "slot_id": 3}

    @pytest.mark.parametrize("uri", [Uri(), Uri(token="mine"), Uri(serial=""), Uri(slot_id=3, token="mine")])
    def test_it_does(self, uri: Uri) -> None:
        """What is not asked for may be anything; an empty value asks for an empty one."""
        assert uri.fits(self.FACTS)

    @pytest.mark.parametrize("uri", [Uri(token="Mine"), Uri(token=""), Uri(slot_id=4), Uri(serial="1")])
    def test_it_does_not(self, uri: Uri) -> None:
        """One difference is enough, that of case included."""
        assert not uri.fits(self.FACTS)

    def test_an_object(self) -> None:
        """It is known whether an object is meant, by an empty label too."""
        assert Uri(object="").names_object()
        assert Uri(id=b"").names_object()
        assert not replace(Uri(object="a"), object=None).names_object()
