"""Who gets a PIN from the broker, and that a PIN nobody knows to be right is tried once, whoever asks."""

import asyncio
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from p11host.applications import Caller
from p11host.config import Module, choose, load
from p11host.custody import MOST_USERS, Custody
from p11host.lives import Lives
from p11host.obituary import Obituary
from p11host.pins import Pins
from p11host.slate import Notes, Phase, Pin


@dataclass
class Helper:
    """A helper and its slate, as far as custody looks at them."""

    pid: int
    module: str = "one"
    user: bool = False
    pin: Pin = Pin.UNUSED
    shared: bool = False
    born: float = 0.0

    @property
    def slate(self) -> "Helper":
        """Return what has the slate's notes."""
        return self

    def read(self) -> Notes:
        """Return what stands on the slate."""
        return Notes(Phase.SERVING, (), 1, self.user, self.pin)


@dataclass
class Held:
    """A helper and whose it is."""

    spawned: Helper
    caller: Caller | None


@dataclass
class Bench:
    """A custody and the helpers that live."""

    module: Module
    living: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.custody = Custody(Pins(), cast("Lives", self))

    def of(self, module: str) -> list[Held]:
        """Return the living helpers of a module."""
        return [held for held in self.living if held.spawned.module == module]

    async def give(self, caller: Caller) -> bytes | None:
        """Return the PIN that a caller's next helper gets."""
        async with self.custody.lent(caller, self.module) as pipe:
            return None if pipe is None else os.read(pipe, 1000)

    def died(self, helper: Helper, caller: Caller, *, in_order: bool = False) -> None:
        """Let a helper of a caller's have died."""
        self.living = [held for held in self.living if held.spawned is not helper]
        notes = replace(helper.read(), phase=Phase.LEAVING) if in_order else helper.read()
        end = Obituary(None, 0, notes, 1.0) if in_order else Obituary("SIGKILL", None, notes, 1.0)
        self.custody.ended(cast("Any", helper), end, caller)

    def start(self, helper: Helper, caller: Caller) -> Helper:
        """Let a helper with the PIN have been started."""
        assert self.module.pin_source is not None
        self.living.append(Held(helper, caller))
        self.custody.given(cast("Any", helper), self.module.pin_source)
        return helper


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a custody with a PIN in a file."""
    pin = tmp_path / "pin"
    pin.write_text("123456")
    pin.chmod(0o400)
    file = tmp_path / "p11host.toml"
    file.write_text(f'[module.one]\npath = "/one.so"\nresume = true\npin-source = "file:{pin}"\n')
    return Bench(load(choose(file)).modules[0])


def caller(pid: int) -> Caller:
    """Return an application."""
    return Caller(door=pid, pid=pid, uid=0, program="test", channel=1)


def test_only_who_had_logged_in(bench: Bench) -> None:
    """An application gets the PIN if its user had logged in in the helper that died: once for each death."""
    bench.died(Helper(10, user=True), caller(1))
    bench.died(Helper(11), caller(2))

    assert b"123456" == asyncio.run(bench.give(caller(1)))
    assert None is asyncio.run(bench.give(caller(1)))
    assert None is asyncio.run(bench.give(caller(2)))


def test_helper_that_is_not_reaped(bench: Bench) -> None:
    """It gets it as well if it asks before the broker has noticed that the helper died."""
    bench.living.append(Held(Helper(10, user=True), caller(1)))

    assert b"123456" == asyncio.run(bench.give(caller(1)))
    assert None is asyncio.run(bench.give(caller(2)))


def test_next_one_after_an_early_death(bench: Bench) -> None:
    """After a helper that died before it came to use its PIN the next one gets it."""
    bench.died(Helper(10, user=True), caller(1))
    assert b"123456" == asyncio.run(bench.give(caller(1)))
    bench.died(bench.start(Helper(11), caller(1)), caller(1))

    assert b"123456" == asyncio.run(bench.give(caller(1)))


def test_killed_in_a_login_that_was_right_before(bench: Bench) -> None:
    """A PIN that a token has taken is given again after a helper was killed while it used it."""
    for pin in (Pin.GOOD, Pin.TRIED):
        bench.died(Helper(10, user=True), caller(1))
        assert b"123456" == asyncio.run(bench.give(caller(1)))
        bench.died(bench.start(Helper(11, pin=pin), caller(1)), caller(1))

    assert b"123456" == asyncio.run(bench.give(caller(1)))


def test_family_that_shared_a_helper(bench: Bench) -> None:
    """Whoever holds the door of a shared helper shared its login: each of them gets the PIN."""
    bench.died(Helper(10, user=True, shared=True), caller(1))
    children = [Caller(door=1, pid=pid, uid=0, program="test", channel=pid) for pid in (11, 12)]

    assert [b"123456"] * 2 == [asyncio.run(bench.give(child)) for child in children]
    assert None is asyncio.run(bench.give(caller(2)))


def test_forgotten_with_the_door(bench: Bench) -> None:
    """Of an application that has gone nothing is remembered for whoever comes with its pid."""
    bench.died(Helper(10, user=True), caller(1))
    bench.custody.forget(1)

    assert None is asyncio.run(bench.give(caller(1)))


def test_forgotten_with_the_application(bench: Bench) -> None:
    """After a helper that ended in order nobody gets the PIN: the application with that pid has gone."""
    bench.died(Helper(10, user=True), caller(1))
    bench.died(Helper(11, user=True), caller(1), in_order=True)

    assert None is asyncio.run(bench.give(caller(1)))


def test_of_many_the_last_are_remembered(bench: Bench) -> None:
    """However many processes behind a door log in and lose their helpers, no more are remembered."""
    for pid in range(1, MOST_USERS + 2):
        bench.died(Helper(10, user=True), caller(pid))

    assert None is asyncio.run(bench.give(caller(1)))
    assert b"123456" == asyncio.run(bench.give(caller(2)))


def test_no_other_try_while_a_helper_is_started(bench: Bench) -> None:
    """A PIN is lent until its helper has been started: who asks meanwhile waits for what that one says."""
    for pid in (1, 2):
        bench.died(Helper(pid + 10, user=True), caller(pid))

    async def both() -> bool:
        async with bench.custody.lent(caller(1), bench.module):
            waiting = asyncio.create_task(bench.give(caller(2)))
            for _ in range(3):
                await asyncio.sleep(0)
            has_waited = not waiting.done()
            bench.start(Helper(20, pin=Pin.GOOD), caller(1))
        assert b"123456" == await waiting
        return has_waited

    assert asyncio.run(both())


@pytest.mark.parametrize("end", [Pin.REFUSED, Pin.TRIED])
def test_no_second_try(bench: Bench, end: Pin) -> None:
    """After a refusal, or a death in the login, nobody gets the PIN until somebody has looked at it."""
    for pid in (1, 2):
        bench.died(Helper(pid + 10, user=True), caller(pid))
    assert b"123456" == asyncio.run(bench.give(caller(1)))
    bench.died(bench.start(Helper(20, pin=end), caller(1)), caller(1))

    assert None is asyncio.run(bench.give(caller(2)))
    bench.died(Helper(12, user=True), caller(2))
    bench.custody.allow("one")
    assert b"123456" == asyncio.run(bench.give(caller(2)))


@pytest.mark.parametrize(("verdict", "second"), [(Pin.GOOD, b"123456"), (Pin.REFUSED, None)])
def test_one_try_at_a_time(bench: Bench, verdict: Pin, second: bytes | None) -> None:
    """While a helper has the PIN and has not said what became of it, others wait for what it says."""
    for pid in (1, 2):
        bench.died(Helper(pid + 10, user=True), caller(pid))

    async def both() -> bytes | None:
        await bench.give(caller(1))
        helper = bench.start(Helper(20), caller(1))
        waiting = asyncio.create_task(bench.give(caller(2)))
        await asyncio.sleep(0)
        assert not waiting.done()
        helper.pin = Pin.TRIED
        await asyncio.sleep(0)
        assert not waiting.done()
        helper.pin = verdict
        return await waiting

    assert second == asyncio.run(both())
