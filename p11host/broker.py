"""The broker: what those who have connected ask for, helpers started for them and seen to end.

Knows who owns what: a task group owns the doors, each door's owns its channels, another owns the helpers.
Must not know sockets of callers, nor see a Cryptoki call.
"""

import asyncio
import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from p11host import log, narrow_helper_path
from p11host.apart import Apart
from p11host.applications import Application, Applications, Caller, Quota
from p11host.cards.keeper import Cards
from p11host.census import Counted
from p11host.circuit import Circuits, State
from p11host.config import Config, Module
from p11host.contained import contained
from p11host.counts import Counts
from p11host.custody import Custody
from p11host.door import Hung
from p11host.doors import Doors
from p11host.errors import P11HostError
from p11host.helper import Spawned, spawn, watch
from p11host.limits import deadlines
from p11host.listen import Listener
from p11host.lives import Lives
from p11host.obituary import Obituary
from p11host.pins import Pins
from p11host.provider import NARROW, CheckedProviders
from p11host.reload import Configuration
from p11host.sandbox.confine import Confinement, Kept, Learner, state
from p11host.spares import Spare, Spares, Stamp
from p11host.tracers import Tracer, Tracers

#: Descriptors that a helper costs the broker.
HELPER_COST = 5
#: Seconds after a start until the next helper is made ready.
SPARE_DELAY = 0.0
#: Seconds that a file system has to answer; less than a helper has to be ready.
FILES = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a broker was started.

    `idle_ends`: it ends when it had no application for the configured time. `spares`: it keeps a helper ready
    of each module that is in use. `learner`: hears of what a module would be denied.
    """

    helper: Path
    everybody: bool = False
    idle_ends: bool = False
    spares: bool = False
    learner: Learner | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A provider's file as it is, how many bits it has, and what its module's helper may do: as of now."""

    file: tuple[int, ...]
    bits: int
    kept: Kept

    @property
    def stamp(self) -> Stamp:
        """What a helper is made of, besides what its module says."""
        return self.file, self.kept

    @property
    def is_local(self) -> bool:
        """Whether all of it is on disks: a file system without one, as the network's, has no major number."""
        return all(os.major(file[0]) for file in (self.file, *self.kept.stamp) if file)


class Broker:
    """One broker's life, from `run` to `stop`. Owns the listener."""

    def __init__(
        self,
        listener: Listener,
        configuration: Configuration,
        settings: Settings,
        pins: Pins | None = None,
    ) -> None:
        self._listener = listener
        self._configuration = configuration
        self._settings = settings
        self._applications = Applications()
        self._providers = CheckedProviders()
        self._apart = Apart(FILES)
        self._found: dict[str, Found] = {}
        self._confinement = Confinement(settings.learner)
        self._nofile = raise_descriptor_limit()
        granted = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._quota = Quota(granted // 4 if settings.everybody else granted * 3 // 4)
        self._refusals: dict[str, str] = {}
        self._doors = Doors(self, listener, self._quota, everybody=settings.everybody)
        self._busy, self._empty = asyncio.Event(), asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._helpers = asyncio.TaskGroup()
        self._spares = Spares()
        self._lives = Lives(self._applications, Circuits())
        self._tracers = Tracers(self._lives, self._quota)
        self._custody = Custody(pins or Pins(), self._lives)
        self._stamps: dict[str, tuple[int, ...]] = {}
        self.cards = Cards(lambda: self.config().enabled, self._prompt, self._renew)

    async def run(self) -> None:
        """Serve until `stop`, or until nobody has needed us for a while. Helpers go on."""
        log.info("broker.listening", socket=self._listener.path, pid=os.getpid())
        self._serving = asyncio.create_task(self._serve())
        try:
            await self._serving
        except asyncio.CancelledError:
            log.info("broker.stopped")
        finally:
            self._spares.clear()
            self._listener.close()
            self.cards.stop()

    def stop(self) -> None:
        """End `run`. Channels close; helpers and the applications that use them do not notice."""
        if self._serving is not None:
            self._serving.cancel()

    def config(self) -> Config:
        """Return the configuration as it is now."""
        return self._configuration.current()

    def reload(self, caller: Caller) -> tuple[str, ...]:
        """Read the configuration anew; return what is wrong with it. Helpers go on as they were started."""
        log.info("config.reload", by=caller.pid, uid=caller.uid)
        return self._configuration.read_anew()

    def applications(self, caller: Caller) -> list[Application]:
        """Return the applications `caller` may know of: its user's own, or all for the broker's user."""
        return list(self._applications.seen_by(caller.uid, privileged=caller.uid in (0, os.geteuid())))

    async def sandbox(self, module: Module) -> str:
        """Return in a few words how a module is confined."""
        try:
            return await self._apart.do(module.name, partial(state, module))
        except TimeoutError:
            return "not known: its files do not answer"

    def circuit(self, caller: Caller, module: str) -> State | None:
        """Return the state of a module's circuit as `caller` may know it, None if all is well."""
        return self._lives.circuit(module, self._uid_seen_by(caller))

    def turnover(self, caller: Caller, module: str) -> tuple[int, int]:
        """Return how many helpers of a module were started for the caller's user, and how many died."""
        return self._lives.turnover(module, self._uid_seen_by(caller))

    def counted(self, caller: Caller) -> tuple[list[Counted], Mapping[str, Counts]]:
        """Return what the caller's user's helpers have counted, and by module those that have ended."""
        uid = self._uid_seen_by(caller)
        return self._lives.counted(uid), self._lives.past.of(uid)

    def trace(self, caller: Caller, pid: int | None) -> Tracer:
        """Begin to tell a caller of calls: of a process, or all that it may know of."""
        log.info("trace.begun", by=caller.pid, uid=caller.uid, pid=pid)
        return self._tracers.open(caller, self._uid_seen_by(caller), pid)

    def untrace(self, tracer: Tracer) -> None:
        """End that."""
        self._tracers.close(tracer)

    def restart(self, caller: Caller, module: Module) -> int:
        """End all helpers of `module` that are the caller's to end, and hold none back; return how many."""
        self._spares.discard(module.name)
        self._custody.allow(module.name)
        count = self._lives.restart(module.name, self._uid_seen_by(caller))
        log.info("module.restarted", module=module.name, helpers=count, by=caller.pid, uid=caller.uid)
        return count

    def hung(self, door: int, report: Hung) -> None:
        """End a helper that one of its processes says is of no use."""
        self._lives.hung(door, report)

    def forget(self, door: int) -> None:
        """Forget the applications behind a door that has been closed."""
        self._lives.forget(door)
        self._custody.forget(door)

    async def start(self, caller: Caller, module: Module, *, patient: bool, resume: bool = False) -> Spawned:
        """Start a helper of `module` for `caller`, whose its door then is, or raise P11HostError.

        After deaths it begins a little later if the caller is `patient`: it asks for nothing else meanwhile.
        To `resume` it may get the user's PIN.
        """
        try:
            found = await self._await_turn(caller, module, patient=patient)
            make = self._resumed if resume else self._helper_for
            spawned = await make(caller, module, found)
        except P11HostError as error:
            self._log_refusal(module, error)
            raise
        self._refusals.pop(module.name, None)
        self._lives.assign(caller, spawned)
        self._tracers.started(spawned)
        self.cards.used(module)
        self.note()
        self._helpers.create_task(contained("spare", self._prepare(module)))
        return spawned

    async def _await_turn(self, caller: Caller, module: Module, *, patient: bool) -> Found:
        """Return when a helper may be started: a moment after deaths, and never while a circuit is open."""
        found = await self._look(module)
        if self._is_new(module, found.file):
            self._lives.renewed(module.name)
        self._lives.check(caller, module)
        pause = self._lives.pause(caller, module) if patient else 0.0
        if pause:
            await asyncio.sleep(pause)
            found = await self._look(module)
        return found

    async def _look(self, module: Module) -> Found:
        """Look at the files that a helper would be made of; P11HostError if none can be."""
        before = self._found.get(module.name)
        on_disk = before is not None and before.is_local and before.kept.module == module
        # What has changed is read, which may take a while.
        if on_disk and self._providers.is_known(module.path):
            return self._find(module)
        try:
            found = await self._apart.do(module.name, partial(self._find, module))
        except TimeoutError as error:
            raise P11HostError(
                f"{module.path}: the file system there, or where its module's files are, does not answer; "
                "see whether it is mounted and its server runs"
            ) from error
        self._found[module.name] = found
        return found

    def _find(self, module: Module) -> Found:
        """Do that, in a thread; of one module one at a time."""
        if not self._providers.is_known(module.path):
            self._providers.check(module.path)
        kept = self._confinement.of(module)
        return Found(self._providers.stamp(module.path), self._providers.bits(module.path), kept)

    def _is_new(self, module: Module, now: tuple[int, ...]) -> bool:
        """Tell whether the file of a provider is another than at the last start, and log that."""
        before = self._stamps.get(module.name, now)
        self._stamps[module.name] = now
        if now == before:
            return False
        log.warning("provider.replaced", module=module.name, path=module.path)
        return True

    def _uid_seen_by(self, caller: Caller) -> int | None:
        """Return whose helpers are a caller's affair: None for all."""
        return None if caller.uid in (0, os.geteuid()) else caller.uid

    async def _helper_for(
        self, caller: Caller, module: Module, found: Found, pin: int | None = None
    ) -> Spawned:
        """Return a helper that waits, or else a new one; with a PIN it must be new."""
        self._applications.check_room(caller, module.name)
        if not self._quota.take(caller.uid, HELPER_COST):
            raise P11HostError(f"uid {caller.uid} holds its share of descriptors; end some of its programs")
        try:
            spare = self._spares.take(module, found.stamp) if pin is None else None
            return spare or self._spawn(module, found, pin=pin)
        except BaseException:
            self._quota.give(caller.uid, HELPER_COST)
            raise

    async def _resumed(self, caller: Caller, module: Module, found: Found) -> Spawned:
        """Return a helper that has got the PIN, if the caller's user had logged in in the one before."""
        async with self._custody.lent(caller, module) as pin:
            spawned = await self._helper_for(caller, module, found, pin)
            if pin is not None and module.pin_source is not None:
                self._custody.given(spawned, module.pin_source)
        return spawned

    def _spawn(self, module: Module, found: Found, *, spare: bool = False, pin: int | None = None) -> Spawned:
        check = self.cards.need_check(module) if module.token_check is None else module.token_check
        checked = replace(module, token_check=check)
        program = narrow_helper_path() if found.bits == NARROW else self._settings.helper
        with self._confinement.begin(found.kept) as confined:
            spawned = spawn(program, checked, self._nofile, confined, spare=spare, pin=pin)
        self._lives.begin(spawned)
        self._helpers.create_task(self._watch(spawned))
        return spawned

    async def _prepare(self, module: Module) -> None:
        """Start a helper for whoever asks next. Not before what was asked for has been answered."""
        await asyncio.sleep(SPARE_DELAY)
        with suppress(P11HostError):  # whoever asks next is told
            if not self._wants_spare(module):
                return
            found = await self._look(module)
            if self._wants_spare(module):  # still
                spawned = self._spawn(module, found, spare=True)
                self._spares.keep(Spare(module, found.stamp, spawned))
                log.debug("helper.spare", module=module.name, pid=spawned.pid)

    def _wants_spare(self, module: Module) -> bool:
        wanted = self._settings.spares and module.spare and not self._spares.has(module)
        return wanted and self._lives.is_well(module.name)

    def _log_refusal(self, module: Module, error: P11HostError) -> None:
        """Log a reason when it is new: applications ask for a module that fails again and again."""
        level = log.debug if self._refusals.get(module.name) == str(error) else log.error
        self._refusals[module.name] = str(error)
        level("helper.refused", module=module.name, error=error)

    async def _check_providers(self) -> None:
        """Look at every provider before the first application needs it, and say at once which is none."""
        for module in self.config().enabled:
            try:
                await self._look(module)
            except P11HostError as error:
                self._log_refusal(module, error)

    async def _serve(self) -> None:
        async with self._helpers, asyncio.TaskGroup() as doors:
            self.note()
            doors.create_task(contained("providers", self._check_providers()))
            accepting = doors.create_task(self._doors.accept(doors))
            await self._idle()
            # Whoever connected before the name went away is still served; nobody new can come.
            self._listener.unlink()
            accepting.cancel()
            self._doors.accept_ready(doors)
            self._spares.clear()
            log.info("broker.idle", doors=len(self._doors))

    async def _idle(self) -> None:
        """Return after the configured time without applications; never where that does not end us."""
        grace = deadlines().broker / 1000  # whoever had us started needs a moment to connect
        while True:
            await self._empty.wait()
            patience = max(grace, self.config().idle) if self._settings.idle_ends else None
            try:
                async with asyncio.timeout(patience):
                    await self._busy.wait()
            except TimeoutError:
                return
            grace = 0

    def _prompt(self, modules: frozenset[str]) -> None:
        """Have the helpers of modules look at their slots: a card has moved."""
        for life in self._lives.all():
            if life.caller is not None and life.spawned.module in modules:
                life.spawned.look()

    def _renew(self, modules: frozenset[str]) -> None:
        """End the helpers of modules whose PC/SC is another now: what they had of it is gone."""
        for name in sorted(modules):
            if count := self._lives.restart(name, None):
                log.info("module.restarted", module=name, helpers=count, reason="PC/SC has been restarted")

    def note(self) -> None:
        """Wake whoever waits for applications to come or to have gone."""
        busy = bool(self._doors or self._applications)
        (self._busy if busy else self._empty).set()
        (self._empty if busy else self._busy).clear()

    def _ended(self, spawned: Spawned, obituary: Obituary) -> None:
        """Draw the conclusions from a helper's end."""
        self._custody.ended(spawned, obituary, self._lives.caller(spawned))
        self._lives.ended(spawned, obituary)

    async def _watch(self, spawned: Spawned) -> None:
        """See a helper end, whoever has it then."""
        try:
            await contained("helper", watch(spawned, partial(self._ended, spawned)))
        finally:
            self._spares.drop(spawned)
            self._tracers.ended(spawned)
            if caller := self._lives.remove(spawned):
                self._quota.give(caller.uid, HELPER_COST)
                self.note()


def raise_descriptor_limit() -> tuple[int, int]:
    """Let this process have as many descriptors as it is granted; return the limit helpers should inherit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before
