"""Readers and cards from end to end: pcscd, the broker's watch, its subscribers, and `p11host readers`."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from brokers import PATIENCE, Broker, Starter, module
from cards.hold import connected
from cards.piv import Piv, Stranger
from cards.place import OPENSC, Hearing, Place, configured, interrupted, line_of, placed, slot_of
from cards.vpcd import Rack
from elf import Library
from hand import Screen

from p11host import helper_path
from p11host.cards.codes import NoCardError, ProtocolMismatchError, SharingError, error_named
from p11host.cards.reach import service_of
from p11host.cards.subscriber import Subscriber
from p11host.client import Attached
from p11host.config import choose, load
from p11host.throwaway import Token
from p11host.wire import RefusedError

#: An answer to reset that no reader can take.
TOO_LONG = bytes(40)
NAME = "Virtual PCD 00 00"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a place with two readers."""
    with placed(tmp_path_factory.mktemp("readers"), "Virtual PCD") as made:
        yield made


@pytest.fixture
def hearing(place: Place) -> Iterator[Hearing]:
    """Return a subscriber, where no card is in."""
    for slot in place.rack.slots:
        slot.remove()
    made = Hearing(place)
    made.until_full()
    yield made
    made.subscriber.close()


def test_cards_come_and_go(place: Place, hearing: Hearing) -> None:
    """Each card that comes or goes is told with its reader, its ATR and a number, without a gap."""
    place.rack.slots[1].insert(Stranger())
    inserted = hearing.until("inserted")
    place.rack.slots[1].remove()
    removed = hearing.until("removed")

    assert ["opensc"] == hearing.state["modules"]
    assert (True, Stranger().atr, 1) == (
        inserted["reader"]["card"],
        inserted["reader"]["atr"],
        slot_of(inserted),
    )
    assert not removed["reader"]["card"]
    assert list(range(hearing.numbers[0], hearing.numbers[0] + len(hearing.numbers))) == hearing.numbers


def test_coming_back(place: Place, hearing: Hearing) -> None:
    """Whoever comes back with his last number hears what he has missed, and of each thing once."""
    last = hearing.numbers[-1]
    place.rack.slots[0].insert(Stranger())
    hearing.until("inserted")
    with place.open() as channel:
        state = channel.call("readers", [{"since": last}], PATIENCE)
        old = channel.call("readers", [{"since": 1}], PATIENCE)

    assert (True, ["inserted"]) == (state["complete"], [each["change"] for each in state["changes"]])
    assert not old["complete"]


def test_subscribed_once(place: Place) -> None:
    """A channel that is told already is refused a second subscription, and answers as before."""
    with place.open() as channel:
        channel.call("readers", [{"subscribe": True}], PATIENCE)
        with pytest.raises(RefusedError):
            channel.call("readers", [{"subscribe": True}], PATIENCE)
        assert "ok" == channel.call("readers", [{}], PATIENCE)["service"]


def test_pcscd_killed_and_started(place: Place, hearing: Hearing) -> None:
    """When pcscd dies its readers are gone, and when one runs again they are there, with what is in them."""
    place.rack.slots[0].insert(Stranger())
    hearing.until("inserted")
    place.rack.kill()
    said = hearing.until("service")
    place.rack.start()
    back = hearing.until("service")
    hearing.until_full(0)

    assert said["service"].startswith("SCARD_")
    assert "ok" == back["service"]
    assert [True, False] == [hearing.readers[name]["card"] for name in sorted(hearing.readers)]


def test_swap_between_two_looks(place: Place, hearing: Hearing) -> None:
    """Another card in a reader is a removal and an insertion, also for one who was not listening then."""
    place.rack.slots[0].insert(Piv(keys={}))
    hearing.until("inserted")
    last = hearing.numbers[-1]
    place.rack.slots[0].remove()
    hearing.until("removed")
    place.rack.slots[0].insert(Stranger())
    hearing.until("inserted")
    with place.open() as channel:
        state = channel.call("readers", [{"since": last}], PATIENCE)

    assert ["removed", "inserted"] == [
        each["change"] for each in state["changes"] if each["change"] != "used"
    ]


def test_command(place: Place, hearing: Hearing) -> None:
    """`readers` shows readers, cards, modules that serve them and who may use them, as text and as JSON."""
    place.rack.slots[0].insert(Piv())
    place.rack.slots[1].insert(Stranger())
    hearing.until_full(0, 1)
    with place.open() as channel:
        (user,) = channel.attach(PATIENCE)
        status, text = place.run("readers", "--json")
        shown = " ".join(place.run("readers")[1].split())
        close_doors([user])
    said = json.loads(text)
    first, second = said["readers"]
    (holder,) = (each for each in said["applications"] if each.startswith("test["))

    assert (0, "ok", ["opensc"]) == (status, said["service"], said["modules"])
    assert re.fullmatch(rf"test\[{os.getpid()}\] by opensc, helper \d+", holder)
    assert f"{NAME} 3b951381018073ff01000b " in shown
    assert "opensc: 'key 9A'" in shown
    assert f"may be using cards: {holder}" in shown
    assert [{"module": "opensc", "slot": 0, "token": "key 9A", "error": None}] == first["slots"]
    assert ["CKR_TOKEN_NOT_RECOGNIZED"] == [each["error"] for each in second["slots"]]
    assert Stranger().atr.hex() == second["atr"]
    assert 0 == place.run("readers", "--no-ask")[0]


@pytest.mark.usefixtures("hearing")
def test_watch(place: Place) -> None:
    """`readers --watch` prints the state and each change as it comes, and ends by Ctrl-C in order."""
    with place.running("readers", "--watch", "--json", "--no-ask") as process:
        begun = line_of(process)
        place.rack.slots[0].insert(Stranger())
        changed = line_of(process)
        ended = interrupted(process)

    assert [False, False] == [reader["card"] for reader in begun["readers"]]
    assert ("inserted", "3b00") == (changed["change"], changed["reader"]["atr"])
    assert (0, "") == ended


@pytest.mark.usefixtures("hearing")
def test_watch_on_a_terminal(place: Place) -> None:
    """On a terminal the table changes as cards move, with the tokens that modules see then."""
    ours, theirs = os.openpty()
    with place.running("readers", "--watch", stdout=theirs) as process:
        os.close(theirs)
        screen = Screen(process.pid, ours)
        screen.expect("no token")
        place.rack.slots[0].insert(Piv())
        screen.expect("'key 9A'")
        screen.seen = ""
        place.rack.slots[0].remove()
        screen.expect("no token")
        process.send_signal(signal.SIGINT)
        assert 0 == screen.end()


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("pcscd", "pcscd does not run (SCARD_E_NO_SERVICE); install and start pcscd"),
        (
            "pyscard",
            "pyscard is not installed (no pyscard); run: apt-get install libpcsclite-dev gcc, then pip",
        ),
    ],
)
def test_what_is_missing(tmp_path: Path, missing: str, said: str) -> None:
    """Without pcscd, or without pyscard, `readers` says in a line what to do."""
    config = configured(tmp_path, {"PCSCLITE_CSOCK_NAME": str(tmp_path / "pcscd.comm")})
    (tmp_path / "smartcard.py").write_text("raise ImportError\n")
    process = subprocess.run(
        [sys.executable, "-m", "p11host", "readers", "--no-ask", "--config", str(config)],
        env=os.environ | ({"PYTHONPATH": str(tmp_path)} if missing == "pyscard" else {}),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (1, "") == (process.returncode, process.stderr)
    assert said in " ".join(process.stdout.split())


def test_no_rights(tmp_path: Path) -> None:
    """A pcscd that is not for this user is told from one that does not run."""
    program = "import os, sys; from p11host.cards.layer import Pyscard; pcsc = Pyscard(sys.argv[1]); "
    program += "os.getuid() or os.setuid(65534); pcsc.establish()"
    path = tmp_path / "pcscd.comm"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", program, path], cwd="/", capture_output=True, timeout=PATIENCE, check=False
        )
    assert b"codes.AccessError: " in done.stderr
    assert b"(SCARD_E_NO_ACCESS); see polkit's rules" in done.stderr


def test_who_reaches_cards(tmp_path: Path, token: Token) -> None:
    """Profiles tell which modules reach PC/SC: OpenSC does, SoftHSM does not, nor one that is unknown."""
    unknown = Library().write(tmp_path / "unknown.so")
    path = tmp_path / "p11host.toml"
    path.write_text(
        module("soft", token.provider)
        + module("opensc", OPENSC, env={"PCSCLITE_CSOCK_NAME": "/run/other/pcscd.comm"})
        + module("unknown", unknown)
        + module("free", unknown, sandbox="off")
    )
    found = {each.name: service_of(each) for each in load(choose(path)).modules}

    assert Path("/run/other/pcscd.comm") == found.pop("opensc")
    assert found.pop("free") is not None
    assert {"soft": None, "unknown": None} == found


def test_doctor(place: Place, hearing: Hearing) -> None:
    """`doctor` tells a card in another's hands from one that does not answer, and what to do about each."""
    place.rack.slots[0].insert(Stranger())
    place.rack.slots[1].insert(Stranger(TOO_LONG))
    hearing.until_full(0, 1)
    with connected(place.rack, "Virtual PCD 00 00", exclusive=True):
        said = json.loads(place.run("doctor", "--json")[1])
    (part,) = [part for part in said["parts"] if part["name"] == "cards"]
    first, second = sorted(
        (each for each in part["findings"][1:] if each["do"]), key=lambda each: str(each["text"])
    )

    assert ("warning", "problem") == (first["level"], second["level"])
    assert "SCARD_E_SHARING_VIOLATION" in first["text"]
    assert "scdaemon" in first["do"]
    assert "SCARD_W_UNPOWERED_CARD" in second["text"]
    assert "insert it again" in second["do"]


@pytest.mark.usefixtures("hearing")
def test_events(place: Place) -> None:
    """`events` prints slots' events as applications get them and those of readers, in one stream."""
    found: dict[str, Mapping[str, Any]] = {}
    with place.running("events", "--json") as process:
        assert "readers" == line_of(process)["source"]
        place.rack.slots[0].insert(Piv())
        while len(found) < 2:
            said = line_of(process)
            if said.get("token") or said.get("change") == "inserted":
                found[said["source"]] = said
        ended = interrupted(process)

    assert ("opensc", "key 9A") == (found["slot"]["module"], found["slot"]["token"])
    assert NAME == found["slot"]["description"] == found["reader"]["reader"]["name"]
    assert (0, "") == ended


def test_exclusive_use(place: Place, hearing: Hearing) -> None:
    """A card in another's hands is a sharing violation, and no mismatch of protocols."""
    place.rack.slots[0].insert(Stranger())
    hearing.until_full(0)
    with connected(place.rack, NAME, exclusive=True):
        while hearing.until("used", 0)["reader"].get("use") != "exclusive":
            pass
        said = json.loads(place.run("readers", "--json", "--no-ask")[1])
        with pytest.raises(SharingError, match="SCARD_E_SHARING_VIOLATION"):
            try_card(place.rack)
    try_card(place.rack)

    assert ["exclusive"] == [each["use"] for each in said["readers"] if each["name"] == NAME]


def test_card_that_is_none(place: Place, hearing: Hearing) -> None:
    """A card that answers nonsense is a mismatch of protocols; without a card there is no card."""
    with pytest.raises(NoCardError, match="SCARD_E_NO_SMARTCARD"):
        try_card(place.rack)
    place.rack.slots[0].insert(Stranger(bytes(1)))
    hearing.until_full(0)
    with pytest.raises(ProtocolMismatchError, match="SCARD_E_PROTO_MISMATCH"):
        try_card(place.rack)


def try_card(rack: Rack) -> None:
    """Try the card in the first slot, in a process of its own, and raise what it raised."""
    program = f"from p11host.doctor.cards import try_card; try_card({NAME!r}, {str(rack.socket)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode:
        kind, name = re.search(r"codes\.(\w+): .*\((SCARD_\w+)\);", done.stderr).groups()  # type: ignore[union-attr]
        error = error_named(name)
        assert kind == type(error).__name__
        raise error


def test_machine_without_cards(tmp_path: Path, token: Token) -> None:
    """Where no module reaches PC/SC nothing of it is loaded or said; where one does and nobody is, a line."""
    opensc = configured(tmp_path, {"PCSCLITE_CSOCK_NAME": str(tmp_path / "pcscd.comm")}).read_text()
    starter = Starter(tmp_path, helper_path())
    try:
        plain = starter.start(module("soft", token.provider, env=token.env))
        close_doors(plain.attach())
        maps = Path(f"/proc/{plain.process.pid}/maps").read_bytes()
        assert (False, False) == (b"pcsclite" in maps, b"scard" in maps)
        assert 0 == plain.end()
        assert [] == about_cards(plain)
        broker = starter.start(opensc)
        close_doors(broker.attach())
        broker.wait_event("cards.unwatched", service="SCARD_E_NO_SERVICE")
        with broker.channel() as channel:
            channel.call("readers", [{}], PATIENCE)
        broker.end()
        assert [] == about_cards(broker)
    finally:
        starter.end_all()


def about_cards(broker: Broker) -> list[str]:
    """Return what the log of a broker that has ended says of cards, where that was not waited for."""
    assert broker.process.stderr is not None
    left = [json.loads(line) for line in broker.process.stderr]
    assert [each for each in left if each["event"] == "broker.stopped"]
    names = [each["event"] for each in (*broker.events, *left)]
    return [name for name in names if name.startswith(("card", "reader"))]


@pytest.mark.usefixtures("hearing")
def test_broker_restarted(place: Place, tmp_path: Path) -> None:
    """A subscriber whose broker ends goes on with the next, and is told that what was missed is not known."""
    config = configured(tmp_path, place.rack.env).read_text()
    starter = Starter(tmp_path, helper_path())
    try:
        first = starter.start(config)
        with Subscriber(first.channel) as subscriber:
            begun = subscriber.begin()
            assert 0 == first.end()
            assert "cards.stuck" not in about_cards(first)
            starter.start(config)
            said = subscriber.hear(PATIENCE)
            place.rack.slots[0].insert(Stranger())
            change = subscriber.hear(PATIENCE)
            while change is not None and change["change"] != "inserted":
                change = subscriber.hear(PATIENCE)
    finally:
        starter.end_all()

    assert said is not None
    assert (False, 2) == (said["complete"], len(said["readers"]))
    assert begun["sequence"] < said["sequence"]
    assert change is not None


def close_doors(modules: Iterable[Attached]) -> None:
    """Close the doors of helpers."""
    for each in modules:
        if each.door is not None:
            os.close(each.door)
