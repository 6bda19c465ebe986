"""Cryptoki as data: the tables of specs/, read and checked.

The C of the data plane is generated from them at build time; Python (explain, trace, fuzz, tests) reads the
same files at run time. Uses the standard library alone, because the build imports it; knows nothing of
sockets or of C text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from .functions import CONTEXTS, KINDS, PATIENCES, Arg, Function, Without, load_functions
from .life import Life, Step, load_life
from .mechanisms import Choice, Mechanism, load_mechanisms, parse_param
from .source import SINCE, Source, TableError
from .structs import Field, Length, Size, Struct, Types, Union, load_sizes, load_structs, parents
from .values import Attribute, Constant, Limits, load_attributes, load_constants, load_limits

__all__ = [
    "CONTEXTS",
    "FILES",
    "KINDS",
    "PATIENCES",
    "SINCE",
    "Arg",
    "Attribute",
    "Choice",
    "Constant",
    "Field",
    "Function",
    "Length",
    "Life",
    "Limits",
    "Mechanism",
    "Size",
    "Source",
    "Step",
    "Struct",
    "TableError",
    "Tables",
    "Types",
    "Union",
    "Without",
    "load",
    "parents",
    "parse_param",
    "read_limits",
    "specs_path",
    "tables",
]

FILES = ("functions", "returns", "structs", "sizes", "mechanisms", "attributes", "constants", "limits")
"""Names of the tables of which both ends must have the same, without .toml."""


@dataclass(frozen=True)
class Tables:
    """All tables, by name, each in the order of its file."""

    functions: Mapping[str, Function]
    types: Types
    structs: Mapping[str, Struct]
    unions: Mapping[str, Union]
    """By struct."""
    sizes: Mapping[str, Mapping[str, Size]]
    """By ABI (lp64, ilp32) and struct."""
    mechanisms: Mapping[str, Mechanism]
    attributes: Mapping[str, Attribute]
    constants: Mapping[str, Constant]
    limits: Limits
    life: Life
    digest: int
    """64 bits over every row: two ends with the same number agree on all of them."""

    @cached_property
    def _mechanisms(self) -> Mapping[int, Mechanism]:
        return {m.value: m for m in reversed(list(self.mechanisms.values()))}

    @cached_property
    def _attributes(self) -> Mapping[int, Attribute]:
        rows = list(self.attributes.values())[::-1]
        return {a.also: a for a in rows if a.also is not None} | {a.value: a for a in rows}

    @cached_property
    def _constants(self) -> Mapping[tuple[str, str, int], Constant]:
        return {(c.kind, c.domain, c.value): c for c in reversed(list(self.constants.values()))}

    def mechanism(self, value: int) -> Mechanism | None:
        """Return the mechanism with that number; of two names the first."""
        return self._mechanisms.get(value)

    def attribute(self, value: int) -> Attribute | None:
        """Return the attribute with that number, its first or its second; of two names the first."""
        return self._attributes.get(value)

    def constant(self, kind: str, value: int, domain: str = "") -> Constant | None:
        """Return the constant of a kind (and domain) with that number: ``constant("ckr", 0)`` is CKR_OK."""
        return self._constants.get((kind, domain, value))


def specs_path() -> Path:
    """Return the directory of the tables: in the package when installed, else at the root of the source."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "specs"
    return installed if installed.is_dir() else package.parent / "specs"


def _digest(sources: Mapping[str, Source]) -> int:
    """Return the first 8 bytes of SHA-256 over the rows as JSON. Comments and spaces do not count."""
    rows = json.dumps({name: source.data for name, source in sources.items()}, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(rows.encode()).digest()[:8], "big")


def load(directory: Path | None = None) -> Tables:
    """Read and check every table of a directory (default: our own); TableError for the first wrong row."""
    where = directory or specs_path()
    sources = {name: Source.read(where / f"{name}.toml") for name in FILES}
    constants = load_constants(sources["constants"])
    types, structs, unions = load_structs(sources["structs"], {c.name: c.value for c in constants.values()})
    return Tables(
        functions=load_functions(sources["functions"], sources["returns"], constants, types, structs),
        types=types,
        structs=structs,
        unions=unions,
        sizes=load_sizes(sources["sizes"], structs),
        mechanisms=load_mechanisms(sources["mechanisms"], structs),
        attributes=load_attributes(sources["attributes"]),
        constants=constants,
        limits=load_limits(sources["limits"]),
        life=load_life(Source.read(where / "life.toml"), constants),
        digest=_digest(sources),
    )


@cache
def read_limits() -> Limits:
    """Return our own limits alone, read once: who wants no more need not wait for the rest."""
    return load_limits(Source.read(specs_path() / "limits.toml"))


@cache
def function_names() -> tuple[str, ...]:
    """Return the names of all functions by their index, without all that the tables say of them."""
    return tuple(Source.read(specs_path() / "functions.toml").data)


@cache
def tables() -> Tables:
    """Return our own tables, read once."""
    return load()
