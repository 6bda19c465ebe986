"""Who made a provider: each is asked in a helper of its own, under the profile it would run under.

Knows how a configuration for that is written. Nothing of a provider runs in this process.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from p11host.client import Door
from p11host.discover.find import Found
from p11host.errors import P11HostError
from p11host.limits import limits
from p11host.probe import Probe, probe
from p11host.start import private_broker
from p11host.together import together

#: Milliseconds for the start of a provider, and for a call.
_DEADLINES = {"short": 5000, "long": 5000, "start": 5000}
_SECONDS = 6.0


def ask(found: Sequence[Found]) -> Iterator[tuple[str, Probe]]:
    """Yield what each provider says of itself, by name, as they answer."""
    for first in range(0, len(found), limits().modules):
        some = found[first : first + limits().modules]
        with tempfile.NamedTemporaryFile("w", prefix="p11host-discover-", suffix=".toml") as file:
            file.write(configuration(some))
            file.flush()
            with private_broker(Path(file.name), "off") as broker:
                yield from together({each.name: _asker(broker.socket, each.name) for each in some})


def configuration(found: Sequence[Found]) -> str:
    """Return a configuration with a module for each."""
    return tomlkit.dumps({"module": {each.name: dict(_module(each)) for each in found}})


def _module(found: Found) -> Mapping[str, Any]:
    reserved = {} if found.reserved is None else {"reserved": found.reserved}
    return {"path": str(found.path), "spare": False, "deadlines": _DEADLINES, **reserved}


def _asker(socket: Path, name: str) -> Callable[[], Probe]:
    def run() -> Probe:
        try:
            with Door.of_broker(socket) as door, door.open("p11host discover") as channel:
                return probe(channel.open_module(name, _SECONDS), _SECONDS, slots=False)
        except (P11HostError, OSError) as error:
            return Probe(name, str(error), None, ())

    return run
