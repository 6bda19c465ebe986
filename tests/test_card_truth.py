"""After a card was reset or swapped the first call that depended on what was before says so.

An application signs with a card by OpenSC, through p11host and without, and cards move between its calls.
What a card has heard is written down: nothing that was meant for one reaches another.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import pytest
from cards.hold import connected
from cards.orders import Application, application
from cards.piv import Key, Piv, new_keys
from cards.place import OPENSC, Hearing, Place, placed
from life import has_ended

#: Instructions of PIV that a card must hear from nobody but who has begun with that card.
VERIFY, AUTHENTICATE = 0x20, 0x87
GONE, OVER, OK = "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID", "CKR_OK"
READER = "Virtual PCD 00 00"


@cache
def keys() -> Mapping[int, Key]:
    """Return the keys that all cards here have: two of them cannot be told apart by these."""
    return dict(new_keys())


@dataclass
class Desk:
    """A reader, and applications that use the card in it."""

    place: Place
    hearing: Hearing

    def put(self, card: Piv) -> None:
        """Take out what is in, and put a card in; PC/SC has seen both."""
        self.clear()
        self.place.rack.slots[0].insert(card)
        self.hearing.until_full(0)

    def clear(self) -> None:
        """Take the card out; PC/SC has seen it."""
        self.place.rack.slots[0].remove()
        self.hearing.until_full()

    @contextmanager
    def signing(self, card: Piv, way: str = "p11host") -> Iterator[Application]:
        """Put a card in, and have an application that has logged in and signed."""
        self.put(card)
        library = "" if way == "p11host" else str(OPENSC)
        env = dict(self.place.broker.env) if way == "p11host" else self.place.opensc
        with application(library, env) as one:
            assert [OK] * 4 == [one.do(each) for each in ("initialize", "open", "login", "sign")]
            yield one


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Return a desk."""
    with placed(tmp_path_factory.mktemp("truth"), "Virtual PCD") as place, Hearing(place) as hearing:
        yield Desk(place, hearing)


@pytest.fixture
def card() -> Piv:
    """Return a card."""
    return Piv(keys=keys())


def meant(card: Piv) -> set[int]:
    """Return what a card has heard that needs a login, or is one."""
    return {VERIFY, AUTHENTICATE} & set(card.heard)


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_another_card(desk: Desk, card: Piv, way: str) -> None:
    """Another card is told by the first call, then the session is over; it has heard nothing not its own."""
    other = Piv(keys=keys())
    with desk.signing(card, way) as one:
        desk.put(other)
        said = [one.do("sign"), one.do("state"), one.do("sign"), one.do("login")]
        heard = meant(other)

        assert (GONE, OVER, OVER, OVER, set()) == (*said, heard)
        assert [OK] * 3 == [one.do(each) for each in ("open", "login", "sign")]


def test_another_card_within_an_operation(desk: Desk, card: Piv) -> None:
    """A signature that was begun with one card is not made by another."""
    other = Piv(keys=keys())
    with desk.signing(card) as one:
        assert one.do("begin") == OK
        desk.put(other)

        assert (GONE, OVER, set()) == (one.do("end"), one.do("state"), meant(other))


@pytest.mark.parametrize("way", ["direct", "p11host"])
def test_reset(desk: Desk, card: Piv, way: str) -> None:
    """A card that another program has reset has forgotten the login, and the next signature says so."""
    with desk.signing(card, way) as one, connected(desk.place.rack, READER) as program:
        program.reset()
        said = [one.do("sign"), one.do("sign")]

        assert ["CKR_USER_NOT_LOGGED_IN"] * 2 == said


def test_reset_within_an_operation(desk: Desk, card: Piv) -> None:
    """A reset between the beginning of a signature and its end is told at its end."""
    with desk.signing(card) as one, connected(desk.place.rack, READER) as program:
        assert one.do("begin") == OK
        program.reset()

        assert ("CKR_USER_NOT_LOGGED_IN", VERIFY) == (one.do("end"), VERIFY if VERIFY in card.heard else 0)
        assert 1 == card.heard.count(VERIFY)


def test_removed_while_it_signs(desk: Desk, card: Piv) -> None:
    """A card that is taken out while it signs: that call says so, later ones find no session."""
    with desk.signing(card) as one:
        card.delay = 1.0
        card.busy.clear()
        one.send("sign")
        card.busy.wait()
        desk.clear()
        card.delay = 0.0

        # OpenSC has a word of its own for it; or a deadlock, which a deadline ends.
        assert one.answer() in (GONE, "CKR_GENERAL_ERROR")
        assert one.do("sign") in (GONE, OVER)
        assert OVER == one.do("state")
        desk.put(card)
        assert [OK] * 3 == [one.do(each) for each in ("open", "login", "sign")]


def test_hung_card(desk: Desk, card: Piv) -> None:
    """A card that does not answer hangs its own call alone: the other reader is watched as ever."""
    with desk.signing(card) as one:
        card.busy.clear()
        card.released.clear()
        one.send("sign")
        card.busy.wait()
        desk.place.rack.slots[1].insert(Piv(keys={}))
        desk.hearing.until_full(0, 1)
        desk.place.rack.slots[1].remove()
        desk.hearing.until_full(0)
        card.released.set()

        assert OK == one.answer()


def test_same_card_again(desk: Desk, card: Piv) -> None:
    """The same card after it was out is another: the old session is over, and a new one works."""
    with desk.signing(card) as one:
        desk.put(card)
        assert (GONE, OVER) == (one.do("sign"), one.do("state"))
        assert 1 == card.heard.count(VERIFY)
        assert [OK] * 3 == [one.do(each) for each in ("open", "login", "sign")]


def test_pcscd_killed(desk: Desk, card: Piv) -> None:
    """When pcscd dies under an application its next call fails; it goes on with the next, and a new login."""
    with desk.signing(card) as one:
        (helper,) = desk.place.helpers()
        desk.place.rack.kill()
        failed = one.do("sign")
        desk.place.rack.start()
        desk.hearing.until_full(0)
        assert has_ended(helper)  # what OpenSC had of PC/SC is of no use any more, and it does not notice

        assert failed in (GONE, "CKR_GENERAL_ERROR")
        assert one.do("state") in (GONE, OVER)
        assert [OK] * 3 == [one.do(each) for each in ("open", "login", "sign")]


def test_pcscd_killed_under_a_waiting_application(desk: Desk, card: Piv) -> None:
    """One who waits for events when pcscd dies hears of it, and of the card when pcscd is back."""
    with desk.signing(card) as one:
        one.do("drain")
        (helper,) = desk.place.helpers()
        one.send("event")
        desk.place.rack.kill()
        assert one.answer() in (OK, GONE, "CKR_GENERAL_ERROR")
        desk.place.rack.start()
        desk.hearing.until_full(0)
        assert has_ended(helper)
        while one.do("slots") == 0:
            one.do("event")

        assert [OK] * 3 == [one.do(each) for each in ("open", "login", "sign")]
