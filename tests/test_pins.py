"""PINs that the broker holds: where they may be, who reads them, and that a refused one is not used again."""

import os
import pty
import threading
from pathlib import Path

import pytest

from p11host.errors import P11HostError
from p11host.limits import limits
from p11host.pins import Pins, PinSource, ask_on_terminal, parse, read_file

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with a PIN."""
    path = tmp_path / "pin"
    path.write_bytes(b"123456\n")
    path.chmod(0o400)
    return path


def taken(pipe: int) -> bytes:
    """Return what a pipe holds."""
    with os.fdopen(pipe, "rb") as reader:
        return reader.read()


class TestSources:
    """What `pin-source` may say."""

    @pytest.mark.parametrize(
        ("text", "source"),
        [
            ("file:/etc/p11host/pin", PinSource("file", "/etc/p11host/pin")),
            ("credential:hsm-pin", PinSource("credential", "hsm-pin")),
            ("ask", PinSource("ask")),
        ],
    )
    def test_sources(self, text: str, source: PinSource) -> None:
        """A file by its absolute path, a systemd credential by its name, the broker's terminal."""
        assert source == parse(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1234",
            "file:",
            "file:pin",
            "credential:",
            "credential:../x",
            "credential:..",
            "ask:",
            "env:PIN",
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        """Anything else is refused: a PIN itself, too."""
        with pytest.raises(ValueError, match=r"^$"):
            parse(text)


class TestFile:
    """Which files are believed."""

    def test_line_end_is_no_part(self, file: Path) -> None:
        """The end of the line is not part of the PIN."""
        assert b"123456" == read_file(file)

    @pytest.mark.parametrize("mode", [0o440, 0o404, 0o420, 0o640])
    def test_others_may_read_it(self, file: Path, mode: int) -> None:
        """A file that others can read or write is refused, with the command that mends it."""
        file.chmod(mode)
        with pytest.raises(P11HostError, match=f"chmod 0400 {file}"):
            read_file(file)

    @needs_root
    def test_of_another_user(self, file: Path) -> None:
        """A file that belongs to somebody else is refused."""
        os.chown(file, 65534, 65534)
        with pytest.raises(P11HostError, match="belongs to uid 65534; run: chown"):
            read_file(file)

    @pytest.mark.parametrize("content", [b"", b"\n", b"x" * (limits().pin + 1), b"x" * 4096])
    def test_no_pin(self, file: Path, content: bytes) -> None:
        """An empty file and one that is too long hold no PIN."""
        file.chmod(0o600)
        file.write_bytes(content)
        with pytest.raises(P11HostError, match="a PIN has 1 to 255"):
            read_file(file)

    def test_longest(self, file: Path) -> None:
        """A PIN may have 255 bytes."""
        file.chmod(0o600)
        file.write_bytes(b"x" * limits().pin + b"\r\n")
        assert b"x" * limits().pin == read_file(file)

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        """A missing file, a directory and a pipe nobody writes to are errors, and nothing waits."""
        os.mkfifo(tmp_path / "pipe", 0o600)
        for name, reason in (
            ("none", "No such file"),
            (".", "not a regular file"),
            ("pipe", "not a regular file"),
        ):
            with pytest.raises(P11HostError, match=reason):
                read_file(tmp_path / name)


class TestPins:
    """When a PIN is given."""

    def test_given_once_and_again(self, file: Path) -> None:
        """A PIN is given by a pipe, as often as it is asked for."""
        pins, source = Pins(), PinSource("file", str(file))

        assert b"123456" == taken(pins.give("one", source))
        assert b"123456" == taken(pins.give("one", source))

    def test_credential(self, file: Path) -> None:
        """A credential is a file in the directory that systemd names."""
        source = PinSource("credential", file.name)

        assert b"123456" == taken(Pins({"CREDENTIALS_DIRECTORY": str(file.parent)}).give("one", source))
        with pytest.raises(P11HostError, match="LoadCredential=pin"):
            Pins({}).give("one", source)

    def test_refused_is_not_used_again(self, file: Path) -> None:
        """A PIN that was refused is not given again, until another is in its place or somebody allows it."""
        pins, source = Pins(), PinSource("file", str(file))
        pins.refuse("one", source)
        with pytest.raises(P11HostError, match="p11host restart one"):
            pins.give("one", source)

        assert b"123456" == taken(pins.give("two", source))
        pins.allow("one")
        assert b"123456" == taken(pins.give("one", source))
        pins.refuse("one", source)
        file.unlink()
        file.write_bytes(b"654321")
        file.chmod(0o400)
        assert b"654321" == taken(pins.give("one", source))

    def test_asked_once(self) -> None:
        """What was told on the terminal is kept until it is refused or the broker ends."""
        asked: list[str] = []
        pins, source = Pins(), PinSource("ask")

        def ask(prompt: str) -> bytearray:
            asked.append(prompt)
            return bytearray(b"2468")

        pins.ask({"one": source, "other": PinSource("file", "/none")}, ask)
        assert ["PIN for module one, to log in again after a crash (empty for none): "] == asked
        assert [b"2468", b"2468"] == [taken(pins.give("one", source)) for _ in range(2)]
        pins.refuse("one", source)
        pins.allow("one")
        with pytest.raises(P11HostError, match="nobody told the PIN"):
            pins.give("one", source)

    def test_wiped(self) -> None:
        """At the end nothing of what was told is left in memory."""
        pin = bytearray(b"2468")
        pins = Pins()
        pins.ask({"one": PinSource("ask")}, lambda _: pin)
        pins.wipe()

        assert bytes(4) == pin
        with pytest.raises(P11HostError, match="nobody told the PIN"):
            pins.give("one", PinSource("ask"))

    def test_no_terminal(self, caplog: pytest.LogCaptureFixture) -> None:
        """Without a terminal a broker starts all the same, and says which PIN it has not got."""

        def ask(_: str) -> bytearray:
            raise OSError(6, "No such device or address")

        pins = Pins()
        pins.ask({"one": PinSource("ask")}, ask)

        assert ["pin.absent"] == caplog.messages
        with pytest.raises(P11HostError, match="start the broker on a terminal"):
            pins.give("one", PinSource("ask"))


def test_nothing_is_shown() -> None:
    """On a terminal the question is seen, and what is typed is not."""
    pid, terminal = pty.fork()
    if pid == 0:
        os._exit(0 if ask_on_terminal("PIN? ") == b"2468" else 1)
    shown = bytearray()
    reader = threading.Thread(target=read_all, args=(terminal, shown))
    while not shown.endswith(b"PIN? "):
        shown += os.read(terminal, 100)
    os.write(terminal, b"2468\n")
    reader.start()
    _, status = os.waitpid(pid, 0)
    reader.join()
    os.close(terminal)

    assert 0 == status
    assert b"PIN? \r\n" == bytes(shown)


def read_all(terminal: int, shown: bytearray) -> None:
    """Read until the other end is closed."""
    try:
        while data := os.read(terminal, 100):
            shown += data
    except OSError:
        return


def test_too_long_on_a_terminal() -> None:
    """What is typed and longer than any PIN is refused; a part of it would cost a try."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            ask_on_terminal("PIN? ")
        except P11HostError as error:
            os._exit(7 if "a PIN has 1 to" in str(error) else 1)
        os._exit(2)
    shown = bytearray()
    while b"PIN? " not in shown:
        shown += os.read(terminal, 100)
    os.write(terminal, b"1" * (limits().pin + 1) + b"\n")
    reader = threading.Thread(target=read_all, args=(terminal, shown))
    reader.start()
    status = os.waitpid(pid, 0)[1]
    reader.join()
    os.close(terminal)

    assert 7 == os.waitstatus_to_exitcode(status)
    assert b"1" not in shown
