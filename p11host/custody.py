"""Who gets a PIN that the broker holds: an application whose user had logged in, in the helper that has died.

Knows helpers' slates and the pins. Must not know how a PIN reaches a helper; nor does it ever see one.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from p11host import log
from p11host.applications import Caller
from p11host.config import Module
from p11host.errors import P11HostError
from p11host.helper import Spawned
from p11host.lives import Life, Lives
from p11host.obituary import Obituary
from p11host.pins import Pins, PinSource
from p11host.slate import Pin

#: Seconds in which another application's login with the same PIN must have ended, and between two looks.
PATIENCE, LOOK = 10.0, 0.02
#: Seconds of a helper's life in which it uses its PIN, if it does.
SOON = 1.0

#: Logins that are remembered after their helpers died; of more the first are forgotten.
MOST_USERS = 1000

Owner = tuple[tuple[int, int], str]
#: In place of a pid: all processes that hold a door, of whom one has logged in all who shared its helper.
FAMILY = 0


class Custody:
    """Gives PINs, one untried one at a time."""

    def __init__(self, pins: Pins, lives: Lives) -> None:
        self._pins = pins
        self._lives = lives
        self._users: dict[Owner, None] = {}
        self._given: dict[int, PinSource] = {}
        self._good: set[str] = set()
        self._turn: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def lent(self, caller: Caller, module: Module) -> AsyncIterator[int | None]:
        """Yield a pipe with the PIN for the caller's next helper of `module`, None if it gets none.

        Until the end of the `with`, where it has been `given` or not, nobody else gets it.
        """
        source = module.pin_source
        async with AsyncExitStack() as held:
            pipe = None
            if source is not None and self._had_user(caller, module.name):
                await held.enter_async_context(self._turn.setdefault(module.name, asyncio.Lock()))
                pipe = await self._pipe(caller, module.name, source)
            if pipe is not None:
                held.callback(os.close, pipe)
            yield pipe

    async def _pipe(self, caller: Caller, module: str, source: PinSource) -> int | None:
        try:
            await self._await_verdict(module)
            return self._pins.give(module, source)
        except P11HostError as error:
            log.warning("pin.withheld", module=module, application=caller.pid, reason=error)
            return None

    def given(self, spawned: Spawned, source: PinSource) -> None:
        """Note which helper has got a PIN."""
        self._given[spawned.pid] = source

    def ended(self, spawned: Spawned, obituary: Obituary, caller: Caller | None) -> None:
        """Draw the conclusions from a helper's end."""
        source = self._given.pop(spawned.pid, None)
        if caller is not None:
            # One that died before it came to use its PIN was given it for a user who had logged in.
            had_user = obituary.notes.user or source is not None
            self._remember((_owner(caller, spawned), spawned.module), had_user and not obituary.in_order)
        if source is not None:
            self._judge(spawned.module, source, obituary.notes.pin, over=True)

    def allow(self, module: str) -> None:
        """Use a module's PIN again: somebody has looked at it."""
        self._pins.allow(module)

    def forget(self, door: int) -> None:
        """Forget who had logged in behind a door that has been closed."""
        self._users = {owner: None for owner in self._users if owner[0][0] != door}

    def _remember(self, owner: Owner, had_user: bool) -> None:  # noqa: FBT001 (what is remembered)
        """Note whether somebody was logged in; an application whose helper ended in order has gone."""
        self._users.pop(owner, None)
        if had_user:
            self._users[owner] = None
        if len(self._users) > MOST_USERS:
            del self._users[next(iter(self._users))]

    def _had_user(self, caller: Caller, module: str) -> bool:
        """Tell whether this application has logged in in its last helper, which may not be reaped yet."""
        if (caller.key, module) in self._users:
            del self._users[caller.key, module]
            return True
        family = (caller.door, FAMILY), module
        return family in self._users or any(
            life.spawned.slate.read().user for life in self._of(caller, module)
        )

    def _of(self, caller: Caller, module: str) -> Iterable[Life]:
        """Return the helpers of an application, and those it shares."""
        return (
            life
            for life in self._lives.of(module)
            if life.caller is not None
            and _owner(life.caller, life.spawned) in (caller.key, (caller.door, FAMILY))
        )

    async def _await_verdict(self, module: str) -> None:
        """Return when no helper has a PIN of the module's that is not known to be good."""
        try:
            async with asyncio.timeout(PATIENCE):
                while self._is_on_trial(module):  # noqa: ASYNC110 (said in memory, where nobody can wait)
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise P11HostError("another login with the same PIN has had no end") from None

    def _is_on_trial(self, module: str) -> bool:
        verdicts = [self._verdict(life) for life in self._lives.of(module)]
        return any(verdicts)

    def _verdict(self, life: Life) -> bool:
        """Judge by what a living helper says; tell whether it has yet to say it."""
        source = self._given.get(life.spawned.pid)
        if source is None:
            return False
        said = life.spawned.slate.read().pin
        self._judge(life.spawned.module, source, said, over=False)
        return said is Pin.TRIED or (said is Pin.UNUSED and self._may_yet(life.spawned))

    def _may_yet(self, spawned: Spawned) -> bool:
        """Tell whether a helper that has not used its PIN may be about to.

        Not all tokens bear several logins at the same time, even right ones.
        """
        return spawned.module not in self._good or time.monotonic() - spawned.born < SOON

    def _judge(self, module: str, source: PinSource, said: Pin, *, over: bool) -> None:
        if said is Pin.GOOD:
            self._good.add(module)
        # A helper may be killed at any moment, in a login with a PIN that is known to be right too.
        elif said is Pin.REFUSED or (said is Pin.TRIED and over and module not in self._good):
            self._good.discard(module)
            self._pins.refuse(module, source)
            log.error(
                "pin.refused",
                module=module,
                reason="the token" if said is Pin.REFUSED else "its use had no end",
            )


def _owner(caller: Caller, spawned: Spawned) -> tuple[int, int]:
    """Return whose login a helper has: an application's, or a family's."""
    return (caller.door, FAMILY) if spawned.shared else caller.key
