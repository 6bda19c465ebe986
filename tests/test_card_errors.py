"""Errors of PC/SC stay what they are, each by its own name, in the log, in commands and in exceptions.

Sharing violation, reset, removed, protocol mismatch and no service: where each of them can be met.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from brokers import PATIENCE, Starter
from cards.hold import connected
from cards.piv import Piv, Stranger
from cards.place import OPENSC, Hearing, Place, configured, placed

from p11host import helper_path, shim_path
from p11host.cards import codes
from p11host.cards.codes import error_of
from p11host.cli.readers import change_data, change_line

READER, OTHER = "Virtual PCD 00 00", "Virtual PCD 00 01"
SHARING, MISMATCH, NO_SERVICE = "SCARD_E_SHARING_VIOLATION", "SCARD_E_PROTO_MISMATCH", "SCARD_E_NO_SERVICE"
#: What an application is told of its first slot.
LOOK = """
import sys
from p11host.cards.slots import Slots
with Slots(sys.argv[1]) as slots:
    print(slots.slot(slots.numbers()[0]).error)
"""
#: What a Python program is told.
ASK = """
import p11host
for error in p11host.card_errors():
    print(type(error).__name__, error.name, f"{error.code:#x}", error.where)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a place with two readers."""
    with placed(tmp_path_factory.mktemp("errors"), "Virtual PCD") as made:
        yield made


@pytest.fixture
def hearing(place: Place) -> Iterator[Hearing]:
    """Return a subscriber, where no card is in."""
    for slot in place.rack.slots:
        slot.remove()
    with Hearing(place) as made:
        made.until_full()
        yield made


def python(program: str, *words: str | Path, env: Mapping[str, str]) -> str:
    """Run a program in Python; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd="/",
        env=os.environ | dict(env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def findings(place: Place) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what doctor finds of readers, by these, and what it says to do."""
    said = json.loads(place.run("doctor", "--json")[1])
    (part,) = [part for part in said["parts"] if part["name"] == "cards"]
    found = part["findings"]
    return {
        name: each for each in found for name in (READER, OTHER, "who") if each["text"].startswith(name)
    }, said["todo"]


# ---- sharing violation ----


def test_two_applications(place: Place, hearing: Hearing) -> None:
    """A card that one application has for itself is that to all others, and the other card is theirs."""
    for slot in place.rack.slots:
        slot.insert(Piv(keys={}))
    hearing.until_full(0, 1)
    with connected(place.rack, READER, exclusive=True) as holder:
        while hearing.until("used", 0)["reader"].get("use") != "exclusive":
            pass
        heard = hearing.readers[READER.encode()]
        direct = python(LOOK, OPENSC, env=place.opensc)
        shimmed = python(LOOK, shim_path(), env=place.broker.env)
        asked = python(ASK, env=place.broker.env)
        listed = json.loads(place.run("list", "--json")[1])
        missed = place.run("show", "pkcs11:token=none")
        shown = json.loads(place.run("readers", "--json")[1])
        table = " ".join(place.run("readers", "--no-ask")[1].split())

    assert SHARING == heard["error"]
    # Cryptoki has no word for it: this is OpenSC's.
    assert "C_GetSlotInfo: CKR_DEVICE_ERROR" == direct == shimmed
    assert f"SharingError {SHARING} 0x8010000b {READER}" == asked
    first, second = listed["modules"][0]["slots"]
    assert (None, f"CKR_DEVICE_ERROR; {READER}: another program has the card for itself ({SHARING})") == (
        first["token"],
        first["error"],
    )
    assert (OTHER, True, None) == (second["description"], second["token"] is not None, second["error"])
    assert 4 == missed[0]
    assert (
        f"slot 1: CKR_DEVICE_ERROR: the device failed, or is another program's; see: p11host doctor; {READER}"
        in missed[1]
    )
    assert f"({SHARING})" in missed[1]
    assert [SHARING, None] == [each["error"] for each in shown["readers"]]
    assert any(each.endswith(f"[{holder.pid}]") for each in shown["programs"])
    assert f"{READER}: another program has the card for itself ({SHARING}); end that program" in table


def test_sharing_violation_in_the_log(place: Place, hearing: Hearing, tmp_path: Path) -> None:
    """The broker says in a line when a card is not to be had, and in another when it is."""
    place.rack.slots[0].insert(Stranger())
    hearing.until_full(0)
    starter = Starter(tmp_path, helper_path())
    try:
        broker = starter.start(configured(tmp_path, place.rack.env).read_text())
        with broker.channel() as channel:
            channel.call("readers", [{}], PATIENCE)
        broker.wait_event("card.inserted", reader=READER)
        for _ in range(2):
            with connected(place.rack, READER, exclusive=True):
                broker.wait_event("card.exclusive", reader=READER, error=SHARING)
            broker.wait_event("card.released", reader=READER)
        place.rack.slots[0].remove()
        broker.wait_event("card.removed", reader=READER)
        broker.end()
    finally:
        starter.end_all()
    assert not [event for event in broker.events if event["event"] in ("card.exclusive", "card.released")]


# ---- protocol mismatch, beside a sharing violation ----


def test_doctor(place: Place, hearing: Hearing) -> None:
    """`doctor` tells a card in another's hands from one of another protocol, and says once what to do."""
    place.rack.slots[0].insert(Piv(keys={}))
    place.rack.slots[1].insert(Stranger(bytes(1)))
    hearing.until_full(0, 1)
    with connected(place.rack, READER, exclusive=True) as holder:
        found, todo = findings(place)

    assert ("warning", "problem") == (found[READER]["level"], found[OTHER]["level"])
    assert f"{READER}: another program has the card for itself ({SHARING})" == found[READER]["text"]
    assert f"({MISMATCH})" in found[OTHER]["text"]
    assert f"[{holder.pid}]" in found["who"]["text"]
    assert ["cards, module opensc"] == [each.partition(": ")[0] for each in todo if "scdaemon" in each]


def test_change_in_words() -> None:
    """A change that keeps others from a card is told with PC/SC's name, in words and as data."""
    reader = {"name": READER.encode(), "card": True, "use": "exclusive", "error": SHARING, "count": 1}
    change = {"sequence": 1, "change": "used", "reader": reader}

    assert f"{READER}  card    used: exclusive  ({SHARING})" == change_line(change)
    assert (SHARING, "exclusive") == tuple(change_data(change)["reader"][key] for key in ("error", "use"))


# ---- reset, removed ----


def test_reset_and_removed(place: Place, hearing: Hearing) -> None:
    """A card that was reset and one that was removed are two errors, for whoever was connected to it."""
    place.rack.slots[0].insert(Stranger())
    hearing.until_full(0)
    with connected(place.rack, READER) as one, connected(place.rack, READER) as other:
        assert 0 == one.look() & 0xFFFFFFFF
        other.reset()
        reset = error_of(one.look(), READER)
        found, _ = findings(place)
        place.rack.slots[0].remove()
        removed = hearing.until("removed", 0)
        gone = error_of(other.look(), READER)

    assert (codes.ResetError, "SCARD_W_RESET_CARD") == (type(reset), reset.name)
    assert (codes.RemovedError, "SCARD_W_REMOVED_CARD") == (type(gone), gone.name)
    # To one more who connects it is as any other.
    assert "ok" == found[READER]["level"]
    assert "error" not in removed["reader"]


# ---- no service ----


def test_no_service(tmp_path: Path) -> None:
    """Without pcscd that is said by its name, in an exception, and by doctor with one thing to do."""
    config = configured(tmp_path, {"PCSCLITE_CSOCK_NAME": str(tmp_path / "pcscd.comm")})
    starter = Starter(tmp_path, helper_path())
    try:
        broker = starter.start(config.read_text())
        env = {"P11HOST_SOCKET": str(broker.socket)}
        asked = python(ASK, env=env)
        broker.wait_event("cards.unwatched", service=NO_SERVICE)
        words = [sys.executable, "-m", "p11host", "doctor", "--json", "--config", str(config)]
        done = subprocess.run(words, cwd="/", capture_output=True, timeout=PATIENCE, check=False)
        said = json.loads(done.stdout)
    finally:
        starter.end_all()

    assert f"NoServiceError {NO_SERVICE} 0x8010001d" == asked
    assert f"pcscd does not run ({NO_SERVICE})" in [
        finding["text"] for part in said["parts"] for finding in part["findings"]
    ]
    assert [f"cards, module opensc: {codes.NoServiceError.do}"] == [
        each for each in said["todo"] if "pcscd" in each
    ]
