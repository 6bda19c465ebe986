"""Tokens by hand: one that counts wrong PINs or has a keypad, and makes keys that no other here does."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import PATIENCE, module
from hand import Hand, waited
from life import Workshop, has_ended

from p11host.start import private_broker
from p11host.throwaway import Token
from p11host.uri import parse

pytest_plugins = ["life_fixtures"]

URI = "pkcs11:token=guarded"
#: So long that no call of a test is ended by them.
DEADLINES = {"short": 600_000, "long": 600_000}


@contextmanager
def guarded(directory: Path, provider: Path, **env: str) -> Iterator[Hand]:
    """Run a broker with a token that guards its PIN."""
    work = directory / "work"
    work.mkdir()
    vault = directory / "vault"
    vault.mkdir()
    state = {"GUARD_STATE": str(vault / "state")} | env
    config = directory / "p11host.toml"
    keys = {"env": state, "sandbox": {"write": [str(vault)]}, "deadlines": DEADLINES}
    config.write_text(module("guard", provider, **keys))
    token = Token(directory, provider, "guarded", pin="1234")
    with private_broker(config) as broker:
        yield replace(Hand(broker.env, token, work))


@pytest.fixture
def counting(tmp_path: Path, workshop: Workshop) -> Iterator[Hand]:
    """Return a token that is locked by the third wrong PIN in a row."""
    with guarded(tmp_path, workshop.provider("guard")) as it:
        yield it


@pytest.fixture
def keypad(tmp_path: Path, workshop: Workshop) -> Iterator[Hand]:
    """Return a token on which the PIN is typed."""
    with guarded(tmp_path, workshop.provider("guard"), GUARD_KEYPAD="1") as it:
        yield it


def pins(it: Hand) -> list[str]:
    """Return the PINs that the token was given, one for each login."""
    log = it.directory.parent / "vault" / "state.log"
    return log.read_text().split() if log.exists() else []


class TestCounting:
    """A token that tells how many tries are left."""

    def test_until_it_is_locked(self, counting: Hand) -> None:
        """Each wrong PIN is given once and told with what is left; the last try is typed, or not made."""
        keygen = ["keygen", f"{URI}?pin-value=9999", "ec"]
        first = counting.fails(5, *keygen)
        second = counting.fails(5, *keygen)
        third = counting.fails(5, *keygen)

        assert ["9999", "9999"] == pins(counting)
        assert "the PIN of 'guarded' is wrong; some tries are left, the token does not say how many" in first
        assert "the PIN of 'guarded' is wrong; one try is left before it is locked" in second
        assert (
            "one try is left before the PIN of 'guarded' is locked; leave it out of the URI, and type it"
            in third
        )
        with counting.screen("keygen", URI, "ec") as screen:
            screen.expect("PIN of 'guarded' (the last try before it is locked): ")
            screen.type("8888\n")
            screen.expect("the PIN of 'guarded' is wrong; it is locked now")
            assert 5 == screen.end()
        locked = counting.fails(5, *keygen)

        assert "is locked; its security officer sets a new one: p11host set-pin --unblock" in locked
        assert ["9999", "9999", "8888"] == pins(counting)

    def test_the_right_one_counts_anew(self, counting: Hand) -> None:
        """After a wrong PIN the right one works, and the next wrong one is the first again."""
        counting.fails(5, "keygen", f"{URI}?pin-value=1", "ec")
        counting.does("keygen", f"{URI}?pin-value=1234", "ec")

        assert "some tries are left" in counting.fails(5, "keygen", f"{URI}?pin-value=2", "ec")
        assert ["1", "1234", "2"] == pins(counting)


class TestKeypad:
    """A token with a keypad of its own."""

    def test_no_pin_is_asked_for(self, keypad: Hand) -> None:
        """A person is sent to the reader, on a terminal and without; the token gets no PIN from here."""
        with keypad.screen("keygen", URI, "ec") as screen:
            assert 0 == screen.end()
        done = keypad.run("keygen", URI, "ec")

        assert "PIN of 'guarded': " not in screen.seen
        assert "enter the PIN of 'guarded' on its reader" in screen.seen
        assert (0, "p11host: enter the PIN of 'guarded' on its reader") == (done.status, done.line)
        assert ["NULL", "NULL"] == pins(keypad)


class TestLattices:
    """ML-DSA and ML-KEM, which no real provider of these tests makes: the token keeps what it was told."""

    @pytest.mark.parametrize(
        ("kind", "mechanism", "number", "may"),
        [
            ("ml-dsa", "CKM_ML_DSA_KEY_PAIR_GEN", 2, {"CKA_VERIFY": True}),
            ("ml-dsa:87", "CKM_ML_DSA_KEY_PAIR_GEN", 3, {"CKA_VERIFY": True}),
            ("ml-kem:512", "CKM_ML_KEM_KEY_PAIR_GEN", 1, {"CKA_ENCAPSULATE": True}),
        ],
    )
    def test_what_the_token_is_told(
        self, counting: Hand, kind: str, mechanism: str, number: int, may: dict[str, bool]
    ) -> None:
        """The mechanism and the parameter set are those of 3.2, and the key is for what its kind is for."""
        config, trace = counting.directory.parent / "p11host.toml", counting.directory / "trace"
        command = [sys.executable, "-P", "-m", "p11host", "keygen", f"{URI};object=k?pin-value=1234", kind]
        done = counting.does("trace", "--json", "--config", config, "-o", trace, "--", *command)
        public, private = done.text.split()
        calls = [json.loads(line) for line in trace.read_text().splitlines()]
        (made,) = [call["arguments"] for call in calls if call["function"] == "C_GenerateKeyPair"]
        template = made["pPublicKeyTemplate"]

        assert ("public", "private", "k") == (parse(public).type, parse(private).type, parse(private).object)
        assert (mechanism, number) == (made["pMechanism"], template["CKA_PARAMETER_SET"])
        assert may.items() <= template.items()
        assert {"CKA_TOKEN": True, "CKA_SENSITIVE": True, "CKA_EXTRACTABLE": False}.items() <= (
            made["pPrivateKeyTemplate"].items()
        )
        assert parse(public).id == bytes.fromhex(template["CKA_ID"])


def test_ctrl_c_in_a_call(tmp_path: Path, workshop: Workshop) -> None:
    """Ctrl-C ends a command that is in a provider's call, however long that may take."""
    with guarded(tmp_path, workshop.provider("guard"), GUARD_HANGS="1") as it:
        out = os.open(os.devnull, os.O_WRONLY)
        pid = it.into(out, "show", f"{URI};object=x")
        os.close(out)
        end = time.monotonic() + PATIENCE
        while "find" not in pins(it):
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(pid, signal.SIGINT)
        ended = has_ended(pid)
        os.kill(pid, signal.SIGKILL)

        assert ended
        assert (130, "p11host: interrupted\n") == (waited(pid), it.said())
