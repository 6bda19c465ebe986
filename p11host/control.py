"""The methods a broker serves: PROTOCOL.md section 6, as functions from a request to an answer.

Knows methods, parameters and what an answer holds. Must not know sockets of callers: doors of helpers pass
through as they are.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from p11host import log
from p11host.applications import Application, Caller, Running
from p11host.config import Config, Module
from p11host.errors import P11HostError
from p11host.wire import Fault, RefusedError, RemoteError, Request, Response, is_name, map_of, short_text


class Host(Protocol):
    """What the methods need of the broker."""

    def config(self) -> Config:
        """Return the configuration as it is now."""

    async def start(self, caller: Caller, module: Module) -> socket.socket:
        """Start a helper for `caller` and return its door, or raise P11HostError."""

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


class Control:
    """Serves one caller."""

    def __init__(self, host: Host, caller: Caller) -> None:
        self._host = host
        self._caller = caller
        self._methods: dict[str, Callable[[Mapping[str, Any], Answer], Awaitable[dict[str, Any]]]] = {
            "attach": self._attach,
            "open": self._open,
            "status": self._status,
        }

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

    async def _attach(self, _: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        return {"modules": [await self._start(module, answer) for module in self._host.config().enabled]}

    async def _open(self, params: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        name = params.get("module")
        if not is_name(name):
            raise RemoteError("malformed", "open needs a module's name")
        return {"modules": [await self._start(self._module(str(name)), answer)]}

    async def _status(self, _: Mapping[str, Any], __: Answer) -> dict[str, Any]:
        config = self._host.config()
        return {
            "pid": os.getpid(),
            "config": [str(path) for path in config.files],
            "modules": [{"name": module.name, "path": str(module.path)} for module in config.enabled],
            "applications": [_application(known) for known in self._host.applications(self._caller)],
        }

    def _module(self, name: str) -> Module:
        modules = {module.name: module for module in self._host.config().modules}
        module = modules.get(name)
        if module is None:
            raise RefusedError(
                "refused", f"no [module.{name}] in the configuration; known are {', '.join(modules)}"
            )
        if not module.enabled:
            raise RefusedError("refused", f"{module.file}: module.{name}.enabled is false")
        return module

    async def _start(self, module: Module, answer: Answer) -> dict[str, Any]:
        """Return a module as section 6 describes it; its door, if it has one, joins the answer's."""
        said = {"name": module.name, "fork": module.fork, "short": module.short, "long": module.long}
        if module.rows:
            said["rows"] = module.rows
        try:
            answer.doors.append(await self._host.start(self._caller, module))
        except P11HostError as error:
            return said | {"door": False, "error": short_text(str(error))}
        return said | {"door": True}


def _application(application: Application) -> dict[str, Any]:
    return {
        "pid": application.caller.pid,
        "program": application.caller.program,
        "helpers": [_helper(helper) for helper in application.helpers],
    }


def _helper(helper: Running) -> dict[str, Any]:
    said: dict[str, Any] = {"module": helper.module, "pid": helper.pid}
    return said if helper.served is None else said | {"shared": helper.served()}
