"""What a configuration says of a module's sandbox, as data.

Imports nothing heavy: every module has one of these.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

Right = Literal["read", "write", "execute", "devices", "sockets"]
#: What a path may be allowed for, in the order in which it is told.
RIGHTS: tuple[Right, ...] = ("read", "write", "execute", "devices", "sockets")
#: The profile of a provider that nobody knows.
STRICT = "strict"
#: Who allows what every module may do.
EVERY = "every module"
MEMORY_MIB = 4096


@dataclass(frozen=True, slots=True)
class Grants:
    """Paths as they are written, and capabilities. `network`: True, or the ports of TCP it may connect to."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    network: bool | tuple[int, ...] = False
    processes: bool = False
    ipc: bool = False

    def paths(self) -> Iterator[tuple[Right, str]]:
        """Yield every path with what it may be used for."""
        for right in RIGHTS:
            yield from ((right, path) for path in getattr(self, right))

    def __or__(self, other: "Grants") -> "Grants":
        """Return what either of them allows."""
        mine, more = (
            {field.name: getattr(each, field.name) for field in fields(Grants)} for each in (self, other)
        )
        both = {name: mine[name] + more[name] for name in RIGHTS}
        return Grants(
            **both,
            network=_either(self.network, other.network),
            processes=self.processes or other.processes,
            ipc=self.ipc or other.ipc,
        )


def _either(one: bool | tuple[int, ...], other: bool | tuple[int, ...]) -> bool | tuple[int, ...]:  # noqa: FBT001
    if isinstance(one, tuple) and isinstance(other, tuple):
        return one + other
    return True if True in (one, other) else one or other


@dataclass(frozen=True, slots=True)
class Settings:
    """`[module.NAME.sandbox]`. `memory` is in MiB; 0 or None leave a limit as the helper finds it."""

    on: bool = True
    require: bool = False
    profile: str | None = None
    grants: Grants = Grants()
    memory: int = MEMORY_MIB
    files: int | None = None
    tasks: int | None = None


#: Of a module that says nothing.
DEFAULT = Settings()
