"""How p11-kit makes one configuration of its files: system, package and user, and what of it counts.

Knows pkcs11.conf(5): directories, names of files, `user-config`, and that a user's value comes before the
system's, and that before a package's. Must not know what a module's settings mean.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from p11host.config_read import read_text
from p11host.p11kit.files import FormatError, Remark, Settings, parse
from p11host.paths import P11KitPlaces, is_directory
from p11host.text import nearest

_FILE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)\.module")
#: `override` is in no manual, and means `only` to p11-kit.
_MODES = {"none": "none", "merge": "merge", "only": "only", "override": "only"}
_KNOWN_GLOBALS = ("user-config", "managed", "log-calls")


@dataclass(slots=True)
class Layers:
    """All modules by their names, with their settings, and what there is to say about the files.

    `broken`: modules of which some file cannot be read, so that nobody knows what they should be.
    """

    modules: dict[str, Settings] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    remarks: list[Remark] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)

    def refuse(self, file: Path, line: int, text: str) -> None:
        """Note that something in a file does not count."""
        self.remarks.append(Remark(file, line, text, refused=True))


def gather(places: P11KitPlaces) -> Layers:
    """Return what the files say together. No fault in one of them is an error; it is remarked."""
    layers = Layers()
    mode = _mode(places, layers)
    if mode is None:
        return layers
    if mode != "none" and places.user_modules is not None:
        _add(places.user_modules, layers, forgiving=True)
    if mode != "only":
        _add(places.system_modules, layers)
        _add(places.package_modules, layers)
    for name in layers.broken:
        layers.modules.pop(name, None)
    return layers


def _mode(places: P11KitPlaces, layers: Layers) -> str | None:
    """Return whose modules count: "none", "merge" or "only" the user's; None if that cannot be known."""
    mode = _mode_of(places.system_conf, layers, "merge", forgiving=False)
    if mode is None or mode == "none" or places.user_conf is None:
        return mode and "none"
    return _mode_of(places.user_conf, layers, mode, forgiving=True)


def _mode_of(file: Path, layers: Layers, usual: str, *, forgiving: bool) -> str | None:
    settings = _read(file, layers, forgiving=forgiving)
    if settings is None:
        layers.refuse(file, 0, "so nothing of p11-kit's configuration counts")
        return None
    for name in settings:
        if question := _misspelt(name, _KNOWN_GLOBALS):
            layers.remarks.append(Remark(file, settings[name].line, f"{name}: {question}", refused=False))
    said = settings.get("user-config")
    if said is None:
        return usual
    if said.value not in _MODES:
        expected = "expected none, merge or only; nothing of p11-kit's configuration counts"
        layers.refuse(file, said.line, f"user-config: {expected}")
    return _MODES.get(said.value)


def _misspelt(name: str, known: tuple[str, ...]) -> str:
    return "" if name in known or name.startswith("x-") else nearest(name, known)


def _add(directory: Path, layers: Layers, *, forgiving: bool = False) -> None:
    """Add a directory's modules; what is there already counts more, setting by setting."""
    for file in _listed(directory, layers, forgiving=forgiving):
        found = _FILE.fullmatch(file.name)
        if found is None:
            layers.refuse(
                file,
                0,
                "not read: its name is not NAME.module with letters, digits, '_', '.' and '-'; rename it",
            )
            continue
        settings = _read(file, layers, forgiving=forgiving)
        if settings is None:
            layers.broken.add(found[1])
            layers.refuse(file, 0, f"so module {found[1]} is left out")
            continue
        present: Mapping[str, object] = layers.modules.get(found[1], {})
        layers.modules[found[1]] = {**settings, **present}  # type: ignore[dict-item]


def _listed(directory: Path, layers: Layers, *, forgiving: bool) -> Iterator[Path]:
    layers.seen.add(directory)
    try:
        found = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if not (forgiving and isinstance(error, PermissionError)):
            layers.refuse(directory, 0, f"cannot be read: {error.strerror}; check its owner and mode")
        return
    yield from (file for file in found if not is_directory(file))


def _read(file: Path, layers: Layers, *, forgiving: bool) -> Settings | None:
    """Return a file's settings, none where there is no file; None after saying why it cannot be used."""
    layers.seen.add(file)
    try:
        return parse(file, read_text(file, "surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        if forgiving and isinstance(error, PermissionError):
            return {}
        layers.refuse(file, 0, f"cannot be read: {error.strerror}; check its owner and mode")
    except FormatError as error:
        layers.refuse(file, error.line, error.text)
    except ValueError as error:
        layers.refuse(file, 0, str(error))
    return None
