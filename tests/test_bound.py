"""Sessions end with their token, also where the provider does not notice (section 4.11 of PROTOCOL.md)."""

import ctypes
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from application import Shim, helpers, in_child, report
from board import FIRST_SLOT, Board
from brokers import PATIENCE, Starter, module
from cards.piv import Piv
from cards.place import Hearing, placed
from containment import watch
from cryptoki import ULONG, constant, struct
from life import Host, Hosting, Workshop, has_ended

from p11host import helper_path
from p11host.cards.reach import needs_check
from p11host.client import Channel, Door
from p11host.config import choose, load
from p11host.helper import Confined, Spawned, spawn
from p11host.tables import tables

pytest_plugins = ["life_fixtures", "broker_fixtures"]

NEVER = 3_600_000
OK, GONE, OVER = "CKR_OK", "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"
PIN = b"1234"
SERIAL = constant("CKF_SERIAL_SESSION")


@pytest.fixture(scope="session")
def blind(workshop: Workshop) -> Path:
    """Return the provider that does not notice what becomes of its tokens."""
    return workshop.provider("blind")


def name_of(rv: int) -> str:
    """Return the name of a CK_RV."""
    known = tables().constant("ckr", rv)
    return known.name if known else hex(rv)


class Blind:
    """A module of that provider: what is in its slots, and what calls with sessions have reached it."""

    def __init__(self, directory: Path, name: str = "blind", slots: int = 2) -> None:
        self.board = Board(directory / f"{name}.board", slots)
        self._log = directory / f"{name}.log"
        self._name = name

    def table(
        self, provider: Path, *, check: bool = True, env: dict[str, str] | None = None, **keys: Any
    ) -> str:
        """Return its table."""
        mine = {"READERS_BOARD": str(self.board.path), "BLIND_LOG": str(self._log)} | (env or {})
        settings: dict[str, Any] = {"token-check": check, "event-interval": NEVER} | keys
        return module(self._name, provider, env=mine, sandbox="off", **settings)

    def heard(self, token: int) -> list[str]:
        """Return the functions whose calls with a session have reached that token."""
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return [name for name, _, number in lines if int(number) == token]


# ---- through the shim: the watch notices ----


def begin() -> tuple[Shim, list[int]]:
    """Initialise the library; return it and its slots."""
    shim = Shim()
    shim.must("C_Initialize", ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(flags=2)))
    return shim, shim.slots()


def look(shim: Shim) -> None:
    """Have the watches look at all slots, as who waits for events does."""
    while shim.rv("C_WaitForSlotEvent", constant("CKF_DONT_BLOCK"), ctypes.byref(ULONG()), None) == OK:
        pass


def login(shim: Shim, session: int) -> str:
    """Log the user in."""
    return shim.rv("C_Login", session, constant("CKU_USER"), PIN, len(PIN))


def random(shim: Shim, session: int) -> str | int:
    """Return the token that a command reaches, or why it reaches none."""
    room = (ctypes.c_ubyte * 1)()
    rv = shim.rv("C_GenerateRandom", session, room, 1)
    return room[0] if rv == OK else rv


@pytest.mark.parametrize("how", ["exchanged", "gone", "back"])
def test_seen_by_the_watch(starter: Starter, blind: Path, tmp_path: Path, how: str) -> None:
    """Who waits for events has the sessions of a token end with it, and no others; new ones log in anew."""
    one, other = Blind(tmp_path), Blind(tmp_path, "other", 1)
    for board, slot, token in ((one.board, 0, 11), (one.board, 1, 33), (other.board, 0, 44)):
        board.put(slot, token)
    host = watch(starter, one.table(blind), other.table(blind))
    said = host.play(swap_and_go_on, str(tmp_path), how)

    assert [11, 33, 44] == said["before"]
    assert [GONE, OVER, OVER, OVER, 33, 44] == said["after"]
    token = 22 if how == "exchanged" else 11
    assert [token, OK, True] == said["new"]
    kind = "exchanged" if how == "exchanged" else "gone"
    line = str(host.event("helper.stderr", module="blind")["line"])
    assert f"token.{kind} slot={FIRST_SLOT} sessions=2" in line
    later = ["C_CloseSession"] * 2 + ["C_OpenSession", "C_GetSessionInfo", "C_GenerateRandom", "C_Login"]
    assert how != "exchanged" or later == one.heard(22)[: len(later)]


def swap_and_go_on(directory: str, how: str) -> dict[str, Any]:
    """Use sessions, let a token go, use them again, and a new one."""
    board, (shim, slots) = Blind(Path(directory)).board, begin()
    sessions = [shim.open_session(slots[each]) for each in (0, 0, 1, 2)]
    one, two, *others = sessions
    assert login(shim, one) == OK
    before = [random(shim, each) for each in (one, *others)]
    look(shim)
    board.put(0, 22 if how == "exchanged" else 0)
    look(shim)
    if how == "back":
        board.put(0, 11)
    after = [random(shim, one), login(shim, one), random(shim, one), random(shim, two)]
    after += [random(shim, each) for each in others]
    if how == "gone":
        board.put(0, 11)
    new = shim.open_session(slots[0])
    assert not shim.is_logged_in(new)
    return {
        "before": before,
        "after": after,
        "new": [random(shim, new), login(shim, new), shim.is_logged_in(new)],
    }


def test_a_family(hosting: Hosting, blind: Path, tmp_path: Path) -> None:
    """Where processes share a helper, the sessions of all end with the token, also what a child inherits."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    said = hosting(module.table(blind, fork="inherit")).play(swap_in_a_child, str(tmp_path))

    assert [[11, 11, GONE, OVER], OVER, OVER, 22] == said


def swap_in_a_child(directory: str) -> list[Any]:
    """Let a child use its parent's session and one of its own, and the token go; then ask all."""
    board, (shim, slots) = Blind(Path(directory)).board, begin()
    session = shim.open_session(slots[0])

    def swap() -> list[str | int]:
        mine = shim.open_session(slots[0])
        before = [random(shim, session), random(shim, mine)]
        look(shim)
        board.put(0, 22)
        look(shim)
        return [*before, random(shim, session), random(shim, mine)]

    said = [in_child(swap), random(shim, session), in_child(lambda: random(shim, session))]
    return [*said, random(shim, shim.open_session(slots[0]))]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_not_resumed(hosting: Hosting, blind: Path, tmp_path: Path, when: str) -> None:
    """A session whose token went is not opened again with the next helper, and no other gets the PIN."""
    pin = tmp_path / "pin"
    pin.write_bytes(PIN)
    pin.chmod(0o400)
    module = Blind(tmp_path)
    module.board.put(0, 11)
    keys: dict[str, Any] = {"resume": True, "pin-source": f"file:{pin}"}
    said = hosting(module.table(blind, **keys)).play(swap_and_crash, str(tmp_path), when == "before")

    assert [GONE if when == "before" else 11, 22, OVER, 11 if when == "before" else OVER] == said
    assert "C_Login" not in module.heard(22)


def swap_and_crash(directory: str, before: bool) -> list[str | int]:  # noqa: FBT001 (comes as JSON)
    """Log in, let the token go, before the helper dies and so that it is noticed or after that; go on."""
    board, (shim, slots) = Blind(Path(directory)).board, begin()
    session = shim.open_session(slots[0])
    assert login(shim, session) == OK
    look(shim)
    board.put(0, 22 if before else 11)
    look(shim)
    said = [random(shim, session)]
    end_helper()
    board.put(0, 22)
    new = shim.open_session(slots[0])
    assert not shim.is_logged_in(new)
    said += [random(shim, new), random(shim, session)]
    end_helper()
    board.put(0, 11)
    return [*said, random(shim, shim.open_session(slots[0])) if before else random(shim, session)]


def end_helper() -> None:
    """Kill our helper, and wait until it is gone."""
    pid = helpers()["blind"]
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)


def test_a_key_of_another_token(hosting: Hosting, blind: Path, tmp_path: Path) -> None:
    """What is called as a key of the token before is not found again: nothing is signed by another."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    said = hosting(module.table(blind, resume=True)).play(sign_with_two, str(tmp_path))

    assert [OK, OK, "CKR_OBJECT_HANDLE_INVALID"] == said
    assert (2, 0) == tuple(module.heard(each).count("C_SignInit") for each in (11, 22))


def sign_with_two(directory: str) -> list[str]:
    """Sign with a key in three lives of the helper: the token of the third is another."""
    board, (shim, slots) = Blind(Path(directory)).board, begin()
    session, key, count = shim.open_session(slots[0]), ULONG(), ULONG()
    shim.must("C_FindObjectsInit", session, None, 0)
    shim.must("C_FindObjects", session, ctypes.byref(key), 1, ctypes.byref(count))
    shim.must("C_FindObjectsFinal", session)
    mechanism = struct("CK_MECHANISM")(mechanism=constant("CKM_RSA_PKCS"))
    said = []
    for token in (11, 11, 22):
        board.put(0, token)
        session = shim.open_session(slots[0])
        said.append(shim.rv("C_SignInit", session, ctypes.byref(mechanism), key))
        end_helper()
    return said


def test_inherited_and_not_used_before(hosting: Hosting, blind: Path, tmp_path: Path) -> None:
    """A child does not begin on another token with what it has inherited, though nobody was told."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    host = hosting(module.table(blind, fork="inherit", check=False))
    assert [11, OVER, 22] == host.play(swap_before_use, str(tmp_path))
    assert 2 == len(module.heard(11))  # the parent's session, used once


def swap_before_use(directory: str) -> list[Any]:
    """Open a session, and let the token go before a child uses it."""
    board, (shim, slots) = Blind(Path(directory)).board, begin()
    session = shim.open_session(slots[0])
    before = random(shim, session)
    board.put(0, 22)
    return [
        before,
        *in_child(lambda: [random(shim, session), random(shim, shim.open_session(slots[0]))]),
    ]


# ---- without a watch: the broker hears of a card ----


class Alone:
    """A helper without a broker, and a channel to it."""

    def __init__(self, spawned: Spawned, channel: Channel) -> None:
        self._spawned = spawned
        self._channel = channel

    def open(self, slot: int = 0) -> int:
        """Open a session; return the provider's number of it."""
        rv, session = self._channel.call("C_OpenSession", [FIRST_SLOT + slot, SERIAL, True])
        assert (OK, True) == (name_of(rv), isinstance(session, int))
        return int(session)

    def random(self, session: int) -> str | int:
        """Return the token that a command reaches, or why it reaches none."""
        rv, data = self._channel.call("C_GenerateRandom", [session, [True, 1]])
        return data[0] if rv == 0 else name_of(rv)

    def login(self, session: int) -> str:
        """Log the user in."""
        return name_of(self._channel.call("C_Login", [session, constant("CKU_USER"), PIN])[0])

    def close(self, session: int) -> str:
        """Close a session."""
        return name_of(self._channel.call("C_CloseSession", [session])[0])

    def close_all(self, slot: int = 0) -> str:
        """Close all sessions of a slot."""
        return name_of(self._channel.call("C_CloseAllSessions", [FIRST_SLOT + slot])[0])

    def move(self) -> None:
        """Tell it that a card has moved, as the broker does."""
        self._spawned.look()

    def line(self) -> str:
        """Return the next line that it writes."""
        ready, _, _ = select.select([self._spawned.stderr], [], [], PATIENCE)
        assert ready, "it says nothing"
        return os.read(self._spawned.stderr, 4096).decode()


@contextmanager
def alone(directory: Path, table: str) -> Iterator[Alone]:
    """Start a helper for a module."""
    config = directory / "p11host.toml"
    config.write_text(table)
    (configured,) = load(choose(config)).modules
    spawned = spawn(helper_path(), configured, (1024, 1024), Confined())
    try:
        with Door.of_helper(spawned.door.detach()) as door, door.open("test", PATIENCE) as channel:
            yield Alone(spawned, channel)
    finally:
        os.kill(spawned.pid, signal.SIGKILL)
        os.waitpid(spawned.pid, 0)
        for descriptor in (spawned.pidfd, spawned.stderr):
            os.close(descriptor)
        spawned.slate.close()
        spawned.trace.close()


def test_a_card_has_moved(blind: Path, tmp_path: Path) -> None:
    """When the broker says that a card moved the sessions of one that went end, though nobody waits."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    module.board.put(1, 33)
    with alone(tmp_path, module.table(blind)) as helper:
        old, other = [helper.open(), helper.open()], helper.open(1)
        module.board.put(0, 22)
        assert [22, 33] == [helper.random(each) for each in (old[0], other)]  # nobody knows
        before = module.heard(22)
        helper.move()
        assert f"token.exchanged slot={FIRST_SLOT} sessions=2" in helper.line()

        assert [GONE, 33, OVER] == [helper.random(each) for each in (old[0], other, old[0])]
        assert OVER == helper.close(old[1])
        assert 22 == helper.random(helper.open())
        assert ["C_CloseSession"] * 2 + ["C_OpenSession", "C_GenerateRandom"] == module.heard(22)[
            len(before) :
        ]


def test_a_number_is_not_given_anew(blind: Path, tmp_path: Path) -> None:
    """A session on the new token has no number of one on the old whose holder has not been told yet."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    with alone(tmp_path, module.table(blind)) as helper:
        old = [helper.open() for _ in range(3)]
        module.board.put(0, 22)
        helper.move()
        helper.line()
        new = helper.open()
        assert [new, GONE, 22] == [max(old) + 1, *(helper.random(each) for each in (old[1], new))]
        assert old[1] == helper.open()
        assert OK == helper.close_all()
        assert min(old) == helper.open()


def test_a_provider_that_does_not_close(blind: Path, tmp_path: Path) -> None:
    """Sessions that the provider cannot close are refused all the same."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    with alone(tmp_path, module.table(blind, env={"BLIND_STUBBORN": "1"})) as helper:
        old = helper.open()
        module.board.put(0, 22)
        helper.move()
        helper.line()
        new = helper.open()

        assert [GONE, OVER, OVER, 22] == [helper.random(each) for each in (old, old, old, new)]
        assert 1 == module.heard(22).count("C_GenerateRandom")


def test_another_card_has_moved(blind: Path, tmp_path: Path) -> None:
    """A card that moves elsewhere, and flags that change, end no session; nor does a login of its own."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    with alone(tmp_path, module.table(blind)) as helper:
        session = helper.open()
        helper.move()
        assert 11 == helper.random(session)
        assert OK == helper.login(session)
        module.board.put(1, 33)
        helper.move()
        assert [11, 33] == [helper.random(each) for each in (session, helper.open(1))]
        module.board.put(1, 0)
        helper.move()
        assert f"token.gone slot={FIRST_SLOT + 1} sessions=1" in helper.line()
        assert 11 == helper.random(session)


def test_unless_it_is_configured(blind: Path, tmp_path: Path) -> None:
    """With token-check = false a provider's answers are as they come."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    with alone(tmp_path, module.table(blind, check=False)) as helper:
        session = helper.open()
        module.board.put(0, 22)
        helper.move()
        assert 22 == helper.random(session)


def test_pcsc_tells(blind: Path, tmp_path: Path) -> None:
    """When PC/SC tells of a card, helpers look: the session ends, though nobody asks for events."""
    module = Blind(tmp_path)
    module.board.put(0, 11)
    with placed(tmp_path, "Virtual PCD", module.table(blind)) as place, Hearing(place) as hearing:
        with Host(place.broker.env).playing(use_until_it_ends) as application:
            assert application.report() == 11
            module.board.put(0, 22)
            place.rack.slots[0].insert(Piv(keys={}))
            hearing.until_full(0)

            assert [GONE, 22] == application.report()
        assert "C_CloseSession" in module.heard(22)


def use_until_it_ends() -> list[str | int]:
    """Use a session until it is over, and then a new one."""
    shim, slots = begin()
    session = shim.open_session(slots[0])
    report(said := random(shim, session))
    end = time.monotonic() + PATIENCE
    while isinstance(said, int) and time.monotonic() < end:
        said = random(shim, session)
        time.sleep(0.01)
    return [said, random(shim, shim.open_session(slots[0]))]


@pytest.mark.parametrize(
    ("library", "checked"),
    [("libykcs11.so", True), ("opensc-pkcs11.so", False), ("libsofthsm2.so", False), ("own.so", False)],
)
def test_which_modules(tmp_path: Path, library: str, checked: bool) -> None:  # noqa: FBT001 (a case's)
    """Unless it is configured it is for modules that reach PC/SC and may not notice: others pay nothing."""
    config = tmp_path / "p11host.toml"
    config.write_text(module("card", Path("/usr/lib") / library))
    (configured,) = load(choose(config)).modules

    assert checked == needs_check(configured)
