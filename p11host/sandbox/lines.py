"""The lines of a configuration that a module needs, by what it was heard to want.

Knows which path covers which, and TOML. Asks nobody.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from p11host.paths import real
from p11host.sandbox.learn import Heard
from p11host.sandbox.resolve import Profile
from p11host.sandbox.settings import RIGHTS, Right

#: What else may be done with what may be used so.
_COVERS: dict[Right, tuple[Right, ...]] = {
    "read": ("read", "write", "execute", "devices"),
    "write": ("write",),
    "execute": ("execute",),
    "devices": ("devices",),
    "sockets": ("sockets",),
}
#: So many files of one directory are the directory.
_MANY = 8


def lines(name: str, profile: Profile, heard: Collection[Heard]) -> Iterator[str]:
    """Yield the module's table with what its profile lacks; only comments if it lacks nothing."""
    found = [*_path_lines(profile, heard), *_capability_lines(profile, heard)]
    calls = sorted({each.call for each in heard if each.call})
    if found:
        yield f"[module.{_key(name)}.sandbox]"
        yield from found
    else:
        yield f"# {name} needs nothing beyond its profile, {profile.name}."
    if calls:
        yield f"# It also made calls that no module may make: {', '.join(calls)}."


def _path_lines(profile: Profile, heard: Collection[Heard]) -> Iterator[str]:
    wants = [(each.right, each.path) for each in heard if each.right]
    has = [(allowed.right, str(real(Path(allowed.path)))) for allowed in profile.paths]
    for right in RIGHTS:
        mine = {path for wanted, path in wants if wanted == right and not covered(right, path, has)}
        if right == "read":
            mine = {path for path in mine if not covered(right, path, [w for w in wants if w[0] != "read"])}
        if mine:
            yield f"{right} = [{', '.join(map(_text, _fewer(mine)))}]"


def covered(right: Right, path: str, has: Collection[tuple[Right, str]]) -> bool:
    """Tell whether a right to a path comes with one that is there."""
    if path.startswith("@"):
        return (right, path) in has
    return any(
        allowed in _COVERS[right]
        and (right != "sockets" or path == place)
        and Path(path).is_relative_to(place)
        for allowed, place in has
    )


def _fewer(paths: Collection[str]) -> Sequence[str]:
    """Return paths without those below others; a directory stands for many files of it."""
    crowded = {
        str(parent)
        for parent in {Path(path).parent for path in paths}
        if sum(Path(path).parent == parent for path in paths) >= _MANY
    }
    every = sorted({*paths, *crowded})
    return [
        path
        for path in every
        if not any(path != other and Path(path).is_relative_to(other) for other in every)
    ]


def _capability_lines(profile: Profile, heard: Collection[Heard]) -> Iterator[str]:
    wants = {each.capability for each in heard}
    ports = sorted({each.port for each in heard if each.port})
    if "network" in wants and not profile.network:
        narrower = f"  # or {ports}, if these are TCP and the same at each start" if ports else ""
        yield f"network = true{narrower}"
    if "processes" in wants and not profile.processes:
        yield "processes = true"
    if "ipc" in wants and not profile.ipc:
        yield "ipc = true"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else _text(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
