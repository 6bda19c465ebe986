"""Tokens by hand: PINs asked for, refused, set and never shown; tokens made new; Ctrl-C at any moment."""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hand import Hand, hand, waited
from pkcs11 import TokenFlag

from p11host import shim_path
from p11host.errors import LoginError, P11HostError
from p11host.tokens import files, making, pin_calls
from p11host.tokens.files import write_whole
from p11host.tokens.login import Role, from_source, pin_of, tries_left
from p11host.uri import Uri, parse

CTRL_C = "\x03"
INTERRUPTED = 130


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """Return a token for all tests of this file."""
    with hand(tmp_path_factory.mktemp("mine")) as it:
        it.does("keygen", it.own("object=key"), "ec")
        yield it


def source(mine: Hand, name: str, pin: str) -> str:
    """Write a PIN to a file; return its name as a pin-source."""
    file = mine.directory / name
    file.unlink(missing_ok=True)
    file.write_text(pin)
    file.chmod(0o400)
    return f"file:{file}"


class TestAsked:
    """A PIN is asked for on the terminal."""

    def test_unseen(self, mine: Hand) -> None:
        """What is typed is not shown, and is what the token gets."""
        with mine.screen("sign", mine.uri("object=key"), "pin", "-o", "asked.sig") as screen:
            screen.expect("PIN of 'mine': ")
            screen.type(f"{mine.token.pin}\n")

            assert 0 == screen.end()
        assert mine.token.pin not in screen.seen
        assert (mine.directory / "asked.sig").exists()

    def test_wrong(self, mine: Hand) -> None:
        """A wrong one is told with what the token says of tries left, and not asked for again."""
        with mine.screen("list", "--login", mine.uri()) as screen:
            screen.expect("PIN of 'mine': ")
            screen.type("wrong!\n")
            screen.expect("the PIN of 'mine' is wrong; some tries are left, the token does not")

            assert 5 == screen.end()
        assert 1 == screen.seen.count("PIN of 'mine': ")

    def test_none(self, mine: Hand) -> None:
        """With no PIN typed nothing is given to the token, and a listing goes on without."""
        with mine.screen("sign", mine.uri("object=key"), "pin") as screen:
            screen.expect("PIN of 'mine': ")
            screen.type("\n")
            screen.expect("no PIN was typed; nothing was given to the token")

            assert 5 == screen.end()

    def test_no_terminal(self, mine: Hand) -> None:
        """Where there is no terminal it is said how else a PIN is given."""
        line = mine.fails(5, "sign", mine.uri("object=key"))

        assert "no terminal to ask for a PIN on; name a file: '…?pin-source=file:/path'" in line

    def test_ctrl_c(self, mine: Hand) -> None:
        """Ctrl-C instead of a PIN ends the command; no file was made."""
        before = sorted(mine.directory.iterdir())
        with mine.screen("sign", mine.uri("object=key"), "pin", "-o", "never.sig") as screen:
            screen.expect("PIN of 'mine': ")
            screen.type(CTRL_C)
            screen.expect("p11host: interrupted")

            assert INTERRUPTED == screen.end()
        assert before == sorted(mine.directory.iterdir())


def test_for_each_use(mine: Hand) -> None:
    """A key that wants the PIN for each use gets it again, and signs."""
    tool = [
        "pkcs11-tool",
        "--module",
        str(shim_path()),
        "--token-label",
        "mine",
        "--login",
        "--pin",
        mine.token.pin,
    ]
    pair = ["--keypairgen", "--key-type", "EC:secp256r1", "--label", "each", "--always-auth"]
    environ = os.environ | dict(mine.env)
    subprocess.run([*tool, *pair], env=environ, check=True, capture_output=True, timeout=30)
    with mine.screen("sign", mine.uri("object=each"), "pin", "-o", "each.sig") as screen:
        for prompt in ("PIN of 'mine': ", "PIN of 'mine' for this use of the key: "):
            screen.expect(prompt)
            screen.type(f"{mine.token.pin}\n")

        assert 0 == screen.end()
    assert "valid\n" == mine.does("verify", mine.uri("object=each"), "each.sig", "pin").text


class TestRefused:
    """A PIN that a token refuses."""

    def test_given_once(self, mine: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
        """A refused PIN goes to the token once, and never again by itself."""
        calls, real = mine.directory / "calls", pin_calls.login

        def login(session: int, user: int, pin: pin_calls.Pin) -> int:
            with calls.open("a") as file:
                file.write(f"{user}\n")
            return real(session, user, pin)

        monkeypatch.setattr(pin_calls, "login", login)
        line = mine.fails(5, "delete", mine.uri("object=key", "?pin-value=nope"), "--all", "--yes")

        assert "the PIN of 'mine' is wrong; some tries are left" in line
        assert ["1"] == calls.read_text().split()

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (0, "the token does not say how many tries are left"),
            (TokenFlag.USER_PIN_COUNT_LOW, "some tries are left, the token does not say how many"),
            (
                TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_FINAL_TRY,
                "one try is left before it is locked",
            ),
            (TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED, "it is locked now"),
            (TokenFlag.SO_PIN_LOCKED, "the token does not say how many tries are left"),
        ],
    )
    def test_tries_left(self, flags: int, words: str) -> None:
        """What the flags of a token say of its user's PIN is told, and the officer's kept apart."""
        assert words == tries_left(TokenFlag(flags), "user")

    @pytest.mark.parametrize(
        ("flags", "role", "words"),
        [
            (
                TokenFlag.USER_PIN_FINAL_TRY,
                "user",
                "one try is left before the PIN of 'x' is locked; leave it out",
            ),
            (TokenFlag.SO_PIN_FINAL_TRY, "so", "one try is left before the SO PIN of 'x' is locked"),
            (
                TokenFlag.USER_PIN_LOCKED,
                "user",
                "its security officer sets a new one: p11host set-pin --unblock",
            ),
            (TokenFlag.SO_PIN_LOCKED, "so", "the SO PIN of 'x' is locked"),
        ],
    )
    def test_last_try(self, mine: Hand, flags: TokenFlag, role: Role, words: str) -> None:
        """The last try is not spent by a file, and a locked PIN is not asked for."""
        token: Any = SimpleNamespace(flags=flags, label="x", manufacturer_id="", serial=b"", model="")
        token.slot = SimpleNamespace(get_token=lambda: token)
        uri = Uri(pin_source=f"{mine.directory}/pin")

        with pytest.raises(LoginError, match=words), pin_of(token, uri, role):
            pytest.fail("a PIN was given")

    @pytest.mark.parametrize("text", ["|cat pin", "pin", "file:pin", "file://host/pin", "https:/x", ""])
    def test_sources(self, text: str) -> None:
        """Only a file is a source, by its absolute path: no program is run."""
        with pytest.raises(LoginError, match="only a file is read"):
            from_source(text)

    def test_a_file_of_all(self, mine: Hand) -> None:
        """A file that others may read is no place for a PIN."""
        file = mine.directory / "open"
        file.write_text(mine.token.pin)
        file.chmod(0o644)

        assert "others may read or write it; run: chmod 0400" in mine.fails(
            1, "sign", mine.uri("object=key", f"?pin-source={file}")
        )


class TestSet:
    """`set-pin` and `init-token`."""

    def test_from_blank_to_blank(self, mine: Hand) -> None:
        """A token is made, its PINs are changed by their owners, and it is erased by whom may, exactly."""
        officer, user, other = (
            source(mine, "so", "87654321"),
            source(mine, "u", "1111"),
            source(mine, "o", "2222"),
        )
        made = mine.does(
            "init-token", f"pkcs11:?pin-source={user}", "--label", "new one", "--so-pin-source", officer
        ).text.strip()
        key = f"{made};object=k"
        mine.does("keygen", f"{key}?pin-source={user}", "aes:128")
        mine.does("set-pin", f"{made}?pin-source={user}", "--new-pin-source", other)
        refused = mine.fails(5, "list", f"{key}?pin-source={user}", "--uri")
        mine.does("set-pin", f"{made}?pin-source={officer}", "--unblock", "--new-pin-source", user)
        mine.does("set-pin", f"{made}?pin-source={officer}", "--so", "--new-pin-source", other)
        erase = ["init-token", made, "--label", "newer", "--no-user-pin", "--so-pin-source"]
        unasked = mine.fails(2, *erase, other)
        wrong = mine.fails(5, *erase, officer, "--yes")
        mine.does("list", f"{key}?pin-source={user}", "--uri")
        newer = mine.does(*erase, other, "--yes", "--json").json["token"]

        assert "new one" == parse(made).token
        assert "the PIN of 'new one' is wrong" in refused
        assert "Erase pkcs11:token=new%20one" in unasked
        assert "the SO PIN of 'new one' is wrong" in wrong
        assert "newer" == parse(newer).token
        line = mine.fails(5, "sign", f"{newer}?pin-source={user}")
        assert "none is set; run: p11host set-pin --unblock 'pkcs11:token=newer" in line

    def test_typed_twice(self, mine: Hand) -> None:
        """A new PIN is typed twice; two that differ change nothing."""
        with mine.screen("set-pin", mine.uri()) as screen:
            screen.expect("PIN of 'mine': ")
            screen.type(f"{mine.token.pin}\n")
            screen.expect("New PIN: ")
            screen.type("4321\n")
            screen.expect("New PIN again: ")
            screen.type("1234\n")
            screen.expect("the two PINs differ, nothing was changed")

            assert 5 == screen.end()
        assert "4321" not in screen.seen

    def test_usage(self, mine: Hand) -> None:
        """What cannot be meant is refused before anything is asked."""
        assert "a label has 1 to 32 bytes" in mine.fails(2, "init-token", "pkcs11:", "--label", "é" * 17)
        assert "give one of them" in mine.fails(2, "set-pin", mine.uri(), "--so", "--unblock")


class TestLong:
    """Work that takes long."""

    def test_ctrl_c(self, mine: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a terminal it is seen what is done; Ctrl-C ends it at once, whatever the token does."""

        def make(*_: object) -> NoReturn:
            Event().wait()
            raise AssertionError

        monkeypatch.setattr(making, "make", make)
        with mine.screen("keygen", mine.own("object=long"), "rsa:4096") as screen:
            screen.expect("making rsa:4096 on mine")
            screen.type(CTRL_C)
            screen.expect("p11host: interrupted")

            assert INTERRUPTED == screen.end()

    def test_elsewhere(self, mine: Hand) -> None:
        """Where there is no terminal nothing is shown of it, and no colour."""
        done = mine.does("keygen", mine.own("object=quiet"), "aes:128")

        assert b"\x1b" not in done.out


class TestWhole:
    """Files are written whole."""

    @pytest.mark.parametrize("end", [KeyboardInterrupt, OSError])
    def test_or_not_at_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
    ) -> None:
        """Whatever ends the writing, nothing is left, and what was there before still is."""

        def fail(_: int) -> NoReturn:
            raise end

        monkeypatch.setattr("os.fsync", fail)
        (tmp_path / "old").write_bytes(b"old")
        for name, force in (("new", False), ("old", True)):
            with pytest.raises((KeyboardInterrupt, P11HostError)):
                write_whole(tmp_path / name, b"new", files.PUBLIC, force=force)

        assert [tmp_path / "old"] == list(tmp_path.iterdir())
        assert b"old" == (tmp_path / "old").read_bytes()

    def test_devices(self, tmp_path: Path) -> None:
        """A device is written to, never replaced; one that is full, and a directory, are told."""
        null = Path("/dev/null").stat().st_ino
        write_whole(Path("/dev/null"), b"1", files.PUBLIC, force=True)
        with pytest.raises(P11HostError, match="/dev/full: cannot be written: No space left on device"):
            write_whole(Path("/dev/full"), b"1", files.PUBLIC)
        with pytest.raises(P11HostError, match=f"{tmp_path}: is there already|Is a directory"):
            write_whole(tmp_path, b"1", files.PUBLIC, force=True)

        assert null == Path("/dev/null").stat().st_ino
        assert [] == list(tmp_path.iterdir())

    def test_no_room(self, tmp_path: Path) -> None:
        """A file that outgrows what there is room for is told, and not there, nor a part of it."""
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, 1 << 10))
            try:
                write_whole(tmp_path / "big", bytes(1 << 12), files.PUBLIC)
            except P11HostError as error:
                os._exit(7 if "big: cannot be written: File too large" in str(error) else 8)
            os._exit(9)

        assert 7 == waited(pid)
        assert [] == list(tmp_path.iterdir())

    def test_replaced(self, tmp_path: Path) -> None:
        """A file that is there is replaced only when that was said, and has the mode it should have."""
        file = tmp_path / "f"
        write_whole(file, b"1", files.SECRET)
        with pytest.raises(P11HostError, match="is there already"):
            write_whole(file, b"2", files.PUBLIC)
        first = file.read_bytes(), file.stat().st_mode & 0o777
        write_whole(file, b"2", files.PUBLIC, force=True)

        (tmp_path / "link").symlink_to(file)
        with pytest.raises(P11HostError, match="f: is there already"):
            write_whole(tmp_path / "link", b"3", files.PUBLIC)
        (tmp_path / "link").unlink()

        assert (b"1", 0o600) == first
        assert (b"2", 0o644) == (file.read_bytes(), file.stat().st_mode & 0o777)
        assert [file] == list(tmp_path.iterdir())
