"""Which modules an application sees, and what of them.

By its program's name as p11-kit does it, by rules about who asks, and by token selectors.

Knows names, ids, files and PKCS#11 URIs. Must not know sockets: who asks is told by p11host.peer.
"""

from dataclasses import dataclass, replace

from p11host.uri import Uri

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
    """Fits whoever has all that it names. `exe` is a path, whose file is looked at when somebody asks.

    With `tokens` it is about these tokens of the module alone.
    """

    uid: int | None = None
    gid: int | None = None
    exe: str | None = None
    tokens: tuple[Uri, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What a module says of who may see it, and of which of its tokens anybody sees.

    `enable_in` and `disable_in` are None where it says nothing; without `tokens` it is all of them.
    """

    enable_in: tuple[str, ...] | None = None
    disable_in: tuple[str, ...] | None = None
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    tokens: tuple[Uri, ...] = ()

    @property
    def is_open(self) -> bool:
        """Tell whether everybody sees it, and the same of it."""
        return replace(self, tokens=()) == EVERYBODY

    @property
    def selectors(self) -> tuple[Uri, ...]:
        """All selectors there are in it."""
        return (*self.tokens, *(uri for rule in (*self.allow, *self.deny) for uri in rule.tokens))


EVERYBODY = View()
