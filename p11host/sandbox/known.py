"""conf/sandbox.toml: the strict default, and what the providers that p11host knows may do beyond it.

Knows that file's grammar. Must not know a module.
"""

import fnmatch
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from p11host import conf_path
from p11host.paths import real
from p11host.sandbox.settings import RIGHTS, STRICT, Grants, Right

FILE = "sandbox.toml"


@dataclass(frozen=True, slots=True)
class Found:
    """A path that stands elsewhere: group 1 of `pattern` in a file, in a variable, or in `reserved`."""

    pattern: re.Pattern[str]
    gives: Right
    files: tuple[str, ...] = ()
    variable: str | None = None
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """A provider that p11host knows, by the names its library has.

    `notices`: its sessions end by themselves with the token that they were opened on.
    """

    name: str
    title: str
    files: tuple[str, ...]
    grants: Grants
    found: tuple[Found, ...]
    notices: bool


@dataclass(frozen=True, slots=True)
class Profiles:
    """The whole file. `network` and `processes` are for whoever may have these."""

    strict: Grants
    network: Grants
    processes: Grants
    providers: Mapping[str, Known]

    def of(self, path: Path) -> Known | None:
        """Return the provider that a file is by its name, or by the name of the file it is a link to."""
        names = {path.name, real(path).name}
        for known in self.providers.values():
            if any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in known.files):
                return known
        return None


@cache
def profiles() -> Profiles:
    """Return what the file that comes with p11host says."""
    return read(conf_path() / FILE)


def read(path: Path) -> Profiles:
    """Return what a file says; a fault in it is ours, and a KeyError or TypeError."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    known = {name: _known(name, each) for name, each in table["provider"].items()}
    strict, network, processes = (_grants(table[name]) for name in ("strict", "network", "processes"))
    return Profiles(strict, network, processes, known)


def choices() -> Sequence[str]:
    """Return what a configuration may call a profile."""
    return [STRICT, *profiles().providers]


def _known(name: str, table: Mapping[str, Any]) -> Known:
    grants = {key: value for key, value in table.items() if key not in ("title", "files", "found", "notices")}
    found = tuple(map(_found, table.get("found", ())))
    return Known(
        name, table["title"], tuple(table["files"]), _grants(grants), found, table.get("notices", False)
    )


def _grants(table: Mapping[str, Any]) -> Grants:
    values: dict[str, Any] = {key: tuple(value) if key in RIGHTS else value for key, value in table.items()}
    return Grants(**values)


def _found(table: Mapping[str, Any]) -> Found:
    return Found(
        re.compile(table["pattern"], re.MULTILINE),
        table["gives"],
        tuple(table.get("in-file", ())),
        table.get("in-variable"),
        table.get("in-reserved", False),
    )
