"""C_WaitForSlotEvent: every event once, from any module, whatever its provider and the other modules do."""

import ctypes
import itertools
import os
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import Shim, helpers, in_child, report, start_threads
from board import Board
from brokers import Starter
from containment import watch
from cryptoki import ULONG, constant, struct
from life import Hosting, Workshop

from p11host import shim_path

pytest_plugins = ["broker_fixtures", "life_fixtures"]

#: Milliseconds between two looks at the slots, where nothing prompts one.
OFTEN: dict[str, Any] = {"event-interval": 20}
NEVER: dict[str, Any] = {"event-interval": 3_600_000}
#: How often a change is forced between look and wait.
RACES = int(os.environ.get("P11HOST_RACES", "200"))
AT_ONCE = 1000
#: Seconds between two looks of one who has nothing else to do.
PAUSE = 0.05
NO_LIBRARY = "CKR_CRYPTOKI_NOT_INITIALIZED"


@pytest.fixture(scope="session")
def readers(workshop: Workshop) -> Path:
    """Return the provider whose slots are on a board."""
    return workshop.provider("readers")


class Boards:
    """Boards of one test, by name."""

    def __init__(self, directory: Path, provider: Path) -> None:
        self._directory = directory
        self._provider = provider

    def module(self, name: str, wait: str = "none", slots: int = 2, **keys: Any) -> str:
        """Make a board; return the table of a module whose slots are on it."""
        return self[name, slots].module(name, self._provider, wait, **keys)

    def __getitem__(self, key: str | tuple[str, int]) -> Board:
        name, slots = (key, 2) if isinstance(key, str) else key
        return Board(self._directory / name, slots)


@pytest.fixture
def boards(tmp_path: Path, readers: Path) -> Boards:
    """Return where boards are."""
    return Boards(tmp_path, readers)


def wait(shim: Shim, flags: int = 0) -> int | str:
    """Wait for an event; return its slot, or the name of what was returned instead."""
    slot = ULONG(0xABCD)
    rv = shim.rv("C_WaitForSlotEvent", flags, ctypes.byref(slot), None)
    return slot.value if rv == "CKR_OK" else rv


def look(shim: Shim) -> int | str:
    """Do as `wait`, without waiting."""
    return wait(shim, constant("CKF_DONT_BLOCK"))


def begin() -> Shim:
    """Initialise the library and list its tokens."""
    shim = Shim()
    shim.must("C_Initialize", ctypes.byref(struct("CK_C_INITIALIZE_ARGS")(flags=2)))
    shim.slots()
    return shim


def has_token(shim: Shim, slot: int) -> bool:
    """Tell whether there is a token in a slot."""
    info = struct("CK_SLOT_INFO")()
    shim.must("C_GetSlotInfo", slot, ctypes.byref(info))
    return bool(info.flags & constant("CKF_TOKEN_PRESENT"))


# ---- each event once ----


@pytest.mark.parametrize("kind", ["none", "good", "never", "at-once", "wrong", "nowhere", "null"])
def test_every_change_once(hosting: Hosting, boards: Boards, tmp_path: Path, kind: str) -> None:
    """Whatever the provider's own wait does, each token that comes or goes is an event, and no more are."""
    host = hosting(boards.module("one", kind, **OFTEN))

    most = {"wrong": 20, "at-once": 20}.get(kind, 8)
    told = host.play(change_and_wait, str(tmp_path))
    assert [1, 2, 2, 1, 1, 2, 1, 2] == [slot for slot, known in told if known]
    assert len(told) <= most


def change_and_wait(directory: str) -> list[tuple[int | str, bool]]:
    """Put tokens into two slots and take them out, each change after the event of the last.

    Some providers tell of an event where nothing is to be seen.
    """
    board, shim, told = Boards(Path(directory), Path())["one"], begin(), []
    for slot, token in [(0, 1), (1, 2), (1, 0), (0, 0), (0, 3), (1, 4), (0, 0), (1, 0)]:
        board.put(slot, token)
        known = False
        while not known:
            event = wait(shim)
            known = event == slot + 1
            told.append((event, known))
    assert look(shim) in (1, 2, "CKR_NO_EVENT")
    return told


def test_another_token_is_two_events(hosting: Hosting, boards: Boards, tmp_path: Path) -> None:
    """Another token in the place of one is an event for that, which was pulled, and one for itself."""
    boards["one"].put(0, 1)
    host = hosting(boards.module("one", **NEVER))

    assert ["CKR_NO_EVENT", 1, 1, "CKR_NO_EVENT"] == host.play(swap, str(tmp_path))


def swap(directory: str) -> list[int | str]:
    """Put a token in another's place."""
    shim = begin()
    none = look(shim)
    Boards(Path(directory), Path())["one"].put(0, 2)
    return [none, *[look(shim) for _ in range(3)]]


@pytest.mark.parametrize("told", ["list", "slot", "token", "no token"])
def test_what_came_before_the_first_wait(hosting: Hosting, boards: Boards, tmp_path: Path, told: str) -> None:
    """A change after the program was told what is in the slots, and before it first waits, is an event."""
    host = hosting(boards.module("one", **NEVER))
    expected = {"list": [1, 2], "slot": [1], "token": [1, 1], "no token": [1]}[told]

    assert [*expected, "CKR_NO_EVENT"] == host.play(change_before, str(tmp_path), told)


def change_before(directory: str, told: str) -> list[int | str]:
    """Be told of a slot in some way; change it, and another that was not there then; then wait."""
    board, shim = Boards(Path(directory), Path())["one"], Shim()
    shim.must("C_Initialize", None)
    if told in ("list", "no token"):
        board.resize(1)
    if told == "token":
        board.put(0, 1)
    info, token = struct("CK_SLOT_INFO")(), struct("CK_TOKEN_INFO")()
    if told == "list":
        shim.slots()
    elif told == "slot":
        shim.must("C_GetSlotInfo", 1, ctypes.byref(info))
    else:
        shim.rv("C_GetTokenInfo", 1, ctypes.byref(token))
    board.resize(2)
    board.put(0, 2)
    board.put(1, 3)
    return told_all(shim)


def told_all(shim: Shim) -> list[int | str]:
    """Look for events until there is none."""
    found = [look(shim)]
    while found[-1] != "CKR_NO_EVENT":
        found.append(look(shim))
    return found


def test_what_was_there_is_no_event(hosting: Hosting, boards: Boards) -> None:
    """A token that was there when the library was initialised is none, told or not."""
    boards["one"].put(0, 1)
    host = hosting(boards.module("one", "good"))

    assert ["CKR_NO_EVENT", "CKR_NO_EVENT"] == host.play(look_at_once)


def look_at_once() -> list[int | str]:
    """Look for an event before anything else, then after a list."""
    shim = Shim()
    shim.must("C_Initialize", None)
    first = look(shim)
    shim.slots()
    return [first, look(shim)]


# ---- many modules ----


def test_any_module_wakes(hosting: Hosting, boards: Boards, tmp_path: Path) -> None:
    """An event of any module wakes who waits for all; none hides another's, whatever the others say."""
    names = ("a", "b", "c", "d")
    kinds = ("none", "good", "never", "null")
    host = hosting(*[boards.module(name, kind, **OFTEN) for name, kind in zip(names, kinds, strict=True)])

    assert [[1], [3], [5], [7], [2, 4, 6, 8]] == host.play(change_each, str(tmp_path), names)


def change_each(directory: str, names: list[str]) -> list[list[int | str]]:
    """Change a slot of each module and wait; then one of all, and wait for all."""
    all_boards, shim = Boards(Path(directory), Path()), begin()
    shim.slots(with_token=False)
    assert look(shim) == "CKR_NO_EVENT"  # by now each watch has begun
    found: list[list[int | str]] = []
    for name in names:
        all_boards[name].put(0, 1)
        found.append([wait(shim)])
    for name in names:
        all_boards[name].put(1, 1)
    return [*found, sorted(wait(shim) for _ in names)]


@pytest.mark.parametrize("how", ["stuck", "stopped"])
def test_a_module_that_hangs(hosting: Hosting, boards: Boards, tmp_path: Path, how: str) -> None:
    """While a provider or a helper stands still, events of others come, and no look waits for ever."""
    host = hosting(boards.module("bad", **OFTEN), boards.module("good", "good"))

    assert ["CKR_NO_EVENT", 3, 3, 4, NO_LIBRARY] == host.play(change_beside, str(tmp_path), how)


def change_beside(directory: str, how: str) -> list[int | str]:
    """Have a module hang; change the other's slots; look, wait, and end a wait."""
    all_boards, shim = Boards(Path(directory), Path()), begin()
    shim.slots(with_token=False)
    assert look(shim) == "CKR_NO_EVENT"
    all_boards["bad"].stick(stuck=True)
    bad = helpers()["bad"]
    if how == "stopped":
        os.kill(bad, signal.SIGSTOP)
    found = [look(shim)]
    for slot, token in [(0, 1), (0, 0), (1, 1)]:
        all_boards["good"].put(slot, token)
        found.append(wait(shim))
    ended = start_threads([partial(wait, shim)])
    shim.must("C_Finalize", None)
    with suppress(ProcessLookupError):  # one that is stopped cannot end by itself
        os.kill(bad, signal.SIGCONT)
    return [*found, *ended()]


# ---- ends ----


@pytest.mark.parametrize("kind", ["none", "good", "never"])
def test_finalize_wakes(hosting: Hosting, boards: Boards, kind: str) -> None:
    """C_Finalize ends a wait, and the provider's own too: the helper is gone soon."""
    host = hosting(boards.module("one", kind), boards.module("two"))

    assert NO_LIBRARY == host.play(finalize_while_waiting)


def finalize_while_waiting() -> Any:
    """End a wait; return what it returned."""
    shim = begin()
    ended = start_threads([partial(wait, shim)])
    look(shim)
    shim.must("C_Finalize", None)
    return ended()[0]


def test_two_threads_wait(hosting: Hosting, boards: Boards, tmp_path: Path) -> None:
    """What the standard leaves open is safe here: of two threads that wait each event wakes one."""
    host = hosting(boards.module("one", "good"))

    assert [[1, 2], [NO_LIBRARY] * 2] == host.play(wait_twice, str(tmp_path))


def wait_twice(directory: str) -> list[Any]:
    """Wait with two threads for two events; then again, for the end."""
    board, shim = Boards(Path(directory), Path())["one"], begin()
    waiting = start_threads([partial(wait, shim)] * 2)
    board.put(0, 1)
    board.put(1, 1)
    events = sorted(waiting())
    waiting = start_threads([partial(wait, shim)] * 2)
    shim.must("C_Finalize", None)
    return [events, waiting()]


@pytest.mark.parametrize("words", [(0, False), (1, False), (0, True), (1, True)])
def test_bad_arguments(hosting: Hosting, boards: Boards, words: tuple[int, bool]) -> None:
    """No place for the slot, or anything reserved, is CKR_ARGUMENTS_BAD."""
    host = hosting(boards.module("one"))

    assert "CKR_ARGUMENTS_BAD" == host.play(wait_badly, *words)


def wait_badly(flags: int, reserved: bool) -> str:  # noqa: FBT001 (comes as JSON)
    """Wait with arguments that are wrong."""
    shim, slot = begin(), ULONG()
    return shim.rv(
        "C_WaitForSlotEvent", flags, ctypes.byref(slot) if reserved else None, 1 if reserved else None
    )


# ---- helpers that end ----


@pytest.mark.parametrize("when", ["waiting", "before the first wait", "between two waits"])
def test_a_helper_that_dies(hosting: Hosting, boards: Boards, when: str) -> None:
    """A module whose helper ends shows as removal and insertion of its tokens, in the same slots."""
    boards["one"].put(1, 7)
    host = hosting(boards.module("one"), boards.module("two"))

    assert [2, 2, True, "CKR_NO_EVENT"] == host.play(kill_and_wait, when)


def kill_and_wait(when: str) -> list[Any]:
    """Have a helper killed at some time; wait for two events."""
    shim = begin()
    pid = helpers()["one"]
    if when == "before the first wait":
        os.kill(pid, signal.SIGKILL)
    else:
        assert look(shim) == "CKR_NO_EVENT"
    waiting = start_threads([partial(wait, shim)]) if when == "waiting" else None
    if when != "before the first wait":
        os.kill(pid, signal.SIGKILL)
    first = waiting()[0] if waiting else wait(shim)
    return [first, wait(shim), has_token(shim, 2), look(shim)]


@pytest.mark.parametrize(
    ("kind", "function"),
    [("none", "C_GetSlotList"), ("none", "C_GetTokenInfo"), ("good", "C_WaitForSlotEvent")],
)
def test_says_what_the_watch_died_in(
    starter: Starter, boards: Boards, tmp_path: Path, kind: str, function: str
) -> None:
    """A provider that dies while nobody but the watch calls it is said to have died in the watch."""
    boards["one"].put(0, 1)
    host = watch(starter, boards.module("one", kind, spare=False, **(OFTEN if kind == "none" else NEVER)))

    assert [1, 1] == host.play(die_and_wait, str(tmp_path), function)
    ended = host.event("helper.ended", module="one", signal="SIGABRT")
    assert (function, None) == (ended["watch"], ended.get("function"))


def die_and_wait(directory: str, function: str) -> list[int | str]:
    """Have the watch's next call of a function end the helper; wait for the token to go and come."""
    board, shim = Boards(Path(directory), Path())["one"], begin()
    assert look(shim) == "CKR_NO_EVENT"
    board.kill_in(function)
    board.ring()
    return [wait(shim), wait(shim)]


def test_says_what_a_look_stands_still_in(starter: Starter, boards: Boards, tmp_path: Path) -> None:
    """A look that takes long is said, with the call that it is in; nobody waits for it."""
    host = watch(starter, boards.module("one", **NEVER))
    with host.playing(look_until_it_goes_on, str(tmp_path)) as application:
        line = ""
        while "events.look.late function=C_GetSlotList" not in line:
            line = str(host.event("helper.stderr", module="one")["line"])
        boards["one"].stick(stuck=False)

        assert ["CKR_NO_EVENT"] == application.report()


def test_a_look_that_never_ends(starter: Starter, boards: Boards, tmp_path: Path) -> None:
    """A provider that does not come back from a look hangs, though nobody else calls it; the next tells."""
    boards["one"].put(0, 1)
    deadlines = {"long": AT_ONCE}
    host = watch(starter, boards.module("one", deadlines=deadlines, spare=False, **OFTEN))

    assert [1, 1] == host.play(wait_for_a_look, str(tmp_path))
    assert "C_GetSlotList" == host.event("helper.hung", module="one")["watch"]


def wait_for_a_look(directory: str) -> list[int | str]:
    """Wait while the slots stand still until there is another helper; then for the token to go and come."""
    board, shim = Boards(Path(directory), Path())["one"], begin()
    pid = helpers()["one"]
    assert look(shim) == "CKR_NO_EVENT"
    board.stick(stuck=True)
    waiting = start_threads([partial(wait, shim)])
    while Path(f"/proc/{pid}").exists():
        time.sleep(PAUSE)
    board.stick(stuck=False)
    return [waiting()[0], wait(shim)]


def look_until_it_goes_on(directory: str) -> list[int | str]:
    """Look at slots that stand still until they do not."""
    board, shim = Boards(Path(directory), Path())["one"], begin()
    found = {look(shim)}
    board.stick(stuck=True)
    while board.stuck:
        found.add(look(shim))
        time.sleep(PAUSE)
    return list(found)


def test_a_slot_that_flaps(starter: Starter, boards: Boards, tmp_path: Path) -> None:
    """A slot that changes a thousand times a second is told of seldom, which is said; others as ever."""
    board, over, changes = boards["one"], threading.Event(), itertools.count(1)

    def flap() -> None:
        while not over.wait(0.001):
            board.put(0, next(changes))

    flapping = threading.Thread(target=flap)
    host = watch(starter, boards.module("one", "good", **OFTEN))
    with host.playing(hear_until_the_other, str(tmp_path)) as application:
        assert "CKR_NO_EVENT" == application.report()
        flapping.start()
        try:
            line = ""
            while not line.startswith("p11host: events.flapping slot=100 count="):
                line = str(host.event("helper.stderr", module="one")["line"])
            while next(changes) < 1000:
                time.sleep(PAUSE)
            board.put(1, 1)
            told = application.report()
        finally:
            over.set()
            flapping.join()
        assert 2 <= told < next(changes) / 4


def hear_until_the_other(_: str) -> int:
    """Wait for events until there is one of the second slot; return how many there were before."""
    shim = begin()
    report(look(shim))
    return next(number for number in itertools.count() if wait(shim) == 2)


def test_a_module_that_comes_late(hosting: Hosting, boards: Boards, tmp_path: Path) -> None:
    """The tokens of a module that is ready after C_Initialize are events, when it is ready."""
    boards["late"].put(0, 1)
    boards["late"].stick(stuck=True)
    host = hosting(boards.module("late", slow=True, deadlines={"start": 100}), boards.module("two"))

    assert [3] == host.play(wait_for_late, str(tmp_path))


def wait_for_late(directory: str) -> list[int | str]:
    """Wait for a module that starts slowly."""
    shim = begin()
    assert look(shim) == "CKR_NO_EVENT"
    Boards(Path(directory), Path())["late"].stick(stuck=False)
    return [wait(shim)]


# ---- children ----


@pytest.mark.parametrize("fork", ["reinit", "inherit"])
def test_a_child_has_its_own(hosting: Hosting, boards: Boards, tmp_path: Path, fork: str) -> None:
    """A forked child hears every event itself, by whichever helper; its parent's stay its parent's."""
    host = hosting(boards.module("one", "good", fork=fork))

    assert [[1, 2], [1, 2]] == host.play(wait_in_both, str(tmp_path))


def wait_in_both(directory: str) -> list[Any]:
    """Wait, then change slots; wait for that in a child and in its parent."""
    board, shim = Boards(Path(directory), Path())["one"], begin()
    assert look(shim) == "CKR_NO_EVENT"
    child = in_child(partial(change_in_child, shim, board))
    return [child, [wait(shim), wait(shim)]]


def change_in_child(shim: Shim, board: Board) -> list[int | str]:
    """Change two slots in a child, one before it waits and one while it does."""
    shim.slots()
    board.put(0, 1)
    first = wait(shim)
    waiting = start_threads([partial(wait, shim)])
    board.put(1, 1)
    return [first, *waiting()]


# ---- the race ----


@pytest.mark.timeout(max(300, RACES))
def test_a_change_between_look_and_wait(
    hosting: Hosting, boards: Boards, tmp_path: Path, workshop: Workshop
) -> None:
    """A change that comes between a look and the wait after it is neither lost nor slept through.

    By hand 10,000 times: `P11HOST_RACES=10000 .venv/bin/pytest tests/test_events.py -k between`.
    """
    host = hosting(boards.module("one", "good", slots=200, **NEVER))
    for done in range(0, RACES, AT_ONCE):
        count = str(min(AT_ONCE, RACES - done))
        words: list[str | Path] = [workshop.program("race"), shim_path(), tmp_path / "one", count]

        wrong, median, worst = map(int, host.run(*words).split())
        print(f"{count} changes to wake-up: median {median} µs, worst {worst} µs")
        assert 0 == wrong
