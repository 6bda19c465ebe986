"""Control channels: what a peer may say, and what none can do to another."""

import contextlib
import re
import socket

import pytest
from brokers import (
    HELLO,
    PATIENCE,
    Broker,
    raw_channel,
    raw_door,
    read_all,
)

from p11host.wire import LocalError

pytest_plugins = ["broker_fixtures"]


class TestChannel:
    """PROTOCOL.md sections 1 and 7: a peer's fault is told to it and ends its channel, nothing else."""

    @pytest.mark.parametrize(
        ("data", "code", "why"),
        [
            (b"\xc1", "malformed", "never uses"),
            (b"\xca\x00\x00\x00\x00", "malformed", "floating point"),
            (b"\xd4\x01\x00", "malformed", "extension"),
            (b"\x94\xc2\x01\xa6status\x91\x80", "malformed", "not a message"),
            (b"\x94\x00\xcf\x80\0\0\0\0\0\0\0\xa6status\x91\x80", "malformed", "below 2"),
            (b"\x94\x00\xff\xa6status\x91\x80", "malformed", "below 2"),
            (b"\x94\x00\x01\xa6status\x90", "malformed", "one map"),
            (b"\x94\x00\x01\xa6status\x91\x90", "malformed", "one map"),
            (b"\x94\x00\x01\xa6status\x91\x81\x90\xc0", "malformed", ""),
            (b"\x94\x00\x01\xa6stat\xff\xff\x91\x80", "malformed", "utf-8"),
            (b"\x94\x00\x01\xa4open\x91\x80", "malformed", "needs a module"),
            (b"\x94\x00\x01\xa4open\x91\x81\xa6module\xcf\x80" + bytes(7), "malformed", "needs a module"),
            (b"\x94\x00\x01\xa4open\x91\x81\xa6module\xd9\x41" + b"m" * 65, "malformed", "needs a module"),
            (b"\x94\x01\x01\xc0\xc0", "malformed", "no question"),
            (b"\x94\x00\x01\xd9\x41" + b"m" * 65 + b"\x90", "limit", "longer than 64"),
            (b"\x94\x00\x01\xa4open\xdd\xff\xff\xff\xff", "limit", "array of 4294967295"),
            (b"\x94\x00\x01\xa4open\xdf\xff\xff\xff\xff", "limit", "array of 4294967295"),
            (b"\x94\x00\x01\xa4open\x91\xc6\xff\xff\xff\xff", "limit", "byte string of 4294967295"),
            (b"\x91" * 64, "limit", "nesting"),
            (b"\x94\x00\x01\xa4open\x9f" + (b"\xc5\x04\x00" + bytes(1024)) * 15, "limit", "message of"),
        ],
    )
    def test_bad_bytes(self, broker: Broker, data: bytes, code: str, why: str) -> None:
        """Bytes that are no request are answered with whose fault they are, and the channel closes."""
        with raw_door(broker) as door, raw_channel(door) as channel:
            channel.sendall(data)
            answer = read_all(channel)

        assert code.encode() in answer
        assert why.encode() in answer
        assert broker.is_alive()

    def test_unknown_method(self, broker: Broker) -> None:
        """A method nobody knows is answered so, and the channel stays."""
        with broker.channel() as channel:
            with pytest.raises(
                LocalError, match=r"unknown: no method 'C_Sign'; known are attach, .*open, .*status"
            ):
                channel.call("C_Sign", [{}], PATIENCE)

            assert channel.call("status", [{}], PATIENCE)

    def test_notifications_and_unknown_keys_are_ignored(self, broker: Broker) -> None:
        """What may be added later does no harm today."""
        with raw_door(broker) as door, raw_channel(door) as channel:
            channel.sendall(b"\x93\x02\xa3any\x91\x80" + b"\x94\x00\x07\xa6status\x91\x81\xa3new\x01")

            assert channel.recv(4).startswith(b"\x94\x01\x07\xc0")

    def test_requests_in_a_row(self, broker: Broker) -> None:
        """Requests sent before their answers are read are answered in their order."""
        with raw_door(broker) as door, raw_channel(door) as channel:
            channel.sendall(b"".join(b"\x94\x00" + bytes([n]) + b"\xa1x\x90" for n in range(100)))
            channel.shutdown(socket.SHUT_WR)
            answers = read_all(channel)

        assert [bytes([n]) for n in range(100)] == re.findall(
            rb"\x94\x01(.)\x92\xa7unknown", answers, re.DOTALL
        )

    def test_a_peer_that_never_reads(self, broker: Broker) -> None:
        """A peer that asks and never reads holds up only itself."""
        with raw_door(broker) as door, raw_channel(door) as channel:
            channel.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while channel.send(b"\x94\x00\x01\xa6status\x91\x80" * 100):
                    pass

            assert broker.is_alive()

    def test_a_peer_that_makes_its_end_block(self, broker: Broker) -> None:
        """The broker never blocks on a descriptor whose flags the peer can change."""
        mine, theirs = socket.socketpair()
        with raw_door(broker) as door, mine, theirs:
            socket.send_fds(door, [HELLO], [theirs.fileno()])
            theirs.settimeout(None)
            mine.sendall(b"\x94\x00\x01\xa6status\x91\x80" * 4000)

            assert broker.is_alive()

    def test_a_peer_that_goes_while_it_waits(self, broker: Broker) -> None:
        """Doors that cannot be delivered are closed, and their helpers end."""
        with raw_door(broker) as door, raw_channel(door) as channel:
            channel.sendall(b"\x94\x00\x01\xa6attach\x91\x80")

        broker.wait_event("helper.ended")
        broker.wait_event("helper.ended")
        assert broker.is_alive()
