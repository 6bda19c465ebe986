"""What one module may do, every name in it looked up: its profile.

Knows a provider's environment, and files of the provider's own that say where its others are. Opens no socket
and starts nothing.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p11host.paths import real
from p11host.sandbox.known import Found, Known, Profiles, profiles
from p11host.sandbox.settings import EVERY, STRICT, Grants, Right, Settings

if TYPE_CHECKING:
    from p11host.config import Module

_NAME = re.compile(r"\$(?:(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?::-(?P<otherwise>[^}]*))?\})")
#: A provider's own file that is longer than this many bytes is none.
_MOST = 1 << 20
#: Variables inside one another; deeper ones lead in a circle.
_DEPTH = 8
#: A path in a configuration that begins so may be absent.
MAYBE = "-"


@dataclass(frozen=True, slots=True)
class Allowed:
    """A path and what it may be used for; `source` says who allows it."""

    right: Right
    path: str
    source: str


@dataclass(frozen=True, slots=True)
class Profile:
    """What a module may do. `name` is that of a known provider, or "strict"."""

    name: str
    title: str
    paths: tuple[Allowed, ...]
    network: bool | tuple[int, ...]
    processes: bool
    ipc: bool
    settings: Settings
    read_files: tuple[Path, ...] = ()


class AbsentError(Exception):
    """A variable that a path needs and nobody set."""


def expand(text: str, environ: Mapping[str, str], depth: int = 0) -> str:
    """Return a path with ~ and variables replaced; AbsentError for one that is not set or leads nowhere."""

    def value(name: re.Match[str]) -> str:
        found = environ.get(name["bare"] or name["braced"]) or name["otherwise"]
        if not found or depth == _DEPTH:
            raise AbsentError(name["bare"] or name["braced"])
        return expand(found, environ, depth + 1)

    text = _NAME.sub(value, text) if "$" in text else text
    if text == "~" or text.startswith("~/"):
        if not environ.get("HOME"):
            raise AbsentError("HOME")
        text = environ["HOME"] + text[1:]
    return text


def resolve(module: "Module", environ: Mapping[str, str], known: Profiles | None = None) -> Profile:
    """Return what a module may do. `environ` is the environment its provider gets."""
    known = profiles() if known is None else known
    settings = module.sandbox
    provider = _provider(module, known)
    paths = [
        *_allowed(known.strict, EVERY, environ),
        Allowed("read", str(real(module.path)), "its library"),
    ]
    grants = settings.grants
    files: list[Path] = []
    if provider is not None:
        grants |= provider.grants
        paths += _allowed(provider.grants, provider.title, environ)
        paths += _look_up(module, provider, environ, files)
    if grants.network:
        paths += _allowed(known.network, "the network", environ)
    if grants.processes:
        paths += _allowed(known.processes, "programs", environ)
    paths += _allowed(settings.grants, str(module.file), environ)
    return Profile(
        name=provider.name if provider else STRICT,
        title=provider.title if provider else "unknown: the strict default",
        paths=tuple(dict.fromkeys(paths)),
        network=grants.network,
        processes=grants.processes,
        ipc=grants.ipc,
        settings=settings,
        read_files=tuple(files),
    )


def _provider(module: "Module", known: Profiles) -> Known | None:
    """Return the provider whose profile a module has: the one that is named, else by its library's name."""
    named = module.sandbox.profile
    if named is not None:
        return known.providers.get(named)
    return known.of(module.path)


def _allowed(grants: Grants, source: str, environ: Mapping[str, str]) -> Iterator[Allowed]:
    for right, text in grants.paths():
        try:
            path = expand(text.removeprefix(MAYBE), environ)
        except AbsentError:
            continue
        if path.startswith("/") or (right == "sockets" and path.startswith("@")):
            yield Allowed(right, path, source)


def _look_up(
    module: "Module", provider: Known, environ: Mapping[str, str], files: list[Path]
) -> Iterator[Allowed]:
    for found in provider.found:
        for path in _matches(found, module, environ, files):
            if path.startswith("/"):
                yield Allowed(found.gives, path, f"{provider.title}, as configured")


def _matches(found: Found, module: "Module", environ: Mapping[str, str], files: list[Path]) -> Iterator[str]:
    text = module.reserved if found.reserved else environ.get(found.variable or "")
    if found.files:
        text = _first_text(found, environ, files)
    for match in found.pattern.finditer(text or ""):
        yield match[1]


def _first_text(found: Found, environ: Mapping[str, str], files: list[Path]) -> str | None:
    """Return the text of the first file that there is; every file that was looked for is added to `files`."""
    for name in found.files:
        try:
            path = Path(expand(name, environ))
            files.append(path)
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                return file.read(_MOST).decode(errors="surrogateescape")
        except (AbsentError, OSError):
            continue
    return None
