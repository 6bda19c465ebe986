"""The profiles a broker hands to its helpers, made anew when what they are made of has changed.

Knows when that is. What a profile says is resolve.py's.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p11host import log
from p11host.config import Module
from p11host.errors import P11HostError
from p11host.helper import Confined
from p11host.paths import provider_environment
from p11host.sandbox.kernel import support
from p11host.sandbox.known import profiles
from p11host.sandbox.packed import pack
from p11host.sandbox.resolve import Profile, resolve
from p11host.sandbox.settings import EVERY, STRICT

Stamp = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A profile, of a module as it was and files as they were then."""

    module: Module
    profile: Profile
    stamp: Stamp
    packed: bytes


class Learner(Protocol):
    """Whoever hears of what one module would be denied."""

    module: str

    def begin(self) -> socket.socket:
        """Return what the next helper is given to tell it; the caller closes it."""


class Confinement:
    """Remembers each module's profile. What a module lacks is logged once for each state of its table."""

    def __init__(self, learner: Learner | None = None) -> None:
        self._kept: dict[str, Kept] = {}
        self._learner = learner

    @contextmanager
    def begin(self, kept: Kept) -> Iterator[Confined]:
        """Yield what a helper of a module is started with."""
        if self._learner is None or self._learner.module != kept.module.name:
            yield Confined(kept.packed)
            return
        with self._learner.begin() as sock:
            yield Confined(pack(kept.module, kept.profile, learn=True), sock)

    def of(self, module: Module) -> Kept:
        """Return what a helper of a module may do now; P11HostError where that cannot be enforced.

        Looks at files, so not for an event loop.
        """
        kept = self._kept.get(module.name)
        if kept is not None and kept.module == module and kept.stamp == _stamp(kept.profile):
            return kept
        profile = resolve(module, provider_environment(module.env, os.environ))
        stamp = _stamp(profile)
        packed = pack(module, profile)
        _refuse(module)
        if kept is None or kept.module != module:
            _warn(module)
        self._kept[module.name] = Kept(module, profile, stamp, packed)
        return self._kept[module.name]


def state(module: Module) -> str:
    """Return in a few words how a module is confined: by which profile, and what of it this kernel lacks."""
    if not module.sandbox.on:
        return "off"
    known = profiles().of(module.path)
    name = module.sandbox.profile or (known.name if known else STRICT)
    missing = "".join(f", without {what}" for what in support().missing)
    return name + missing


def _refuse(module: Module) -> None:
    missing = support().missing
    if module.sandbox.on and module.sandbox.require and missing:
        raise P11HostError(
            f"module {module.name} requires a sandbox, and this kernel has no {' and no '.join(missing)}; "
            f"use another kernel, or remove `require` in {module.file}"
        )


def _warn(module: Module) -> None:
    if not module.sandbox.on:
        log.warning("sandbox.off", module=module.name, file=module.file)
    elif support().missing:
        log.warning("sandbox.missing", module=module.name, kernel_lacks=",".join(support().missing))


def _stamp(profile: Profile) -> Stamp:
    """Return what changes when a file does in which paths were found, or when a missing path comes to be."""
    named = [Path(allowed.path) for allowed in profile.paths if allowed.source != EVERY]
    return tuple(_state(path) for path in profile.read_files) + tuple(_places(named))


def _places(paths: Iterable[Path]) -> Iterable[tuple[int, ...]]:
    """Return which file is at each path: a rule is for the file that was there."""
    return (_state(path)[:2] for path in paths)


def _state(path: Path) -> tuple[int, ...]:
    try:
        now = path.stat()
    except OSError:
        return ()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns
