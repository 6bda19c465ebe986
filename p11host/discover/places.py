"""conf/places.toml: where providers are installed, and what their libraries are called.

Knows that file's grammar. Looks at no provider.
"""

import fnmatch
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from p11host import conf_path
from p11host.paths import is_directory, real
from p11host.sandbox.known import profiles

FILE = "places.toml"


@dataclass(frozen=True, slots=True)
class Title:
    """A provider as people call it, and the names of its library, as patterns."""

    name: str
    title: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a provider is told to say who it is, and what is left to say to people."""

    reserved: str | None = None
    say: str | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """The whole file. `titles` are those of sandbox.toml too; `never` has a reason for each pattern."""

    directories: tuple[str, ...]
    modules: tuple[str, ...]
    titles: tuple[Title, ...]
    never: Mapping[str, str]
    ask: Mapping[str, Ask]

    def title(self, path: Path) -> Title | None:
        """Return what a library is by its name, or by the name of the file it is a link to."""
        names = {path.name, real(path).name}
        return next((each for each in self.titles if matches(names, each.files)), None)

    def reason_against(self, path: Path) -> str | None:
        """Return why a library is no provider, if its name says that."""
        names = {path.name, real(path).name}
        return next((why for pattern, why in self.never.items() if matches(names, [pattern])), None)


@cache
def places() -> Places:
    """Return what the file that comes with p11host says."""
    return read(conf_path() / FILE)


def read(path: Path) -> Places:
    """Return what a file says; a fault in it is ours, and a KeyError or TypeError."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    known = [Title(each.name, each.title, each.files) for each in profiles().providers.values()]
    also = [Title(name, row["title"], tuple(row["files"])) for name, row in table["also"].items()]
    return Places(
        directories=tuple(table["directories"]),
        modules=tuple(table["modules"]),
        titles=(*known, *also),
        never=table["never"],
        ask={name: Ask(**row) for name, row in table["ask"].items()},
    )


def directories(patterns: Sequence[str]) -> Iterator[Path]:
    """Yield the directories that there are of those that patterns name, each once."""
    absolute = (str(Path(pattern).expanduser()).lstrip("/") for pattern in patterns)
    found = (directory for pattern in absolute for directory in sorted(Path("/").glob(pattern)))
    seen: set[Path] = set()
    for directory in found:
        place = real(directory)
        if is_directory(place) and place not in seen:
            seen.add(place)
            yield directory


def matches(names: set[str], patterns: Sequence[str]) -> bool:
    """Tell whether one of the names is as one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
