"""The methods a broker serves: PROTOCOL.md section 6, as functions from a request to an answer.

Knows methods, parameters and what an answer holds. Must not know sockets of callers: doors of helpers pass
through as they are.
"""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from p11host import census, log, tracers
from p11host.applications import Application, Caller, Running
from p11host.cards.board import Subscription
from p11host.cards.keeper import Cards
from p11host.census import Counted
from p11host.circuit import State
from p11host.config import Config, Module
from p11host.counts import Counts
from p11host.errors import P11HostError
from p11host.helper import Spawned
from p11host.peer import hidden, identify, selection
from p11host.selectors import pack
from p11host.tracers import Tracer
from p11host.view import Peer
from p11host.wire import Fault, RefusedError, RemoteError, Request, Response, is_name, map_of, short_text

#: Seconds that who asks for readers waits for the first look.
FIRST_LOOK = 3.0


class Host(Protocol):
    """What the methods need of the broker."""

    cards: Cards

    def config(self) -> Config:
        """Return the configuration as it is now."""

    async def start(self, caller: Caller, module: Module, *, patient: bool, resume: bool) -> Spawned:
        """Start a helper for `caller`, whose its door then is, or raise P11HostError."""

    def restart(self, caller: Caller, module: Module) -> int:
        """End the caller's helpers of a module and hold none back; return how many there were."""

    def reload(self, caller: Caller) -> tuple[str, ...]:
        """Read the configuration anew; return what is wrong with it."""

    async def sandbox(self, module: Module) -> str:
        """Return in a few words how a module is confined."""

    def circuit(self, caller: Caller, module: str) -> State | None:
        """Return the state of a module's circuit, None if all is well."""

    def turnover(self, caller: Caller, module: str) -> tuple[int, int]:
        """Return how many helpers of a module were started for the caller's user, and how many died."""

    def counted(self, caller: Caller) -> tuple[list[Counted], Mapping[str, Counts]]:
        """Return what the caller's user's helpers have counted, and by module those that have ended."""

    def trace(self, caller: Caller, pid: int | None) -> Tracer:
        """Begin to tell a caller of calls: of a process, or all that it may know of."""

    def untrace(self, tracer: Tracer) -> None:
        """End that."""

    def applications(self, caller: Caller) -> list[Application]:
        """Return the applications `caller` may know of."""


@dataclass(slots=True)
class Answer:
    """A response and the doors that go with it, to be closed once it was sent."""

    response: Response
    doors: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        """Close our copies of the doors, so that the caller's are the only ones."""
        for door in self.doors:
            door.close()


Offer = tuple[dict[str, Any], socket.socket | None]


class Control:
    """Serves one caller."""

    def __init__(self, host: Host, caller: Caller) -> None:
        self._host = host
        self._caller = caller
        self._methods: dict[str, Callable[[Mapping[str, Any], Answer], Awaitable[dict[str, Any]]]] = {
            "attach": self._attach,
            "counts": self._counts,
            "open": self._open,
            "readers": self._readers,
            "reload": self._reload,
            "restart": self._restart,
            "status": self._status,
            "trace": self._trace,
        }
        self._tracer: Tracer | None = None
        self.subscription: Subscription | None = None

    def close(self) -> None:
        """End what the caller had begun."""
        if self._tracer is not None:
            self._host.untrace(self._tracer)
            self._tracer = None
        if self.subscription is not None:
            self._host.cards.board.unsubscribe(self.subscription)

    async def answer(self, request: Request) -> Answer:
        """Return the answer to `request`; RemoteError, which ends the channel, if its params are wrong."""
        answer = Answer(Response(request.msgid, None, None))
        method = self._methods.get(request.method)
        if method is None:
            text = f"no method {request.method!r}; known are {', '.join(self._methods)}"
            return self._fault(answer, "unknown", text)
        try:
            result = await method(map_of(request.params), answer)
        except (RemoteError, asyncio.CancelledError):
            answer.close()
            raise
        except RefusedError as error:
            return self._fault(answer, "refused", error.text)
        except (OSError, MemoryError, P11HostError) as error:
            log.error("control.failed", method=request.method, pid=self._caller.pid, error=error)
            return self._fault(answer, "failed", str(error))
        answer.response = Response(request.msgid, None, result)
        return answer

    def _fault(self, answer: Answer, code: str, text: str) -> Answer:
        answer.close()
        return Answer(Response(answer.response.msgid, Fault(code, short_text(text)), None))

    async def _attach(self, params: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        modules = self._seen() if params.get("module") is None else [self._module("attach", params)]
        starts = [self._start(module, patient=False) for module in modules]
        return {"modules": [_add(answer, each) for each in await _all_of(starts)]}

    async def _open(self, params: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        module = self._module("open", params)
        resume = params.get("resume") is True
        return {"modules": [_add(answer, await self._start(module, patient=True, resume=resume))]}

    async def _restart(self, params: Mapping[str, Any], _: Answer) -> dict[str, Any]:
        module = self._named("restart", params)
        if not self._may_know(module):
            raise RefusedError("refused", f"module {module.name} is not for this process")
        return {"module": module.name, "helpers": self._host.restart(self._caller, module)}

    async def _reload(self, _: Mapping[str, Any], __: Answer) -> dict[str, Any]:
        if not self._is_privileged():
            raise RefusedError("refused", "only root and the broker's own user may have it read anew")
        problems = self._host.reload(self._caller)
        modules = [module.name for module in self._host.config().enabled]
        return {"modules": modules, "problems": [short_text(problem) for problem in problems]}

    async def _status(self, _: Mapping[str, Any], __: Answer) -> dict[str, Any]:
        config = self._host.config()
        modules = [module for module in config.enabled if self._may_know(module)]
        return {
            "pid": os.getpid(),
            "config": [str(path) for path in config.files],
            "modules": [await self._described(module) for module in modules],
            "applications": [
                _application(known, [module.name for module in modules])
                for known in self._host.applications(self._caller)
            ],
        }

    async def _trace(self, params: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        pid = params.get("pid")
        if pid is not None and not isinstance(pid, int):
            raise RemoteError("malformed", "trace needs a number as pid, or none")
        if self._tracer is None:
            self._tracer = self._host.trace(self._caller, pid)
        traced = await self._tracer.take()
        answer.doors += [each.socket for each in traced]
        return {"helpers": list(tracers.told(traced))}

    async def _readers(self, params: Mapping[str, Any], _: Answer) -> dict[str, Any]:
        since = params.get("since")
        if since is not None and not isinstance(since, int):
            raise RemoteError("malformed", "readers needs a number as since, or none")
        cards = self._host.cards
        cards.start()
        await cards.board.seen(FIRST_LOOK)
        if params.get("subscribe") is True:
            if self.subscription is not None:
                raise RefusedError("refused", "this channel is told of readers already")
            self.subscription = cards.board.subscribe()
        known = {module.name for module in self._host.config().enabled if self._may_know(module)}
        modules = [name for name in cards.reaching() if name in known]
        # With nothing awaited since the subscription began, it goes on where the snapshot ends.
        return cards.board.snapshot(since) | {"modules": modules, "place": cards.place()}

    async def _counts(self, _: Mapping[str, Any], __: Answer) -> dict[str, Any]:
        return census.told(*self._host.counted(self._caller))

    async def _described(self, module: Module) -> dict[str, Any]:
        sandbox = await self._host.sandbox(module)
        said: dict[str, Any] = {"name": module.name, "path": str(module.path), "sandbox": sandbox}
        begun, died = self._host.turnover(self._caller, module.name)
        said |= {"started": begun, "died": died}
        state = self._host.circuit(self._caller, module.name)
        return said if state is None else said | {"circuit": _circuit(state)}

    def _named(self, method: str, params: Mapping[str, Any]) -> Module:
        name = params.get("module")
        if not is_name(name):
            raise RemoteError("malformed", f"{method} needs a module's name")
        return self._enabled(str(name))

    def _module(self, method: str, params: Mapping[str, Any]) -> Module:
        """Return the module that the caller names, if it may have it, and as far as it may."""
        module = self._named(method, params)
        peer = self._peer([module])
        reason = hidden(module.view, peer, chosen=True)
        if reason is not None:
            pid, uid = self._caller.pid, self._caller.uid
            log.info("module.hidden", module=module.name, pid=pid, uid=uid, reason=reason)
            raise RefusedError("refused", f"module {module.name}: {reason}")
        return _narrowed(module, peer)

    def _seen(self) -> list[Module]:
        """Return the modules that the caller sees where it asks for none by name, each as far as it does."""
        modules = self._host.config().enabled
        peer = self._peer(modules)
        seen = [module for module in modules if hidden(module.view, peer, chosen=False) is None]
        return [_narrowed(module, peer) for module in seen]

    def _may_know(self, module: Module) -> bool:
        """Tell whether the caller may know that there is such a module: by rules, not by programs' names."""
        rules = replace(module.view, enable_in=None, disable_in=None)
        return self._is_privileged() or hidden(rules, self._peer([module]), chosen=True) is None

    def _is_privileged(self) -> bool:
        return self._caller.uid in (0, os.geteuid())

    def _peer(self, modules: Sequence[Module]) -> Peer:
        """Return who asks; the kernel is asked only where a module wants to know."""
        caller = self._caller
        if all(module.view.is_open for module in modules):
            return Peer(caller.uid, caller.groups, (caller.program,), None)
        return identify(caller.pid, caller.uid, caller.groups, caller.program)

    def _enabled(self, name: str) -> Module:
        modules = {module.name: module for module in self._host.config().modules}
        module = modules.get(name)
        if module is None:
            raise RefusedError(
                "refused", f"no [module.{name}] in the configuration; known are {', '.join(modules)}"
            )
        if not module.enabled:
            raise RefusedError("refused", f"{module.file}: module.{name}.enabled is false")
        return module

    async def _start(self, module: Module, *, patient: bool, resume: bool = False) -> Offer:
        """Return a module as section 6 describes it, and its door, if it has one."""
        said: dict[str, Any] = {"name": module.name, "fork": module.fork}
        said |= {"short": module.short, "long": module.long, "start": module.start}
        said["list"] = module.list
        if module.rows:
            said["rows"] = module.rows
        if module.resume:
            said["resume"] = True
        if module.broken:
            said |= {"broken": list(module.broken), "broken_pause": module.broken_pause * 1000}
        try:
            spawned = await self._host.start(self._caller, module, patient=patient, resume=resume)
        except P11HostError as error:
            return said | {"door": False, "error": short_text(str(error))}, None
        return said | {"door": True, "pid": spawned.pid}, spawned.door


def _narrowed(module: Module, peer: Peer) -> Module:
    """Return a module that shows of its slots what is for `peer`."""
    return replace(module, selection=pack(selection(module.view, peer))) if module.view.selectors else module


async def _all_of(starts: Sequence[Coroutine[Any, Any, Offer]]) -> list[Offer]:
    """Await all at the same time; if one fails, or we are cancelled, close the doors that there are."""
    tasks = [asyncio.ensure_future(start) for start in starts]
    try:
        return [await task for task in tasks]
    except BaseException:
        for task in tasks:
            task.cancel()
        for offer in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(offer, BaseException) and offer[1] is not None:
                offer[1].close()
        raise


def _add(answer: Answer, offer: Offer) -> dict[str, Any]:
    """Return what is said of a module; its door joins the answer's."""
    said, door = offer
    if door is not None:
        answer.doors.append(door)
    return said


def _circuit(state: State) -> dict[str, Any]:
    retry = round(state.retry * 1000)
    return {"open": state.is_open, "deaths": state.deaths, "last": state.last, "retry": retry}


def _application(application: Application, order: list[str]) -> dict[str, Any]:
    """Describe an application, its helpers in the order of the modules."""
    places = {name: place for place, name in enumerate(order)}
    helpers = sorted(application.helpers, key=lambda helper: places.get(helper.module, len(places)))
    return {
        "pid": application.caller.pid,
        "program": application.caller.program,
        "helpers": [_helper(helper) for helper in helpers],
    }


def _helper(helper: Running) -> dict[str, Any]:
    said: dict[str, Any] = {"module": helper.module, "pid": helper.pid, "generation": helper.generation}
    said["seconds"] = int(time.monotonic() - helper.born)
    if helper.answered is not None:
        said["answered"] = helper.answered()
    return said if helper.served is None else said | {"shared": helper.served()}
