"""Events as lines, and a helper's words among them."""

import json
import logging

import pytest

from p11host import log
from p11host.limits import limits
from p11host.lines import BURST, RATE, Lines
from p11host.text import printable


@pytest.fixture(autouse=True)
def clean_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the logging of other tests back as it was."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    logger = logging.getLogger("p11host")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)


class TestEvents:
    """An event is a name with keys and values."""

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A line begins with time, level and name; values that are no plain word are quoted."""
        log.configure()
        log.info("helper.ended", module="soft", pid=7, line='a "b"=c')
        time, rest = capsys.readouterr().err.split(" ", 1)

        assert time.endswith("Z")
        assert 'info helper.ended module=soft pid=7 line="a \\"b\\"=c"\n' == rest

    def test_journal(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """The journal has its own time."""
        monkeypatch.setenv("JOURNAL_STREAM", "8:1")
        log.configure()
        log.warning("door.dropped")

        assert "warning door.dropped\n" == capsys.readouterr().err

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each line is one JSON object."""
        log.configure("json", "debug")
        log.debug("a.b", text="é\n\x1b", number=1)
        found = json.loads(capsys.readouterr().err)

        assert found.pop("time").endswith("Z")
        assert {"level": "debug", "event": "a.b", "text": "é\n\x1b", "number": 1} == found

    def test_level(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What is below the level is not said."""
        log.configure("text", "warning")
        log.info("quiet")
        log.error("loud")

        assert ["loud"] == [line.split()[2] for line in capsys.readouterr().err.splitlines()]

    @pytest.mark.parametrize("value", ["a\nb", "\x1b[2J", "a=b", "", "\x00", "\u202e", "é", "\udcff", "a\\b"])
    def test_no_value_forges_a_line(self, value: str) -> None:
        """Whatever a program or a provider calls itself, it stays inside its quotes, in printable ASCII."""
        quoted = log.quote(value)

        assert value == json.loads(quoted)
        assert quoted.isascii()
        assert quoted.isprintable()


class TestLines:
    """A helper's standard error is bounded in length and number."""

    def test_lines(self) -> None:
        """Lines are found wherever the bytes are cut; empty ones say nothing."""
        lines = Lines(lambda: 0.0)

        assert ["one"] == list(lines.feed(b"one\ntw"))
        assert ["two", "three"] == list(lines.feed(b"o\r\n\nthree\nfo"))
        assert ["fo"] == list(lines.end())
        assert [] == list(lines.end())

    def test_any_bytes(self) -> None:
        """Bytes that are no text are written out."""
        assert ["\\xff\\xfe é"] == list(Lines(lambda: 0.0).feed(b"\xff\xfe \xc3\xa9\n"))

    def test_length(self) -> None:
        """Of a long line the beginning is kept, and no more memory than that."""
        lines = Lines(lambda: 0.0)
        for _ in range(1000):
            assert [] == list(lines.feed(b"x" * 1000))

        assert ["x" * limits().line] == list(lines.feed(b"\n"))
        assert ["next"] == list(lines.feed(b"next\n"))

    def test_number(self) -> None:
        """Of a flood a burst is kept and the rest counted; after a silence there is room again."""
        now = 0.0
        lines = Lines(lambda: now)

        assert BURST == len(list(lines.feed(b"x\n" * 1000)))
        assert (1000 - BURST, 0) == (lines.take_dropped(), lines.take_dropped())
        now = 1.0
        assert RATE == len(list(lines.feed(b"x\n" * 1000)))
        now = 1000.0
        assert BURST == len(list(lines.feed(b"x\n" * 1000)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain é", "plain é"), ("\x1b[31m", "\\x1b[31m"), ("a\nb\t", "a\\nb\\t"), ("\u202e", "\\u202e")],
)
def test_printable(text: str, shown: str) -> None:
    """What would steer a terminal is written out."""
    assert shown == printable(text)
