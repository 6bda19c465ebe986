"""What p11-kit's modules are here: each a module of ours, or left out for a reason that is remarked.

Knows the names of settings. Must not know which file's settings count.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from p11host.config import Module
from p11host.config_schema import NAME_RULE, ModuleTable, fields_of, is_module_name, module_of
from p11host.limits import limits
from p11host.p11kit.files import Remark, Setting, Settings
from p11host.p11kit.layers import Layers
from p11host.paths import is_there, provider_directories, real
from p11host.provider import proxy
from p11host.text import nearest

_NUMBER = re.compile(r"[+-]?[0-9]+")
_PRIORITY = 1 << 31
_LISTED = re.compile(r"[,\s]+")
_CLIENT = "p11-kit-client.so"
#: What is known and has no meaning here: a helper is nobody else's, and no module's failure is another's.
_IDLE = ("critical", "managed", "trust-policy", "log-calls")
_KNOWN = ("module", "remote", "priority", "enable-in", "disable-in", *_IDLE)


class _LeftOutError(Exception):
    """A module cannot be one of ours; the setting that stands in the way, and why."""

    def __init__(self, setting: Setting, text: str, *, refused: bool = True) -> None:
        super().__init__(text)
        self.setting = setting
        self.refused = refused


def modules_of(layers: Layers, present: Sequence[Module]) -> list[Module]:
    """Return p11-kit's modules by name, but for those whose name or provider one that is `present` has."""
    names = {module.name: str(module.file) for module in present}
    files = {_real(module.path): module for module in present}
    found: list[Module] = []
    for name, settings in sorted(layers.modules.items()):
        try:
            module = _module(name, settings, names, len(names))
            _refuse_twice(files, module)
        except _LeftOutError as left_out:
            where, text = left_out.setting, f"module {name} is left out: {left_out}"
            layers.remarks.append(Remark(where.file, where.line, text, left_out.refused))
            continue
        layers.remarks += _remarks(name, settings)
        names[module.name], files[_real(module.path)] = str(module.file), module
        found.append(module)
    return found


def _module(name: str, settings: Settings, names: dict[str, str], count: int) -> Module:
    said = settings.get("remote") or settings.get("module")
    if said is None:
        where = next(iter(settings.values()), Setting("", Path(f"{name}.module"), 0))
        raise _LeftOutError(where, "it has no module:")
    ours = name.lower()
    if not is_module_name(ours):
        raise _LeftOutError(
            said, f"its name is not {NAME_RULE}, at most {limits().name} bytes; rename the file"
        )
    if ours in names:
        raise _LeftOutError(said, f"{names[ours]} has a module of that name", refused=False)
    if count >= limits().modules:
        raise _LeftOutError(said, f"there are {limits().modules} modules already, as many as are allowed")
    table = _remote(said) if "remote" in settings else {"path": _path(said)}
    table |= {"priority": _priority(settings), **_reserved(settings), **_lists(settings)}
    try:
        module = module_of(ours, ModuleTable.model_validate(table), said.file)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        raise _LeftOutError(said, f"expected of {key}: {fields_of(ModuleTable)[key].description}") from error
    return replace(module, origins=dict(settings))


def _refuse_twice(files: dict[Path, Module], module: Module) -> None:
    """Leave out what another module is; a provider is loaded once for an application."""
    said = (module.origins or {}).get("module")
    other = files.get(_real(module.path))
    if said is not None and other is not None and "remote" not in (module.origins or {}):
        raise _LeftOutError(said, f"module {other.name} is the same provider", refused=False)


def _path(said: Setting) -> str:
    """Return the path of a provider, which p11-kit looks for in a directory of its own if it is relative."""
    if not said.value:
        raise _LeftOutError(said, "its module: is empty", refused=False)
    places = [Path(said.value)] if said.value.startswith("/") else _in_usual(said.value)
    path = next((place for place in places if is_there(place)), places[0])
    if is_there(path) and (whose := proxy(path)):
        raise _LeftOutError(said, f"it is {whose}, which would ask for all modules once more")
    return str(path)


def _in_usual(name: str) -> list[Path]:
    return [directory / name for directory in provider_directories()]


def _remote(said: Setting) -> dict[str, Any]:
    """Return a table for a provider behind p11-kit's own remoting, as far as that is the same thing here."""
    if said.value.startswith("unix:path=/"):
        socket = said.value.removeprefix("unix:path=")
        client = next((place for place in _in_usual(_CLIENT) if is_there(place)), None)
        if client is None:
            raise _LeftOutError(
                said, f"{_CLIENT} is not there, which speaks p11-kit's protocol; install p11-kit"
            )
        env = {"P11_KIT_SERVER_ADDRESS": said.value}
        return {"path": str(client), "env": env, "sandbox": {"sockets": [f"-{socket}"]}}
    words = _words(said.value.removeprefix("|")) if said.value.startswith("|") else []
    match words:
        case [command, "remote", path] if Path(command).name == "p11-kit" and not path.startswith("-"):
            return {"path": _path(Setting(path, said.file, said.line))}
    raise _LeftOutError(
        said,
        "remote: is a command that speaks p11-kit's protocol, not a provider; run p11-kit server behind it, "
        "and name its socket with: remote: unix:path=/…",
    )


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _priority(settings: Settings) -> int:
    """Return the number that a value begins with, as atoi() has it."""
    said = settings.get("priority")
    number = _NUMBER.match(said.value) if said else None
    return max(-_PRIORITY, min(int(number[0]), _PRIORITY - 1)) if number else 0


def _reserved(settings: Settings) -> dict[str, str]:
    said = settings.get("x-init-reserved")
    if said is None or not said.value:
        return {}
    return {"reserved": said.value}


def _lists(settings: Settings) -> dict[str, list[str]]:
    """Return `enable-in` and `disable-in`; with both the first alone counts, as in p11-kit."""
    said = {key: settings[key].value for key in ("enable-in", "disable-in") if key in settings}
    if "enable-in" in said:
        said.pop("disable-in", None)
    return {
        key: [name for name in _LISTED.split(value) if name and "/" not in name]
        for key, value in said.items()
    }


def _remarks(name: str, settings: Settings) -> Iterator[Remark]:
    """Yield what a person may have meant otherwise."""
    for key, said in settings.items():
        text = _remark(key, said.value, settings)
        if text:
            yield Remark(said.file, said.line, f"module {name}: {text}", refused=False)


def _remark(key: str, value: str, settings: Settings) -> str:
    """Return what to say of a setting, "" if nothing."""
    if key in _KNOWN:
        return _remark_known(key, value, settings)
    question = "" if key.startswith("x-") else nearest(key, (*_KNOWN, "x-init-reserved"))
    return f"{key}: unknown; {question}" if question else ""


def _remark_known(key: str, value: str, settings: Settings) -> str:
    wrong = {
        f"expected a whole number; taken as {_priority(settings)}": key == "priority"
        and not _NUMBER.fullmatch(value),
        "does not count beside enable-in; remove one of them": key == "disable-in"
        and "enable-in" in settings,
        "expected yes or no": key in _IDLE and value not in ("yes", "no"),
        "has no meaning here: a module that fails harms no other": (key, value) == ("critical", "yes"),
        "has no meaning here": (key, value) == ("log-calls", "yes"),
    }
    return next((f"{key}: {text}" for text, applies in wrong.items() if applies), "")


def _real(path: Path) -> Path:
    return real(path)
