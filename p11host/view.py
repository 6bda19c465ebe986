"""Which modules an application sees: by its program's name as p11-kit does it, and by rules about who asks.

Knows names, ids and files. Must not know sockets: who asks is told by p11host.peer.
"""

from dataclasses import dataclass

#: What p11-kit's lists call the slots of all modules merged, which is what the shim shows.
MERGED = "p11-kit-proxy"

Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, by the kernel's word, but for what its program calls itself, the last of `names`.

    `exe` is the device and inode of its executable, None where that cannot be known.
    """

    uid: int
    groups: frozenset[int]
    names: tuple[str, ...]
    exe: Identity | None


@dataclass(frozen=True, slots=True)
class Rule:
    """Fits whoever has all that it names. `exe` is a path, whose file is looked at when somebody asks."""

    uid: int | None = None
    gid: int | None = None
    exe: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What a module says of who may see it. `enable_in` and `disable_in` are None where it says nothing."""

    enable_in: tuple[str, ...] | None = None
    disable_in: tuple[str, ...] | None = None
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()

    @property
    def is_open(self) -> bool:
        """Tell whether everybody sees it."""
        return self == EVERYBODY


EVERYBODY = View()
