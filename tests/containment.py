"""A broker whose log a test reads, and applications under it that load the shim."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brokers import PATIENCE, ROOT, Broker, Event, Starter
from life import Host

from p11host import helper_path


@dataclass(frozen=True)
class Watched(Host):
    """A host whose broker's events can be waited for."""

    observed: Broker | None = None

    @property
    def watched(self) -> Broker:
        """Return the broker."""
        assert self.observed is not None
        return self.observed

    def event(self, name: str, **fields: object) -> Event:
        """Return the next event of that name and with these fields."""
        return self.watched.wait_event(name, **fields)

    def command(self, *words: str) -> str:
        """Run `p11host` with these words; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "p11host", *words],
            env=os.environ | dict(self.env) | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.stdout

    def module(self, name: str) -> Mapping[str, Any]:
        """Return what `p11host status --json` says of a module."""
        state = json.loads(self.command("status", "--json"))
        (found,) = (each for each in state["modules"] if each["name"] == name)
        return dict(found)


def watch(starter: Starter, *modules: str) -> Watched:
    """Start a broker with these modules and real helpers."""
    broker = starter.start("".join(modules), helper=helper_path())
    return Watched({"P11HOST_SOCKET": str(broker.socket), "P11HOST_NO_START": "1"}, observed=broker)


def children(pid: int) -> list[int]:
    """Return the children of a process, dead ones included."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found
