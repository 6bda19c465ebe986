"""p11-kit's `.module` files, as far as they say where a provider is.

Knows `key: value` lines. Which applications a module is for is no matter here.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: A file that is longer than this, in bytes, was written by nobody.
_MOST = 1 << 16


@dataclass(frozen=True, slots=True)
class KitModule:
    """A module of p11-kit. `path` may be relative to wherever p11-kit has its modules."""

    name: str
    file: Path
    path: Path
    reserved: str | None


def modules(directories: Sequence[Path]) -> Iterator[KitModule]:
    """Yield the modules of these directories. Of two files with one name the first counts."""
    seen: set[str] = set()
    for directory in directories:
        with contextlib.suppress(OSError):
            for file in sorted(directory.glob("*.module")):
                if file.name not in seen:
                    seen.add(file.name)
                    yield from _module(file)


def _module(file: Path) -> Iterator[KitModule]:
    keys = _keys(file)
    named = keys.get("module", "")
    if named and "\0" not in named and "remote" not in keys:
        yield KitModule(file.stem, file, Path(named).expanduser(), keys.get("x-init-reserved") or None)


def _keys(file: Path) -> Mapping[str, str]:
    try:
        with file.open("rb") as opened:
            text = opened.read(_MOST).decode(errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, colon, value in lines if colon}
