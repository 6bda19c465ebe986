"""Writing a module into a configuration file: what a person wrote there stays as it is.

Knows TOML as text. Whether a file is right is config_schema's to say.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tomlkit

from p11host.config import Choice, File, Source, read
from p11host.config_schema import NAME_RULE, check, is_module_name
from p11host.errors import ConfigError, P11HostError
from p11host.tokens.files import write_whole

_NEW_MODE = 0o644
_REMEDY = "use --user, or become root"


@dataclass(frozen=True, slots=True)
class Extras:
    """What a module's table says besides `path`; where `profile` is None its library decides."""

    env: Mapping[str, str] = field(default_factory=dict)
    reserved: str | None = None
    profile: str | None = None


def derive_name(provider: Path) -> str:
    """Return a name for a module after its file: softhsm2 for libsofthsm2.so, opensc for opensc-pkcs11.so."""
    stem = provider.name.partition(".so")[0].lower().removeprefix("lib")
    name = re.sub(r"[^a-z0-9_.-]+", "-", re.sub(r"[-_.]?pkcs-?11$", "", stem) or stem).strip("-_.")
    if not is_module_name(name):
        raise P11HostError(f"{provider}: no name can be made of it; give one with --name")
    return name


def enroll(file: Path, name: str, provider: Path, extras: Extras) -> None:
    """Append `[module.NAME]` to `file`, which is made if need be. ConfigError if either cannot be.

    The file is replaced in one step: whoever reads it meanwhile sees it without the module or with it.
    """
    if not is_module_name(name):
        raise ConfigError([f"{name}: expected {NAME_RULE}; give another --name"])
    before = _present(file)
    if before is not None:
        _refuse_duplicate(_checked(before), name, provider)
    text = extended(before.text if before else "", name, provider, extras)
    try:
        source = Source(file, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            [f"{file}: nothing can be added to the way it is written: {error}; add it by hand"]
        ) from error
    _checked(source)
    _replace(file, text)


def extended(text: str, name: str, provider: Path, extras: Extras) -> str:
    """Return `text` with a table for the module after its last line."""
    module = tomlkit.table()
    module["path"] = str(provider)
    if extras.env:
        module["env"] = tomlkit.inline_table()
        module["env"].update(extras.env)
    if extras.reserved is not None:
        module["reserved"] = extras.reserved
    if extras.profile is not None:
        module["sandbox"] = tomlkit.inline_table()
        module["sandbox"]["profile"] = extras.profile
    parents = tomlkit.table(is_super_table=True)
    parents[name] = module
    document = tomlkit.document()
    document["module"] = parents
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + tomlkit.dumps(document)


def _present(file: Path) -> Source | None:
    problems: list[str] = []
    source = read(file, problems, Choice((file,), named=False))
    if problems:
        raise ConfigError(problems)
    return source


def _checked(source: Source) -> File:
    problems: list[str] = []
    checked = check(source, problems)
    if checked is None or problems:
        raise ConfigError(problems)
    return checked


def _refuse_duplicate(file: File, name: str, provider: Path) -> None:
    for module in file.modules:
        if module.name == name:
            raise P11HostError(f"{file.path}: has a [module.{name}] already; give another --name")
        if os.path.realpath(module.path) == os.path.realpath(provider):
            raise P11HostError(f"{file.path}: has {provider} already, as [module.{module.name}]")


def _replace(file: Path, text: str) -> None:
    target = Path(os.path.realpath(file))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o777 if target.exists() else _NEW_MODE
        write_whole(target, text.encode(), mode, force=True)
    except PermissionError as error:
        raise ConfigError([f"{file}: cannot be written: {error.strerror}; {_REMEDY}"]) from error
    except OSError as error:
        raise ConfigError([f"{file}: cannot be written: {error.strerror}"]) from error
    except P11HostError as error:
        remedy = f"; {_REMEDY}" if isinstance(error.__cause__, PermissionError) else ""
        raise ConfigError([f"{error}{remedy}"]) from error
