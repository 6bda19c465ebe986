"""Signatures of one-time passwords on the wire: structs, without the pointers into their own buffer."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptoki import constant
from lone import lone_helper

from p11host.client import Channel

pytest_plugins = ["life_fixtures"]

HOTP, SHA256_HMAC, NAME = 0x291, 0x251, "CK_OTP_SIGNATURE_INFO"
ROOM, LENGTH = 512, 6
#: What the mirror's signature has besides the value: the struct, three parameters, a number.
HEAD = 16 + 3 * 24 + 8
WISH = 0x8000_4D01


@pytest.fixture
def channel(mirror: Path) -> Iterator[Channel]:
    """Return a channel to a helper of the mirror, which signs with values of LENGTH bytes in session 1."""
    with lone_helper(mirror) as helper, helper.open() as opened:
        assert [0, 1] == opened.call("C_OpenSession", [0, 4, True])
        wish = struct.pack("<QII", 0, LENGTH, 0)
        assert [0] == opened.call("C_SetAttributeValue", [1, 0, [[WISH, wish]]])
        yield opened


def sign(channel: Channel, mechanism: int, *name: str) -> Any:
    """Begin to sign with a mechanism, and end; return what C_SignFinal answered."""
    assert [0, None] == channel.call("C_SignInit", [1, [mechanism, None], 1])
    return channel.call("C_SignFinal", [1, [True, ROOM, *name]])


def test_pointers_stay(channel: Channel) -> None:
    """What the request names comes as its fields: a number, bytes for the value, nothing for NULL."""
    rv, (length, ((value, flags, pin), count)) = sign(channel, HOTP, NAME)

    assert [0, HEAD + LENGTH, 3] == [rv, length, count]
    assert [constant("CK_OTP_VALUE"), LENGTH] == [value[0], value[2]]
    assert LENGTH == len(value[1])
    assert [constant("CK_OTP_FLAGS"), 8] == [flags[0], flags[2]]
    assert isinstance(flags[1], int)
    assert [constant("CK_OTP_PIN"), None, 0] == pin


def test_a_request_that_names_nothing_gets_nothing(channel: Channel) -> None:
    """A caller that takes such a signature for bytes is told its length, and has none of the pointers."""
    assert [0, [HEAD + LENGTH, None]] == sign(channel, HOTP)


def test_a_signature_of_bytes_is_no_struct(channel: Channel) -> None:
    """Bytes are not taken for a struct, whatever the request calls them; without a name they come whole."""
    assert [0, [LENGTH, None]] == sign(channel, SHA256_HMAC, NAME)

    rv, (length, data) = sign(channel, SHA256_HMAC)

    assert [0, LENGTH, LENGTH] == [rv, length, len(data)]
