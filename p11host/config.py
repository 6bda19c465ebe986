"""The configuration: which providers there are, under which names, and how they are run.

Knows TOML files and how several make one configuration; what may stand in one is config_schema's. Must not
know sockets or processes, and never opens a provider.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from p11host.config_read import read_text
from p11host.errors import ConfigError
from p11host.limits import limits
from p11host.p11kit.files import Remark, Setting
from p11host.paths import config_candidates, drop_ins, p11kit_places
from p11host.pins import PinSource
from p11host.sandbox.settings import DEFAULT, Settings
from p11host.view import EVERYBODY, View

Fork = Literal["reinit", "inherit", "strict"]

#: Seconds an on-demand broker stays without applications.
IDLE = 300


@dataclass(frozen=True, slots=True)
class Module:
    """A provider under a name: `[module.NAME]`. `short`, `long`, `start` and `list` are deadlines in ms.

    `rows` are its vendor's, as both ends of a call get them; `tables` are the files some of them come from.
    `spare`: a helper is kept ready for the next application.
    Helpers run as `user` and `group`, None for the broker's own. `broken` are CK_RVs after which a helper is
    ended, at most once in `broken_pause` seconds. `event_interval` is how often a helper looks for events, in
    milliseconds; with `event_wait` it uses the provider's own wait too. With `token_check` sessions end when
    their token goes, whether the provider notices or not; None: if its profile names PC/SC. `view` says who
    may see it, and what of it; `selection` what one application does, packed.
    `origins` is where p11-kit's configuration says what this is made of, None for a module of our own.
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
    list: int
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
    event_interval: int = 1000
    event_wait: bool = True
    token_check: bool | None = None
    view: View = EVERYBODY
    selection: bytes = field(default=b"", compare=False)
    origins: Mapping[str, Setting] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that say something of it."""
        if self.origins is None:
            return (self.file,)
        return tuple(dict.fromkeys(setting.file for setting in self.origins.values()))


@dataclass(frozen=True, slots=True)
class File:
    """What one file says; None where it says nothing."""

    path: Path
    modules: tuple[Module, ...]
    socket: Path | None
    idle: int | None
    p11kit: bool | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """All that the files say together. `modules` are in the order of their slots, disabled ones included.

    `remarks` are about p11-kit's files, no fault of which is one of the configuration.
    """

    modules: tuple[Module, ...]
    socket: Path | None
    idle: int
    files: tuple[Path, ...]
    p11kit: bool = False
    remarks: tuple[Remark, ...] = ()

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
    """Which files count, the more important first. One that was named must exist, and counts alone.

    With each of the others count those of the directory beside it, p11host.d.
    `p11kit`: p11-kit's configuration counts too, unless a file says otherwise.
    """

    paths: tuple[Path, ...]
    named: bool
    p11kit: bool = False

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where there may be further files."""
        return () if self.named else tuple(map(drop_ins, self.paths))

    def levels(self, problems: list[str]) -> list[list[Path]]:
        """Return the files, a user's and the system's apart; in each the more important first."""
        if self.named:
            return [list(self.paths)]
        return [[path, *_drop_ins_in(drop_ins(path), problems)] for path in self.paths]


def choose(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Choice:
    """Return `path` if there is one, else `$P11HOST_CONFIG`, else the user's and the system's file."""
    environ = os.environ if environ is None else environ
    if path is None and environ.get("P11HOST_CONFIG"):
        path = Path(environ["P11HOST_CONFIG"])
    if path is not None:
        return Choice((path.absolute(),), named=True)
    return Choice(tuple(config_candidates(environ)), named=False, p11kit=True)


def _drop_ins_in(directory: Path, problems: list[str]) -> list[Path]:
    try:
        return sorted(file for file in directory.iterdir() if file.match("[!.]*.toml"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(f"{directory}: cannot be read: {error.strerror}; check its owner and mode")
        return []


def load(choice: Choice, seen: set[Path] | None = None) -> Config:
    """Return what the chosen files say together, or raise ConfigError with every fault of every file.

    Every file and directory that counts is added to `seen`, in either case.
    Of two modules with one name the user's counts, then the system's, then p11-kit's; and of p11-kit's none
    whose provider another module has already. Modules come by priority, the highest first, and where that is
    equal as they are written, the earlier file's first.
    """
    problems: list[str] = []
    seen = set() if seen is None else seen
    seen.update(choice.directories)
    levels = [_level(paths, problems, choice, seen) for paths in choice.levels(problems)]
    config = _merge([file for level in levels for file in level], problems)
    if problems:
        raise ConfigError(problems)
    if _is_wanted(choice, levels):
        config = _with_p11kit(config, seen)
    if not config.enabled:
        raise ConfigError([_no_modules(choice, config), *map(str, config.remarks)])
    return config


def _level(paths: Sequence[Path], problems: list[str], choice: Choice, seen: set[Path]) -> list[File]:
    """Return the files of one level, in which no two modules have one name."""
    # pydantic: 20 ms that `p11host path` need not pay
    from p11host.config_schema import check, referred  # noqa: PLC0415

    files: list[File] = []
    first: dict[str, Path] = {}
    for source in [source for path in paths if (source := read(path, problems, choice)) is not None]:
        seen.update([source.path, *referred(source)])
        if (file := check(source, problems)) is None:
            continue
        files.append(file)
        problems += _twice(source, file, first)
    seen.update(paths)
    return files


def _twice(source: Source, file: File, first: dict[str, Path]) -> Iterator[str]:
    """Yield a fault for each module that an earlier file of the same level has; `first` is where each was."""
    from p11host.config_lines import locate  # noqa: PLC0415 (only of use for a fault)

    for name in [module.name for module in file.modules]:
        other = first.setdefault(name, file.path)
        if other != file.path:
            line = locate(source.text).get(("module", name), 1)
            yield f"{file.path}:{line}: module.{name}: {other} has it already; remove one of them"


def _is_wanted(choice: Choice, levels: Sequence[Sequence[File]]) -> bool:
    """Tell whether p11-kit's configuration counts: as the first file says that says anything."""
    said = (file.p11kit for level in levels for file in level if file.p11kit is not None)
    return next(said, choice.p11kit)


def _merge(files: Sequence[File], problems: list[str]) -> Config:
    merged: dict[str, Module] = {}
    for file in files:
        merged |= {module.name: module for module in file.modules if module.name not in merged}
    if len(merged) > limits().modules and all(len(file.modules) <= limits().modules for file in files):
        problems.append(
            f"{files[0].path}: {len(merged)} modules with other files'; {limits().modules} are allowed"
        )
    return Config(
        modules=_ordered(merged.values()),
        socket=next((file.socket for file in files if file.socket is not None), None),
        idle=next((file.idle for file in files if file.idle is not None), IDLE),
        files=tuple(file.path for file in files),
    )


def _with_p11kit(config: Config, seen: set[Path]) -> Config:
    """Return a configuration with p11-kit's modules after those that it has."""
    from p11host.p11kit.layers import gather  # noqa: PLC0415 (where it is wanted)
    from p11host.p11kit.modules import modules_of  # noqa: PLC0415

    layers = gather(p11kit_places())
    seen |= layers.seen
    found = modules_of(layers, config.modules)
    return replace(
        config,
        modules=_ordered([*config.modules, *found]),
        files=(*config.files, *sorted({file for module in found for file in module.files})),
        p11kit=True,
        remarks=tuple(layers.remarks),
    )


def _ordered(modules: Iterable[Module]) -> tuple[Module, ...]:
    return tuple(sorted(modules, key=lambda module: -module.priority))


def _no_modules(choice: Choice, config: Config) -> str:
    what_to_do = "add a provider with: p11host add /path/to/provider.so"
    if config.modules:
        return f"{config.files[0]}: every module is disabled; remove an 'enabled = false', or {what_to_do}"
    if config.files:
        return f"{config.files[0]}: no [module.NAME] in it; {what_to_do}"
    nowhere = f"neither {' nor '.join(map(str, choice.paths))} exists"
    return (
        f"no configuration: {nowhere}{', and p11-kit has no module' if choice.p11kit else ''}; {what_to_do}"
    )


def _no_toml(path: Path, error: tomllib.TOMLDecodeError) -> str:
    """Return what keeps a file from being TOML, with its line, as far as that is told."""
    said = str(error)
    place = re.search(r"\(at line (\d+), .*\)$", said)
    where = f"{path}:{place[1]}" if place else str(path)
    if twice := re.match(r"Cannot declare \('module', '(.+)'\) twice", said):
        return f"{where}: module.{twice[1]}: the second of that name in this file; remove or rename one"
    return f"{where}: not TOML: {said}"


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
        problems.append(_no_toml(path, error))
    except ValueError as error:
        problems.append(f"{path}: {error}")
    return None
