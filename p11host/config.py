"""The configuration: which providers there are, under which names, and how they are run.

Knows TOML files and how several make one configuration; what may stand in one is config_schema's. Must not
know sockets or processes, and never opens a provider.
"""

import os
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from p11host.errors import ConfigError
from p11host.paths import config_candidates
from p11host.pins import PinSource
from p11host.sandbox.settings import DEFAULT, Settings
from p11host.trust import distrust

Fork = Literal["reinit", "inherit", "strict"]

#: A configuration is written by people; a file longer than this, in bytes, is something else.
MOST_BYTES = 1 << 20
#: Seconds an on-demand broker stays without applications.
IDLE = 300


@dataclass(frozen=True, slots=True)
class Module:
    """A provider under a name: `[module.NAME]`. `short`, `long` and `start` are deadlines in ms.

    `rows` are its vendor's, as both ends of a call get them; `tables` are the files some of them come from.
    `spare`: a helper is kept ready for the next application.
    Helpers run as `user` and `group`, None for the broker's own. `broken` are CK_RVs after which a helper is
    ended, at most once in `broken_pause` seconds.
    """

    name: str
    path: Path
    env: Mapping[str, str]
    fork: Fork
    threads: int | None
    priority: int
    reserved: str | None
    enabled: bool
    short: int
    long: int
    start: int
    file: Path
    tables: tuple[Path, ...] = ()
    rows: bytes = b""
    spare: bool = True
    sandbox: Settings = DEFAULT
    user: str | None = None
    group: str | None = None
    resume: bool = False
    pin_source: PinSource | None = None
    broken: tuple[int, ...] = ()
    broken_pause: int = 0


@dataclass(frozen=True, slots=True)
class File:
    """What one file says; None where it says nothing."""

    path: Path
    modules: tuple[Module, ...]
    socket: Path | None
    idle: int | None


@dataclass(frozen=True, slots=True)
class Config:
    """All that the files say together. `modules` are in the order of their slots, disabled ones included."""

    modules: tuple[Module, ...]
    socket: Path | None
    idle: int
    files: tuple[Path, ...]

    @property
    def enabled(self) -> tuple[Module, ...]:
        """The modules an application gets."""
        return tuple(module for module in self.modules if module.enabled)


@dataclass(frozen=True, slots=True)
class Source:
    """One file, read: its text, for the lines of faults, and what TOML makes of it."""

    path: Path
    text: str
    table: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files count, the more important first. One that was named must exist."""

    paths: tuple[Path, ...]
    named: bool


def choose(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Choice:
    """Return `path` if there is one, else `$P11HOST_CONFIG`, else the user's and the system's file."""
    environ = os.environ if environ is None else environ
    if path is None and environ.get("P11HOST_CONFIG"):
        path = Path(environ["P11HOST_CONFIG"])
    if path is not None:
        return Choice((path.absolute(),), named=True)
    return Choice(tuple(config_candidates(environ)), named=False)


def load(choice: Choice, seen: set[Path] | None = None) -> Config:
    """Return what the chosen files say together, or raise ConfigError with every fault of every file.

    Every file that a chosen one refers to is added to `seen`, in either case.
    Of two modules with one name the earlier file's counts. Modules come by priority, the highest first, and
    where that is equal as they are written, the earlier file's first.
    """
    from p11host.config_schema import check, referred  # noqa: PLC0415 (pydantic: 20 ms that `p11host path` need not pay)

    problems: list[str] = []
    sources = [source for path in choice.paths if (source := read(path, problems, choice)) is not None]
    if seen is not None:
        seen.update(path for source in sources for path in referred(source))
    files = [file for source in sources if (file := check(source, problems)) is not None]
    if problems:
        raise ConfigError(problems)
    config = _merge(files)
    if not config.enabled:
        raise ConfigError([_no_modules(choice, config)])
    return config


def _merge(files: Sequence[File]) -> Config:
    merged: dict[str, Module] = {}
    for file in files:
        merged |= {module.name: module for module in file.modules if module.name not in merged}
    return Config(
        modules=tuple(sorted(merged.values(), key=lambda module: -module.priority)),
        socket=next((file.socket for file in files if file.socket is not None), None),
        idle=next((file.idle for file in files if file.idle is not None), IDLE),
        files=tuple(file.path for file in files),
    )


def _no_modules(choice: Choice, config: Config) -> str:
    what_to_do = "add a provider with: p11host add /path/to/provider.so"
    if config.modules:
        return f"{config.files[0]}: every module is disabled; remove an 'enabled = false', or {what_to_do}"
    if config.files:
        return f"{config.files[0]}: no [module.NAME] in it; {what_to_do}"
    return f"no configuration: neither {' nor '.join(map(str, choice.paths))} exists; {what_to_do}"


def read(path: Path, problems: list[str], choice: Choice) -> Source | None:
    """Return the file, or None after noting in `problems` why it cannot be used."""
    try:
        text = read_text(path)
        return Source(path, text, tomllib.loads(text))
    except FileNotFoundError:
        if choice.named:
            problems.append(f"{path}: no such file; name another with --config or P11HOST_CONFIG")
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}; check its path, owner and mode")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: not TOML: {error}")
    except ValueError as error:
        problems.append(f"{path}: {error}")
    return None


def read_text(path: Path) -> str:
    """Return the text of a regular file that only root and this user may write: it decides what is loaded."""
    # A pipe or a device in its place must not make us wait for it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("not a regular file")
        if mode & stat.S_IWOTH:
            raise ValueError(f"everybody may write it; run: chmod o-w {path}")
        if (fault := distrust(path)) is not None:
            raise ValueError(fault)
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES} bytes, so no configuration")
    return data.decode()
