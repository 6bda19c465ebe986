"""`[module.NAME.sandbox]` in a configuration file: what may stand there, and whether its paths exist.

Knows keys, types and texts for people. What a profile does is p11host.sandbox's.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from p11host.config import Source
from p11host.config_lines import Location, locate
from p11host.config_table import Table
from p11host.limits import limits
from p11host.paths import provider_environment
from p11host.sandbox.resolve import MAYBE, AbsentError, expand
from p11host.sandbox.settings import MEMORY_MIB, RIGHTS, Grants, Settings

SANDBOX_PATH = "a path that begins with /, ~/ or $NAME, or with - before it if it may be absent"
_LEAST_MIB, _MOST_MIB = 64, 1 << 24
_LEAST_FILES, _MOST_FILES = 32, 1 << 20
_PORTS = 1 << 16


def _path(value: str) -> str:
    if "\0" in value or not value.removeprefix(MAYBE).startswith(("/", "~/", "$", "@")):
        raise ValueError
    return value


def _network(value: object) -> bool | tuple[int, ...]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list) or not 0 < len(value) <= limits().ports:
        raise ValueError
    if not all(isinstance(port, int) and not isinstance(port, bool) and 0 < port < _PORTS for port in value):
        raise ValueError
    return tuple(value)


def _profile(value: str) -> str:
    from p11host.sandbox.known import choices  # noqa: PLC0415

    if value not in choices():
        raise ValueError
    return value


def _switch(value: object) -> object:
    """Return the table that a word stands for."""
    return {"mode": value} if value in ("on", "off") else value


Paths = list[Annotated[str, AfterValidator(_path)]]


def _paths(what: str) -> Any:
    return Field(default=[], description=f"an array of {what}")


class SandboxTable(Table):
    """`[module.NAME.sandbox]`. A description says what is expected, in the words of an error."""

    mode: Literal["on", "off"] = Field(default="on", description='"on" or "off"')
    require: bool = Field(default=False, description="true or false")
    profile: Annotated[str, AfterValidator(_profile)] | None = Field(
        default=None, description='"strict" or the name of a provider in conf/sandbox.toml'
    )
    read: Paths = _paths("files and directories that it may read")
    write: Paths = _paths("files and directories that it may change")
    execute: Paths = _paths("programs that it may start")
    devices: Paths = _paths("devices")
    sockets: Paths = _paths("sockets of programs of this machine")
    network: Annotated[bool | tuple[int, ...], PlainValidator(_network)] = Field(
        default=False, description="true, false or an array of TCP ports, [443]"
    )
    processes: bool = Field(default=False, description="true or false")
    ipc: bool = Field(default=False, description="true or false")
    memory: Annotated[int, Field(ge=_LEAST_MIB, le=_MOST_MIB)] = Field(
        default=MEMORY_MIB, description=f"a number of MiB from {_LEAST_MIB}"
    )
    files: Annotated[int, Field(ge=_LEAST_FILES, le=_MOST_FILES)] | None = Field(
        default=None, description=f"a number of descriptors from {_LEAST_FILES}"
    )
    tasks: Annotated[int, Field(ge=1, le=1 << 22)] | None = Field(
        default=None, description="a number of threads and processes of the user"
    )

    def settings(self) -> Settings:
        """Return what it says, as data."""
        grants = Grants(
            **{right: tuple(getattr(self, right)) for right in RIGHTS},
            network=self.network,
            processes=self.processes,
            ipc=self.ipc,
        )
        return Settings(
            self.mode == "on", self.require, self.profile, grants, self.memory, self.files, self.tasks
        )


Switch = Annotated[SandboxTable, BeforeValidator(_switch)]


def absent_paths(source: Source, module: str, table: SandboxTable, env: Mapping[str, str]) -> Iterator[str]:
    """Yield a fault for each path of a module's sandbox that leads nowhere and is not said to be optional."""
    environ = provider_environment(env, os.environ)
    for right, text in table.settings().grants.paths():
        fault = _absence(text, environ)
        if fault is not None:
            yield _fault(source, ("module", module, "sandbox", right), fault)


def _absence(text: str, environ: Mapping[str, str]) -> str | None:
    if text.startswith((MAYBE, "@")):
        return None
    try:
        path = expand(text, environ)
    except AbsentError as error:
        return f"{text}: ${error} is not in the provider's environment; set it in env, or write the path out"
    if not path.startswith("/"):
        return f"{text}: leads to {path}, which does not begin with /"
    if not _lacks(path):
        return None
    return f"{text}: no such file or directory; correct it, or write -{text} if it may be absent"


def _lacks(path: str) -> bool:
    """Tell whether there is nothing at a path; what cannot be looked at may be there."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _fault(source: Source, location: Location, text: str) -> str:
    lines = locate(source.text)
    at = location
    while at and at not in lines:
        at = at[:-1]
    return f"{source.path}:{lines.get(at, 1)}: {'.'.join(location)}: {text}"
