"""The broker: does one answer, who owns its socket, who may reach it.

Knows sockets' files and the broker's `status`. Must not know helpers.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p11host.client import Door
from p11host.doctor.findings import Finding, Part, ok, problem
from p11host.errors import BrokerError, P11HostError
from p11host.start import open_door, socket_places
from p11host.trust import distrust, owner_name

#: Seconds in which a broker says hello, and what it does.
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Reached:
    """A broker as it answered: its `door` and its `status`, None where it did not."""

    part: Part
    door: Door | None = None
    status: Mapping[str, Any] | None = None


def reach(connect: Callable[[], Door] | None = None) -> Reached:
    """Find the broker that serves this user as an application does, and start one where none runs.

    With `connect` it is the one that this gives a door to, and its socket is not looked at. The caller closes
    the door.
    """
    try:
        ran, door = (True, connect()) if connect else _open()
    except (P11HostError, OSError) as error:
        return Reached(Part("broker", (*_about_socket(), problem(error))))
    try:
        with door.open("p11host doctor", PATIENCE) as channel:
            status = channel.call("status", [{}], PATIENCE)
    except (P11HostError, OSError) as error:
        door.close()
        return Reached(Part("broker", (problem(error),)))
    started = "" if ran else ", started for this on demand"
    findings = [
        ok(f"pid {status['pid']}{started}"),
        *([] if connect else _about_socket()),
        *_circuits(status),
    ]
    facts = {"pid": status["pid"], "started": not ran, "config": status["config"]}
    return Reached(Part("broker", tuple(findings), facts), door, status)


def _open() -> tuple[bool, Door]:
    try:
        return True, open_door(start=False)
    except BrokerError:
        return False, open_door(start=True)


def _about_socket() -> Iterator[Finding]:
    """Yield whose the socket is, and who else might put another in its place."""
    try:
        path = next(path for path in socket_places() if path.exists())
        found = path.stat()
        fault = distrust(path.parent)
    except (StopIteration, P11HostError, OSError):
        return
    mode = stat.S_IMODE(found.st_mode)
    who = f"owner {owner_name(found.st_uid)}, mode {mode:04o}"
    if fault is not None:
        yield problem(fault)
    elif not os.access(path, os.W_OK):
        yield Finding("problem", f"{path}: {who}: not for this user", "set P11HOST_SOCKET")
    elif mode & stat.S_IWOTH and found.st_uid != 0:
        yield Finding("warning", f"{path}: {who}: everybody may ask for helpers", f"run: chmod 0600 {path}")
    else:
        yield ok(f"{path}: {who}")


def _circuits(status: Mapping[str, Any]) -> Iterator[Finding]:
    for module in status["modules"]:
        circuit = module.get("circuit")
        if circuit and circuit["open"]:
            said = f"{circuit['deaths']} helpers died at once, the last by {circuit['last']}"
            do = f"see the broker's log, then: p11host restart {module['name']}"
            yield Finding("problem", f"module {module['name']} rests: {said}", do)


def private(path: Path) -> Callable[[], Door]:
    """Return what connects to a broker at a path."""
    return lambda: Door.of_broker(path)
