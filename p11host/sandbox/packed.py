"""A module's profile as its helper takes it: section 9 of PROTOCOL.md.

Knows the bits and places of that section. What the helper makes of them is shim/sandbox.c.
"""

import grp
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgpack

from p11host.errors import P11HostError
from p11host.limits import limits
from p11host.sandbox.resolve import Allowed, Profile
from p11host.sandbox.settings import Right

if TYPE_CHECKING:
    from p11host.config import Module

VERSION = 1
SOCKETS, NETWORK, PROCESSES, IPC = 1, 2, 4, 8
CONFINED, REQUIRED, LEARNING, SOME_PORTS, ABSTRACT = 16, 32, 64, 128, 256
_AS_IT_IS = -1
#: Connecting to a socket needs no right to its file.
_RIGHTS: Mapping[Right, int] = {"read": 1, "write": 2, "execute": 4, "devices": 8}
_MIB = 1 << 20
#: What is the helper's own, and another's for us.
_OWN = "/proc/self"


def pack(module: "Module", profile: Profile, *, learn: bool = False) -> bytes:
    """Return a module's profile, or raise P11HostError where this broker cannot do what it says."""
    settings = profile.settings
    ports = profile.network if isinstance(profile.network, tuple) else ()
    uid, gid = owner(module)
    fields = [
        VERSION,
        flags(profile, learn=learn),
        settings.memory * _MIB,
        settings.files or 0,
        settings.tasks or 0,
        uid,
        gid,
        list(_paths(profile.paths)),
        sorted(set(ports)),
    ]
    data: bytes = msgpack.packb(fields, use_bin_type=True, unicode_errors="surrogateescape")
    if len(data) > limits().profile:
        raise P11HostError(
            f"module {module.name}: a profile of {len(data)} bytes; name directories instead of their files"
        )
    return data


def flags(profile: Profile, *, learn: bool) -> int:
    """Return what a profile allows and wants, a bit each."""
    sockets = [allowed.path for allowed in profile.paths if allowed.right == "sockets"]
    bits = {
        SOCKETS: bool(sockets),
        NETWORK: bool(profile.network),
        PROCESSES: profile.processes,
        IPC: profile.ipc,
        CONFINED: profile.settings.on,
        REQUIRED: profile.settings.require,
        LEARNING: learn,
        SOME_PORTS: isinstance(profile.network, tuple),
        ABSTRACT: any(path.startswith("@") for path in sockets),
    }
    return sum(bit for bit, is_set in bits.items() if is_set)


def owner(module: "Module") -> tuple[int, int]:
    """Return uid and gid of a module's helpers, -1 for the broker's own; P11HostError if it cannot be had."""
    if module.user is None and module.group is None:
        return _AS_IT_IS, _AS_IT_IS
    if os.geteuid() != 0:
        raise P11HostError(
            f"module {module.name}: `user` and `group` need a broker that runs as root; remove them, or use "
            "the system's broker"
        )
    try:
        user = pwd.getpwnam(module.user) if module.user is not None else None
        gid = grp.getgrnam(module.group).gr_gid if module.group is not None else user.pw_gid if user else -1
    except KeyError as error:
        raise P11HostError(f"module {module.name}: {error.args[0]}; correct `user` or `group`") from error
    return user.pw_uid if user else _AS_IT_IS, gid


def _paths(allowed: Iterable[Allowed]) -> Iterator[tuple[int, str]]:
    """Yield what there is at these paths, without links, and not what comes with a directory above it.

    Each costs a helper a few microseconds when it starts.
    """
    rights: dict[str, int] = {}
    for each in allowed:
        if each.right in _RIGHTS and os.path.lexists(each.path):
            path = each.path if each.path.startswith(_OWN) else os.path.realpath(each.path)
            rights[path] = rights.get(path, 0) | _RIGHTS[each.right]
    for path, right in rights.items():
        above = 0
        for parent in PurePath(path).parents:
            above |= rights.get(str(parent), 0)
        if right & ~above:
            yield right, path
