"""The helpers that live: whose each is, what they die of, and those that are made to end.

Knows applications, circuits and how a helper is told to end. Must not know how one is started.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from p11host import log
from p11host.applications import Applications, Caller, Running
from p11host.census import Counted
from p11host.circuit import Circuits, Key, State
from p11host.codes import ckr
from p11host.config import Module
from p11host.counts import Ended
from p11host.door import Hung
from p11host.helper import Spawned
from p11host.obituary import Obituary
from p11host.slate import Phase


@dataclass(slots=True)
class Life:
    """A helper and whose it is, if it is anybody's yet. `attempt` is which in a row for that application."""

    spawned: Spawned
    caller: Caller | None = None
    running: Running | None = None
    attempt: int = 0


class Lives:
    """Keeps the list of applications and the circuits right while helpers come and go."""

    def __init__(self, applications: Applications, circuits: Circuits) -> None:
        self._applications = applications
        self._circuits = circuits
        # By what was spawned: as soon as it is reaped, its pid may be another's.
        self._living: dict[int, Life] = {}
        self._generations: Counter[tuple[tuple[int, int], str]] = Counter()
        self._begun: Counter[Key] = Counter()
        self._died: Counter[Key] = Counter()
        self.past = Ended()

    def begin(self, spawned: Spawned) -> None:
        """Note a helper that was started."""
        self._living[id(spawned)] = Life(spawned)

    def assign(self, caller: Caller, spawned: Spawned) -> None:
        """Note whose a helper is from now on."""
        life = self._living[id(spawned)]
        life.caller = caller
        life.running = self._running(caller, spawned)
        life.attempt = self._circuits.started((caller.uid, spawned.module), caller.key)
        self._applications.add(caller, life.running)
        log.info(
            "helper.started",
            module=spawned.module,
            pid=spawned.pid,
            application=caller.pid,
            attempt=life.attempt,
        )

    def ended(self, spawned: Spawned, obituary: Obituary) -> None:
        """Report a death and draw the conclusions."""
        life = self._living[id(spawned)]
        fields = {"module": spawned.module, "pid": spawned.pid} | dict(obituary.fields)
        if life.caller is not None:
            fields |= {"application": life.caller.pid, "attempt": life.attempt}
        (log.info if obituary.in_order else log.warning)("helper.ended", **fields)
        if life.caller is None:
            return
        self.past.add(life.caller.uid, spawned.module, spawned.slate.counts())
        if obituary.in_order:
            self._generations.pop((life.caller.key, spawned.module), None)
            self._circuits.over((life.caller.uid, spawned.module), life.caller.key)
        elif not obituary.wanted:
            self._count(life.caller, spawned.module, obituary)

    def life(self, spawned: Spawned) -> Life:
        """Return what is known of a helper that lives."""
        return self._living[id(spawned)]

    def look(self) -> None:
        """Have every helper look at its slots now, if somebody waits for events: a reader or card changed."""
        for life in self._living.values():
            life.spawned.look()

    def all(self) -> list[Life]:
        """Return the helpers that live."""
        return list(self._living.values())

    def caller(self, spawned: Spawned) -> Caller | None:
        """Return whose a helper is, None if it is nobody's yet."""
        return self._living[id(spawned)].caller

    def remove(self, spawned: Spawned) -> Caller | None:
        """Forget a helper that has ended; return whose it was."""
        life = self._living.pop(id(spawned))
        if life.caller is not None and life.running is not None:
            self._applications.remove(life.caller, life.running)
        return life.caller

    def hung(self, door: int, report: Hung) -> None:
        """End a helper that one of its processes says is of no use. Of what is not theirs nothing is said."""
        fields = {"module": report.module, "pid": report.pid, "application": report.sender}
        found = [life for life in self._living.values() if life.spawned.pid == report.pid]
        life = found[-1] if found else None
        if life is None or life.spawned.module != report.module or not _may_end(life, door, report.sender):
            log.debug("helper.hung.unknown", **fields)
            return
        if not life.spawned.to_end.is_set():
            _log_report(report, fields, life)
            self._blame(life, report)
        life.spawned.to_end.set()

    def restart(self, module: str, uid: int | None) -> int:
        """Close the circuit of a module and end its helpers, a user's or all; return how many these are."""
        self._circuits.close(module, uid)
        ending = [life.spawned for life in self.of(module, uid)]
        for spawned in ending:
            spawned.wanted.set()
            spawned.to_end.set()
        return len(ending)

    def check(self, caller: Caller, module: Module) -> None:
        """Raise P11HostError if the circuit is open, and no helper since has shown that it need not be."""
        self._settle(module.name, caller.uid)
        self._circuits.check((caller.uid, module.name), caller.key)

    def pause(self, caller: Caller, module: Module) -> float:
        """Return how many seconds the next helper of this application is held back."""
        return self._circuits.pause((caller.uid, module.name), caller.key)

    def circuit(self, module: str, uid: int | None) -> State | None:
        """Return the state of a module's circuit as a user sees it, `uid` None all; None if it is well."""
        self._settle(module, uid)
        return self._circuits.state(module, uid)

    def is_well(self, module: str) -> bool:
        """Tell whether nobody's helpers of a module have died at once since one has served."""
        return self._circuits.state(module) is None

    def renewed(self, module: str) -> None:
        """Note that a module's provider is another now: what became of the former counts no more."""
        self._circuits.close(module)

    def forget(self, door: int) -> None:
        """Forget what is known of the applications behind a door that has been closed."""
        self._circuits.forget(door)
        for key in [key for key in self._generations if key[0][0] == door]:
            del self._generations[key]

    def turnover(self, module: str, uid: int | None) -> tuple[int, int]:
        """Return how many helpers of a module a user has had, `uid` None all, and how many have died."""
        begun, died = (
            sum(count for key, count in counter.items() if key[1] == module and uid in (None, key[0]))
            for counter in (self._begun, self._died)
        )
        return begun, died

    def counted(self, uid: int | None) -> list[Counted]:
        """Return what a user's helpers have counted, `uid` None all."""
        return [
            Counted(
                life.spawned.module,
                life.spawned.pid,
                life.caller.pid,
                life.caller.program,
                life.spawned.slate.counts(),
            )
            for life in self._living.values()
            if life.caller is not None and uid in (None, life.caller.uid)
        ]

    def _running(self, caller: Caller, spawned: Spawned) -> Running:
        self._begun[caller.uid, spawned.module] += 1
        self._generations[caller.key, spawned.module] += 1
        return Running(
            spawned.module,
            spawned.pid,
            spawned.slate.pids if spawned.shared else None,
            self._generations[caller.key, spawned.module],
            spawned.born,
            lambda: spawned.slate.read().answered,
        )

    def _count(self, caller: Caller, module: str, obituary: Obituary) -> None:
        key: Key = (caller.uid, module)
        self._died[key] += 1
        opened = self._circuits.died(key, caller.key, obituary)
        state = self._circuits.state(module, caller.uid) if opened else None
        if state is not None:
            fields = {"deaths": state.deaths, "last": state.last, "retry": f"{state.retry:.1f}"}
            log.error("circuit.opened", module=module, uid=caller.uid, **fields)

    def _blame(self, life: Life, report: Hung) -> None:
        if life.spawned.slate.read().phase is not Phase.SERVING:
            life.spawned.wanted.set()  # it was still starting when its application left: that is no fault
            return
        if life.caller is None or report.rv is not None:
            return
        rest = self._circuits.hung((life.caller.uid, report.module), life.caller.key)
        if rest:
            log.warning(
                "module.rests", module=report.module, application=life.caller.pid, retry=f"{rest:.1f}"
            )

    def _settle(self, module: str, uid: int | None) -> None:
        """Close the circuits of those whose present helper answers calls."""
        if self._circuits.state(module, uid) is None:
            return
        for life in self.of(module, uid):
            if life.caller is not None and life.spawned.slate.read().answered:
                self._circuits.served((life.caller.uid, module))
                log.info("circuit.closed", module=module, uid=life.caller.uid, pid=life.spawned.pid)

    def of(self, module: str, uid: int | None = None) -> list[Life]:
        """Return the living helpers of a module that somebody has; of a user, if `uid` is not None."""
        return [
            life
            for life in self._living.values()
            if life.spawned.module == module and life.caller is not None and uid in (None, life.caller.uid)
        ]


def _log_report(report: Hung, fields: Mapping[str, object], life: Life) -> None:
    if report.rv is None:
        log.warning("helper.hung", **fields, **life.spawned.slate.read().where)
    else:
        log.warning("helper.broken", **fields, rv=ckr(report.rv))


def _may_end(life: Life, door: int, sender: int) -> bool:
    """Tell whether a process may have a helper ended: its own, or one that all who hold the door share."""
    caller = life.caller
    if caller is None or caller.door != door:
        return False
    return life.spawned.shared or sender in (caller.pid, 0)
