"""A hundred readers from end to end: one is another after a replug, and one moves without an end."""

import json
import threading
from collections.abc import Iterator

import pytest
from cards.crowd import Crowd
from cards.place import Hearing, Place, configured
from cards.vpcd import Rack

from p11host.start import private_broker

#: They end with the number of their place.
NAMES = [b"Reader %02X" % place for place in range(100)]
ANOTHER = b"Another %02X" % 99
MAD, LAST = 40, 99


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    """Return those readers."""
    return Crowd(tmp_path_factory.mktemp("crowd"))


@pytest.fixture(scope="module")
def place(crowd: Crowd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a broker for which they are all that there is."""
    directory = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in crowd.env.items():
            patch.setenv(name, value)
        with private_broker(configured(directory, {"PCSCLITE_CSOCK_NAME": "/nowhere"})) as broker:
            patch.undo()
            yield Place(Rack(directory, ()), broker, {})


@pytest.fixture
def hearing(crowd: Crowd, place: Place) -> Iterator[Hearing]:
    """Return a subscriber who knows of all of them."""
    crowd.plug(NAMES)
    with Hearing(place) as made:
        while sorted(made.readers) != NAMES or any(reader["card"] for reader in made.readers.values()):
            made.next(NAMES)
        yield made


def test_hundred_readers(crowd: Crowd, place: Place, hearing: Hearing) -> None:
    """All are shown, and a card in the last is told of."""
    crowd.move(LAST)
    told = hearing.until("inserted")
    said = json.loads(place.run("readers", "--json", "--no-ask")[1])
    shown = place.run("readers", "--no-ask")[1]

    assert NAMES[LAST] == told["reader"]["name"]
    assert [name.decode() for name in NAMES] == [each["name"] for each in said["readers"]]
    assert [NAMES[LAST].decode()] == [each["name"] for each in said["readers"] if each["card"]]
    assert all(name.decode() in shown for name in NAMES)


def test_renamed_on_replug(crowd: Crowd, hearing: Hearing) -> None:
    """A reader that is plugged in again under another name: the old is gone, and the new one is watched."""
    crowd.plug(NAMES[:LAST])
    crowd.plug([*NAMES[:LAST], ANOTHER])
    gone, added = hearing.until("gone"), hearing.until("added")
    crowd.move(LAST)
    inserted = hearing.until("inserted")

    assert NAMES[LAST] == gone["reader"]["name"]
    assert ANOTHER == added["reader"]["name"] == inserted["reader"]["name"]


def test_a_thousand_changes_a_second(crowd: Crowd, hearing: Hearing) -> None:
    """A reader that changes without end is told of as that, and then seldom; others as ever."""
    over = threading.Event()

    def flap() -> None:
        while not over.wait(0.001):
            crowd.move(MAD)

    mad = threading.Thread(target=flap)
    mad.start()
    try:
        flapping = hearing.until("flapping")
        crowd.move(LAST)
        inserted = hearing.until("inserted", LAST)
    finally:
        over.set()
        mad.join()

    assert NAMES[MAD] == flapping["reader"]["name"]
    assert inserted["sequence"] - flapping["sequence"] < 100
