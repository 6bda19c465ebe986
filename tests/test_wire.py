"""Messages: PROTOCOL.md sections 1, 3 and 7, without a socket."""

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p11host.limits import deadlines, limits
from p11host.scan import Frame, FrameError, Scanner, call_frame, control_frame, report_frame
from p11host.wire import (
    Decoder,
    Fault,
    Hello,
    LocalError,
    Message,
    Notification,
    RefusedError,
    RemoteError,
    Request,
    Response,
    decode,
    encode,
    short_text,
)

SMALL = Frame(message=64, length=16, elements=4, depth=3)
NUMBERS = st.integers(min_value=-(1 << 63), max_value=(1 << 64) - 1)
SCALARS = st.none() | st.booleans() | NUMBERS | st.binary(max_size=300) | st.text(max_size=100)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=9), inner, max_size=9),
)
METHODS = st.text(st.characters(max_codepoint=127), max_size=64)
PARAMS = st.lists(VALUES, max_size=9)
MSGIDS = st.integers(0, (1 << 32) - 1)
FAULTS = st.none() | st.builds(Fault, st.text(max_size=20), st.text(max_size=99))
MESSAGES = (
    st.builds(Request, MSGIDS, METHODS, PARAMS)
    | st.builds(Response, MSGIDS, FAULTS, VALUES)
    | st.builds(Notification, METHODS, PARAMS)
)


def pack(value: object) -> bytes:
    """Return the bytes of any value."""
    data: bytes = msgpack.packb(value)
    return data


def test_limits_are_those_of_the_file() -> None:
    """Nothing but limits.toml says how long a message may be."""
    assert (limits().message, limits().bytes) == (call_frame().message, call_frame().length)
    assert (limits().elements, limits().depth) == (call_frame().elements, call_frame().depth)
    assert control_frame().message < report_frame().message < call_frame().message
    assert 0 == deadlines().forever < deadlines().short < deadlines().long


class TestDecoder:
    """Bytes as they come become messages, or the peer's fault."""

    @given(MESSAGES, MESSAGES)
    def test_what_goes_in_comes_out(self, first: Message, second: Message) -> None:
        """Every message survives the wire, two in a row as well as one."""
        decoder = Decoder(call_frame())
        decoder.feed(encode(first, call_frame()) + encode(second, call_frame()))

        assert [first, second] == list(decoder)
        assert 0 == decoder.pending

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 100])
    def test_any_pieces(self, size: int) -> None:
        """It does not matter where a stream is cut."""
        messages: list[Message] = [
            Request(7, "C_Sign", [1 << 63, b"x" * 300, "s" * 40, [None, True], {"k": -1}]),
            Response(7, None, [0, [65536, list(range(20))]]),
            Response(8, Fault("limit", "é"), None),
            Notification("hello", [{str(number): number for number in range(20)}]),
        ]
        data = b"".join(encode(message, call_frame()) for message in messages)
        decoder = Decoder(call_frame())
        found: list[Message] = []
        for start in range(0, len(data), size):
            decoder.feed(data[start : start + size])
            found += decoder

        assert messages == found

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Bytes of whatever kind are a message, the beginning of one, or an error of the peer's."""
        decoder = Decoder(SMALL)
        decoder.feed(data)
        with contextlib.suppress(RemoteError):
            list(decoder)

        assert decoder.pending <= len(data)

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"\xc1", "never uses"),
            (b"\xca\0\0\0\0", "floating point"),
            (b"\x93\x02\xcb" + bytes(8), "floating point at byte 2"),
            (b"\xc7\x00\x01", "extension"),
            (b"\xd6\xff\0\0\0\0", "extension"),
            (b"\x05", "not a message"),
            (b"\x90", "not a message"),
            (b"\x80", "not a message"),
            (pack([3, 1, "m", []]), "not a message"),
            (pack([0, 1, "m"]), "not a message"),
            (pack([True, 1, None, None]), "not a message"),
            (pack([False, 1, "m", []]), "not a message"),
            (pack([0, -1, "m", []]), "msgid"),
            (pack([0, 1 << 32, "m", []]), "msgid"),
            (pack([0, True, "m", []]), "msgid"),
            (pack([0, "1", "m", []]), "msgid"),
            (pack([0, 1, b"m", []]), "method"),
            (pack([0, 1, "m", {}]), "params"),
            (pack([2, "m", "x"]), "params"),
            (pack([1, 1, "malformed", None]), "error"),
            (pack([1, 1, ["malformed"], None]), "error"),
            (pack([1, 1, [1, "x"], None]), "error"),
            (b"\x93\x02\xa1\xff\x90", "utf-8"),
            (b"\x93\x02\xa1m\x91\x81\x05\xc0", "int is not allowed for map key"),
            (b"\x93\x02\xa1m\x91\x81\x90\xc0", "map key"),
        ],
    )
    def test_malformed(self, data: bytes, why: str) -> None:
        """What is no message is the peer's fault, and stays so."""
        decoder = Decoder(call_frame())
        decoder.feed(data)
        for _ in range(2):
            with pytest.raises(RemoteError, match=why) as caught:
                decoder.next_message()
            assert "malformed" == caught.value.code

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"\xc4\x11", "byte string of 17, at most 16"),
            (b"\xc6\xff\xff\xff\xff", "byte string of 4294967295"),
            (b"\xdb\xff\xff\xff\xff", "byte string of 4294967295"),
            (b"\x95", "array of 5, at most 4"),
            (b"\xdd\xff\xff\xff\xff", "array of 4294967295"),
            (b"\xdf\x80\x00\x00\x00", "array of 2147483648"),
            (b"\x91\x91\x91\x91", "nesting of 4, at most 3"),
            (b"\x91\x81\x91\x80", "nesting"),
            (b"\x94" + (b"\xc4\x10" + bytes(16)) * 4, "message of 73, at most 64"),
            (pack([0, 1, "m" * 65, []]), "byte string of 65"),
        ],
    )
    def test_limits(self, data: bytes, why: str) -> None:
        """A claim over the limits is refused as soon as it is made, before its bytes arrive."""
        decoder = Decoder(SMALL)
        decoder.feed(data)
        with pytest.raises(RemoteError, match=why) as caught:
            decoder.next_message()

        assert "limit" == caught.value.code

    def test_a_long_name(self) -> None:
        """A method's name has a limit of its own."""
        with pytest.raises(RemoteError, match="longer than 64 bytes"):
            decode(pack([0, 1, "m" * 65, []]), call_frame())

    def test_within_the_limits(self) -> None:
        """What just keeps the limits is taken."""
        scanner = Scanner(SMALL)

        assert 19 == scanner.advance(b"\x91\xc4\x10" + bytes(16))
        with pytest.raises(FrameError):
            Scanner(SMALL).advance(b"\x91\xc4\x11" + bytes(17))

    @pytest.mark.parametrize(
        "encoding", [b"\x05", b"\xcc\x05", b"\xcd\0\x05", b"\xce\0\0\0\x05", b"\xcf" + bytes(7) + b"\x05"]
    )
    def test_every_encoding(self, encoding: bytes) -> None:
        """A number may come in any width."""
        assert Request(5, "m", [5]) == decode(b"\x94\x00" + encoding + b"\xa1m\x91" + encoding, call_frame())

    def test_one_message_exactly(self) -> None:
        """A datagram is one whole message."""
        data = encode(Notification("m", []), SMALL)
        with pytest.raises(RemoteError, match="cut short"):
            decode(data[:-1], SMALL)
        with pytest.raises(RemoteError, match="bytes after"):
            decode(data + b"\xc0", SMALL)
        with pytest.raises(RemoteError, match="cut short"):
            decode(b"", SMALL)

    def test_memory_follows_bytes(self) -> None:
        """A claim of a thousand nested arrays of a million elements costs no more than its bytes."""
        decoder = Decoder(Frame(1 << 30, 1 << 30, 1 << 20, 1 << 20))
        decoder.feed(b"\xdd\x00\x10\x00\x00" * 1000)

        assert decoder.next_message() is None
        assert 5000 == decoder.pending


class TestEncode:
    """What we send is checked as a peer would check it: the fault would be ours."""

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            (Request(1 << 32, "m", []), "malformed"),
            (Request(-1, "m", []), "malformed"),
            (Request(1, "m" * 65, []), "limit"),
            (Request(1, "m", [1.5]), "malformed"),
            (Request(1, "m", [object()]), "malformed"),
            (Request(1, "m", [1 << 64]), "malformed"),
            (Request(1, "m", [bytes(17)]), "limit"),
            (Request(1, "m", [[[[]]]]), "limit"),
            (Request(1, "m", ["\ud800"]), "malformed"),
            (Notification("m", {}), "malformed"),  # type: ignore[arg-type]
        ],
    )
    def test_refuses(self, message: Message, code: str) -> None:
        """A message the peer must refuse is not sent."""
        with pytest.raises(LocalError) as caught:
            encode(message, SMALL)

        assert code == caught.value.code


class TestHello:
    """Section 3."""

    def test_survives(self) -> None:
        """What is said is heard, and what is not said is None."""
        hello = Hello(1, 8, (1 << 64) - 1, "ssh", "soft", 77, (3, 2), "no", 0x80000001)

        assert hello == Hello.of(hello.message())
        assert Hello(1) == Hello.of(Notification("hello", [{"protocol": 1}]))

    def test_unknown_keys_are_ignored(self) -> None:
        """A later version may say more."""
        assert Hello(1) == Hello.of(Notification("hello", [{"protocol": 1, "mood": ["good"]}]))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("protocol", "1"),
            ("protocol", True),
            ("protocol", -1),
            ("ulong", 16),
            ("tables", -5),
            ("program", b"x"),
            ("module", "m" * 65),
            ("pid", 1 << 31),
            ("cryptoki", [2]),
            ("cryptoki", [2, 256]),
            ("cryptoki", "2.40"),
            ("error", 1),
            ("rv", "CKR_OK"),
        ],
    )
    def test_wrong_values(self, key: str, value: Any) -> None:
        """A key with a value that it cannot have makes the hello none."""
        with pytest.raises(RemoteError, match=f"hello with a {key} that is none"):
            Hello.of(Notification("hello", [{"protocol": 1} | {key: value}]))

    @pytest.mark.parametrize(
        "message",
        [
            Notification("bye", [{"protocol": 1}]),
            Notification("hello", []),
            Notification("hello", [{"protocol": 1}, {}]),
            Notification("hello", [1]),
            Notification("hello", [{}]),
            Request(1, "hello", [{"protocol": 1}]),
            Response(1, None, {"protocol": 1}),
        ],
    )
    def test_no_hello(self, message: Message) -> None:
        """Anything else than a hello is none."""
        with pytest.raises(RemoteError):
            Hello.of(message)


def test_faults_say_whose_they_are() -> None:
    """Section 7: the code decides who is to blame."""
    kinds = {
        code: type(Fault(code, "").exception())
        for code in ("malformed", "limit", "unknown", "refused", "failed")
    }

    assert {LocalError} == {kinds[code] for code in ("malformed", "limit", "unknown")}
    assert (RefusedError, RemoteError) == (kinds["refused"], kinds["failed"])
    assert RemoteError is type(Fault("new", "").exception())


@given(st.text(max_size=400))
def test_texts_fit(text: str) -> None:
    """A text for people fits the room every peer has, and is never cut within a character."""
    short = short_text(text)

    assert len(short.encode(errors="replace")) <= 255
    assert "\0" not in short
    assert text.replace("\0", "").startswith(short.removesuffix("…"))
