"""The providers that are installed here, each once, under the name its module would have.

Knows directories, names of files and links. Loads nothing: who made a provider is ask.py's to find out.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p11host.discover.places import Places, directories, matches
from p11host.enroll import derive_name
from p11host.errors import P11HostError, ProviderError
from p11host.p11kit.layers import gather
from p11host.p11kit.modules import modules_of
from p11host.paths import P11KitPlaces, is_file, p11kit_places
from p11host.provider import check
from p11host.sandbox.known import profiles
from p11host.sandbox.settings import STRICT


@dataclass(frozen=True, slots=True)
class Found:
    """A provider. `source`: how it was found, `profile`: what it would run under, `error`: why it cannot.

    `given` is p11-kit's string for pReserved, `reserved` that or what it must be asked with; `hint` what is
    left to a person.
    """

    name: str
    path: Path
    source: str
    title: str
    profile: str
    given: str | None = None
    reserved: str | None = None
    hint: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Passed:
    """A library that looks like a provider and is none for us, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class _Seen:
    path: Path
    source: str
    name: str | None = None
    reserved: str | None = None


def find(
    places: Places, named: Sequence[Path] = (), kit: P11KitPlaces | None = None
) -> tuple[list[Found], list[Passed]]:
    """Return the providers of this machine, or of the `named` directories, and what was passed over.

    `kit` is where p11-kit's files are, None where they are for this user.
    """
    seen = _in_named(named) if named else [*_in_kit(kit or p11kit_places()), *_in_places(places)]
    found: list[Found] = []
    passed: list[Passed] = []
    for each in _once(seen):
        reason = places.reason_against(each.path)
        if reason is not None:
            passed.append(Passed(each.path, reason))
        else:
            found.append(_found(places, each))
    return _with_names(found), passed


def _in_kit(kit: P11KitPlaces) -> Iterator[_Seen]:
    for module in modules_of(gather(kit), ()):
        if is_file(module.path):
            yield _Seen(module.path, f"p11-kit: {module.file}", module.name, module.reserved)


def _in_places(places: Places) -> Iterator[_Seen]:
    patterns = [pattern for title in places.titles for pattern in title.files]
    for directory in directories(places.modules):
        yield from (_Seen(path, str(directory)) for path in _libraries(directory, ["*.so"]))
    for directory in directories(places.directories):
        yield from (_Seen(path, str(directory)) for path in _libraries(directory, patterns))


def _in_named(named: Sequence[Path]) -> Iterator[_Seen]:
    """Yield the libraries of directories that somebody names, who may have much else in them."""
    for directory in named:
        for path in _libraries(directory.absolute(), ["*.so"]):
            with contextlib.suppress(ProviderError):
                check(path)
                yield _Seen(path, str(directory))


def _libraries(directory: Path, patterns: Sequence[str]) -> Iterator[Path]:
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError:
        return
    # A link with the shorter name leads to the present version, so that one comes first.
    for name in sorted(names, key=len):
        if matches({name}, patterns) and is_file(directory / name):
            yield directory / name


def _once(seen: Iterable[_Seen]) -> Iterator[_Seen]:
    files: set[Path] = set()
    for each in seen:
        real = each.path.resolve()
        if real not in files:
            files.add(real)
            yield each


def _found(places: Places, seen: _Seen) -> Found:
    title, known = places.title(seen.path), profiles().of(seen.path)
    ask = places.ask.get(title.name) if title else None
    return Found(
        name=_name(seen),
        path=seen.path,
        source=seen.source,
        title=title.title if title else "",
        profile=known.name if known else STRICT,
        given=seen.reserved,
        reserved=seen.reserved or (ask.reserved if ask else None),
        hint=None if seen.reserved or ask is None else ask.say,
        error=_error(seen.path),
    )


def _name(seen: _Seen) -> str:
    """Return the name that p11-kit has for it, else one made of its file's."""
    if seen.name is not None:
        return seen.name
    try:
        return derive_name(seen.path)
    except P11HostError:
        return "provider"


def _error(path: Path) -> str | None:
    try:
        check(path)
    except ProviderError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def _with_names(found: Sequence[Found]) -> list[Found]:
    """Return them with names that differ: two builds of one provider are two modules."""
    taken: dict[str, int] = {}
    named = []
    for each in found:
        number = taken[each.name] = taken.get(each.name, 0) + 1
        named.append(each if number == 1 else replace(each, name=f"{each.name}-{number}"))
    return named
