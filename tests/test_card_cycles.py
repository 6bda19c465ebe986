"""A card goes in and out, again and again, under programs that use it: each says so, and works again.

`P11HOST_CARD_CYCLES` is how often; by hand 200.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from brokers import PATIENCE
from cards.piv import Piv
from cards.place import Hearing, Place, limited, placed

from p11host import shim_path

CYCLES = int(os.environ.get("P11HOST_CARD_CYCLES", "3"))
SIGNER = Path(__file__).with_name("cards") / "signer.py"
#: What python-pkcs11 may say of a key whose card is out.
GONE = {"DeviceRemoved", "SessionHandleInvalid"}


class Bench:
    """Programs that use the card, in the environment of a place."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place = place
        self.directory = directory
        self.env = os.environ | dict(place.broker.env)
        (directory / "data").write_text("data")
        askpass = directory / "askpass"
        askpass.write_text("#!/bin/sh\necho 123456\n")
        askpass.chmod(0o700)
        self.agent = {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
        self.agent |= {"SSH_AUTH_SOCK": str(directory / "agent")}

    def run(self, *words: object, **env: str) -> tuple[int, str]:
        """Run a program; return its exit code and what it printed."""
        done = subprocess.run(
            list(map(str, words)),
            env=self.env | env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def tool(self) -> tuple[int, str]:
        """Sign with pkcs11-tool."""
        words = ["--module", shim_path(), "--login", "--pin", "123456", "--id", "01", "--sign"]
        files = ["-i", self.directory / "data", "-o", self.directory / "tool.sig"]
        return self.run("pkcs11-tool", *words, "-m", "SHA256-RSA-PKCS", *files)

    def ssh_add(self, option: str) -> tuple[int, str]:
        """Have the agent take the card's keys, or forget them."""
        return self.run("ssh-add", option, shim_path(), **self.agent)

    def ssh_sign(self, public: Path) -> tuple[int, str]:
        """Have the agent sign with a key that it has."""
        (self.directory / "data.sig").unlink(missing_ok=True)
        data = self.directory / "data"
        return self.run("ssh-keygen", "-Y", "sign", "-f", public, "-n", "test", data, **self.agent)

    @contextmanager
    def running(self, *words: object) -> Iterator[subprocess.Popen[str]]:
        """Run a program until the end, and no longer than all cycles may take."""
        process = subprocess.Popen(
            list(map(str, words)),
            env=self.env,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with limited(process, PATIENCE * (CYCLES + 1)):
            yield process


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.timeout(60 + 40 * CYCLES)
def test_cycles(tmp_path: Path) -> None:
    """Insert, event, login, signature, removal, the right error: python-pkcs11, pkcs11-tool, ssh-agent."""
    card = Piv()
    with placed(tmp_path, "Virtual PCD") as place, Hearing(place) as hearing:
        bench = Bench(place, tmp_path)
        agent = ["ssh-agent", "-D", "-P", shim_path().resolve(), "-a", bench.agent["SSH_AUTH_SOCK"]]
        with bench.running(*agent) as ssh_agent, bench.running(sys.executable, SIGNER) as signer:
            assert "SSH_AUTH_SOCK" in line(ssh_agent)
            assert "ready" == line(signer)
            for _ in range(CYCLES):
                place.rack.slots[0].insert(card)
                hearing.until_full(0)
                with_card(bench, signer)
                place.rack.slots[0].remove()
                hearing.until_full()
                without_card(bench, signer)


def with_card(bench: Bench, signer: subprocess.Popen[str]) -> None:
    """See that everybody signs."""
    assert "signed" == line(signer)
    assert 0 == bench.tool()[0]
    assert 0 == bench.ssh_add("-s")[0]
    listed = bench.run("ssh-add", "-L", **bench.agent)[1]
    public = bench.directory / "card.pub"
    public.write_text(next(each for each in listed.splitlines() if each.startswith("ssh-rsa")) + "\n")
    assert 0 == bench.ssh_sign(public)[0]


def without_card(bench: Bench, signer: subprocess.Popen[str]) -> None:
    """See that everybody says that there is no card."""
    assert line(signer) in GONE
    status, said = bench.tool()
    assert (True, True) == (status != 0, "No slot with a token was found" in said), said
    status, said = bench.ssh_sign(bench.directory / "card.pub")
    assert (True, True) == (status != 0, "agent refused operation" in said), said
    bench.ssh_add("-e")
