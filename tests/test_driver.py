"""As many readers as pcscd has places for, with odd names: one that fails, and a pcscd that hangs.

All the while the system's time jumps for the broker.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from application import report
from board import Board
from brokers import Starter
from cards.driver import CARD, EMPTY, FAILING, PLACES, Slots, driven
from cards.place import Hearing, Place, served
from life import Hosting, Workshop, jumping_clock
from test_events import NEVER, begin, look, wait

from p11host import helper_path
from p11host.cards.codes import HungError
from p11host.doctor import cards as doctor

pytest_plugins = ["life_fixtures"]

#: In a reader's name: no ASCII, what steers a terminal, no UTF-8.
ODD = b"R\xc3\xa9ader \x1b[31m \xff"
ODD_IN_TEXT, ODD_IN_JSON = "R\u00e9ader \\x1b[31m \\udcff", ODD.decode(errors="surrogateescape")


@pytest.fixture(scope="module")
def cabinet(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Iterator[tuple[Place, Slots]]:
    """Return a place with all those readers, and what is in them."""
    directory = tmp_path_factory.mktemp("driver")
    with driven(directory, ODD) as (rack, slots), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", jumping_clock(workshop))
        with served(rack) as place:
            patch.undo()
            yield place, slots


@pytest.fixture
def hearing(cabinet: tuple[Place, Slots]) -> Iterator[Hearing]:
    """Return a subscriber, where no card is in."""
    cabinet[1].clear()
    with Hearing(cabinet[0]) as made:
        made.until_full()
        yield made


def test_as_many_as_there_are_places(cabinet: tuple[Place, Slots], hearing: Hearing) -> None:
    """Where PC/SC has no place left, so that it cannot tell of new readers beside, all are watched."""
    place, slots = cabinet
    assert [ODD + b" 00 %02X" % slot for slot in range(PLACES)] == sorted(hearing.readers)
    for slot in (PLACES - 1, 0):
        slots[slot] = CARD
        assert slot == int(hearing.until("inserted")["reader"]["name"][-2:], 16)
    slots[0] = EMPTY
    hearing.until("removed", 0)
    status, text = place.run("readers", "--no-ask")
    said = json.loads(place.run("readers", "--no-ask", "--json")[1])

    assert (0, PLACES) == (status, text.count(ODD_IN_TEXT))
    assert text.replace("\n", "").isprintable()
    assert [f"{ODD_IN_JSON} 00 0F"] == [each["name"] for each in said["readers"] if each["card"]]


def test_a_reader_that_fails(cabinet: tuple[Place, Slots], hearing: Hearing) -> None:
    """A reader whose driver fails is told of, and others are watched as ever; when it is well it is again."""
    place, slots = cabinet
    slots[3] = FAILING
    failed = hearing.until("fault", 3)
    slots[4] = CARD
    hearing.until("inserted", 4)
    said = place.run("doctor", "--json")[1]
    text = place.run("doctor")[1]
    slots[3] = EMPTY
    well = hearing.until("fault", 3)
    (part,) = [part for part in json.loads(said)["parts"] if part["name"] == "cards"]
    found = [(each["level"], each["text"]) for each in part["findings"]]

    assert ("unavailable", None) == (failed["reader"]["fault"], well["reader"].get("fault"))
    failing = f"{ODD_IN_JSON} 00 03: the reader is known and its driver fails (SCARD_E_READER_UNAVAILABLE)"
    assert [("problem", failing)] == found[1:2]
    assert [("ok", f"{ODD_IN_JSON} 00 04: a card")] == found[2:]
    assert f"{ODD_IN_TEXT} 00 03: the reader is known" in " ".join(text.split())
    assert text.replace("\n", "").isprintable()


def test_cards_prompt_looks(
    cabinet: tuple[Place, Slots], hosting: Hosting, workshop: Workshop, tmp_path: Path
) -> None:
    """When a card moves, a module that reaches PC/SC looks at its slots, whose provider has no wait."""
    board = Board(tmp_path / "board")
    host = hosting(board.module("one", workshop.provider("readers"), env=cabinet[0].rack.env, **NEVER))
    with host.playing(wait_for_one) as application:
        assert "CKR_NO_EVENT" == application.report()
        board.put(0, 1)
        cabinet[1][7] = CARD
        assert 1 == application.report()
        application.end()


def wait_for_one() -> int | str:
    """Wait for an event, when there is none."""
    shim = begin()
    report(look(shim))
    return wait(shim)


def test_hung_pcscd(cabinet: tuple[Place, Slots], tmp_path: Path) -> None:
    """A broker ends when it is told to, also where pcscd hangs, and says so."""
    rack, starter = cabinet[0].rack, Starter(tmp_path, helper_path())
    assert rack.process is not None
    try:
        broker = starter.start((rack.directory / "p11host.toml").read_text())
        with broker.channel() as channel:
            channel.call("readers", [{}])
        broker.wait_event("reader.added")
        rack.process.send_signal(signal.SIGSTOP)
        assert 0 == broker.end()
        broker.wait_event("cards.stuck")
    finally:
        rack.process.send_signal(signal.SIGCONT)
        starter.end_all()


def test_doctor_waits_for_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is tried and hangs, or its pcscd, is a finding after a time."""
    over = threading.Event()
    monkeypatch.setattr(doctor, "TRIAL", 0.1)
    monkeypatch.setattr(doctor, "try_card", lambda *_: over.wait())
    found = doctor.trial("one", os.devnull)
    over.set()

    assert isinstance(found, HungError)
    assert doctor.trial("one", os.devnull) is None


STATE: dict[str, Any] = {
    "service": "ok",
    "readers": [],
    "modules": ["one"],
    "place": "/nowhere/pcscd.comm",
}
MAD = {"name": b"mad", "card": False, "flapping": True}


@pytest.mark.parametrize(
    ("said", "level", "text", "do"),
    [
        ({"service": "unknown"}, "problem", "PC/SC does not answer", "systemctl restart pcscd"),
        ({"service": "SCARD_E_NO_SERVICE"}, "warning", "pcscd does not run", "install and start pcscd"),
        ({"service": "no pyscard"}, "warning", "pyscard is not installed", "pip install pyscard"),
        ({"service": "SCARD_F_INTERNAL_ERROR"}, "problem", "SCARD_F_INTERNAL_ERROR", "journalctl -u pcscd"),
        ({}, "warning", "PC/SC answers and has no reader", "apt-get install libccid"),
        ({"readers": [MAD]}, "warning", "mad: changes too often", "plug it in again"),
    ],
)
def test_doctor_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, said: Mapping[str, Any], level: str, text: str, do: str
) -> None:
    """For each of the usual troubles there is a finding of its weight, and what to do."""
    answers = {"readers": STATE | dict(said), "status": {"pid": os.getpid(), "applications": []}}
    channel = SimpleNamespace(call=lambda method, *_: answers[method])
    door: Any = SimpleNamespace(open=lambda *_: nullcontext(channel))
    monkeypatch.setattr(doctor, "service_of", lambda _: Path("/nowhere/pcscd.comm"))
    part = doctor.cards([cast("Any", None)], door).part

    assert part is not None
    found = part.findings[-1]
    assert (level, True, True) == (found.level, text in found.text, do in (found.do or ""))
