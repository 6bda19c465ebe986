"""A configuration as it is told to people: each value, and the file and line it comes from.

Knows what a module's fields are called in a file. Must not know how a configuration is read.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from p11host.codes import ckr
from p11host.config import Choice, Config, Module, read
from p11host.config_lines import Location, locate
from p11host.pins import PinSource
from p11host.sandbox.settings import RIGHTS, Settings
from p11host.view import Rule

BY_DEFAULT = "default"
#: What may hold a secret, and is shown only to who asks for it.
_SECRET = ("reserved", "env")
#: Names of p11-kit's for what is called otherwise here.
_OF_P11KIT = {"path": "module", "reserved": "x-init-reserved"}


@dataclass(frozen=True, slots=True)
class Told:
    """A key of a module, its value as JSON has it, and where it comes from: file:line, or "default"."""

    key: str
    value: Any
    origin: str


def told(module: Module, *, secrets: bool = False) -> list[Told]:
    """Return what a module says, key by key in the order of the sample file."""
    values = _values(module)
    if not secrets:
        values |= {key: _hidden(values[key]) for key in _SECRET if values[key]}
    return [Told(key, value, _origin(module, key)) for key, value in values.items()]


def told_broker(config: Config) -> list[Told]:
    """Return what `[broker]` says."""
    socket = None if config.socket is None else str(config.socket)
    values = {"socket": socket, "idle": config.idle, "p11-kit": config.p11kit}
    return [Told(key, value, _first(config, ("broker", key))) for key, value in values.items()]


def _values(module: Module) -> dict[str, Any]:
    view = module.view
    return {
        "path": str(module.path),
        "env": dict(module.env),
        "fork": module.fork,
        "threads": module.threads,
        "priority": module.priority,
        "reserved": module.reserved,
        "enabled": module.enabled,
        "spare": module.spare,
        "deadlines": {
            "short": module.short,
            "long": module.long,
            "start": module.start,
            "list": module.list,
        },
        "sandbox": _sandbox(module.sandbox),
        "resume": module.resume,
        "pin-source": None if module.pin_source is None else _source(module.pin_source),
        "broken": [ckr(rv) for rv in module.broken],
        "broken-pause": module.broken_pause,
        "event-interval": module.event_interval,
        "event-wait": module.event_wait,
        "token-check": module.token_check,
        "user": module.user,
        "group": module.group,
        "enable-in": None if view.enable_in is None else list(view.enable_in),
        "disable-in": None if view.disable_in is None else list(view.disable_in),
        "allow": [_rule(rule) for rule in view.allow],
        "deny": [_rule(rule) for rule in view.deny],
        "tokens": list(map(str, view.tokens)),
        "tables": [str(path) for path in module.tables],
    }


def _source(source: PinSource) -> str:
    return f"{source.kind}:{source.place}" if source.place else source.kind


def _rule(rule: Rule) -> dict[str, Any]:
    who = {"uid": rule.uid, "gid": rule.gid, "exe": rule.exe}
    said: dict[str, Any] = {key: value for key, value in who.items() if value is not None}
    return said | {"tokens": list(map(str, rule.tokens))} if rule.tokens else said


def _sandbox(settings: Settings) -> dict[str, Any]:
    """Return what a module's sandbox says, as it would be written: what is the same for all is left out."""
    mine, usual = dataclasses.asdict(settings), dataclasses.asdict(Settings())
    grants, none = mine.pop("grants"), usual.pop("grants")
    said = {key: value for key, value in mine.items() if value != usual[key] and key != "on"}
    said |= {key: grants[key] for key in (*RIGHTS, "network", "processes", "ipc") if grants[key] != none[key]}
    return {"mode": "on" if settings.on else "off"} | said


def _hidden(value: Any) -> Any:
    """Return in place of a secret that there is one; of variables their names."""
    return dict.fromkeys(value, "…") if isinstance(value, dict) else "…"


def _origin(module: Module, key: str) -> str:
    if module.origins is None:
        return _line(module.file, ("module", module.name, key)) or BY_DEFAULT
    names = ("remote", "module") if key == "path" else (_OF_P11KIT.get(key, key),)
    said = next((module.origins[name] for name in names if name in module.origins), None)
    return BY_DEFAULT if said is None else f"{said.file}:{said.line}"


def _first(config: Config, location: Location) -> str:
    return next((line for file in config.files if (line := _line(file, location))), BY_DEFAULT)


def _line(file: Path, location: Location) -> str:
    line = _lines(file).get(location)
    return "" if line is None else f"{file}:{line}"


@cache
def _lines(file: Path) -> Mapping[Location, int]:
    """Return the lines of a file of ours, none of another's."""
    source = read(file, [], Choice((file,), named=True)) if file.suffix != ".module" else None
    return {} if source is None else locate(source.text)


def remarks(config: Config) -> Iterator[dict[str, Any]]:
    """Yield what there is to say of p11-kit's files."""
    for remark in config.remarks:
        yield {"file": str(remark.file), "line": remark.line, "text": remark.text, "refused": remark.refused}
