"""A vendor's rows in a configuration: in files of their own, and below a module's table.

Knows where such rows may stand and what a fault in them is called; what a row may say is for p11host.tables.
Must not know how rows travel.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgpack

from p11host.config import Source, read_text
from p11host.config_lines import locate
from p11host.limits import limits
from p11host.tables import Source as Rows
from p11host.tables import TableError, Tables, tables
from p11host.tables.rows import pack
from p11host.tables.vendor import SECTIONS, overlay, vendor_source
from p11host.text import nearest


@dataclass(frozen=True, slots=True)
class Place:
    """A module in a configuration file that has rows, or files with some."""

    source: Source
    module: str
    files: Sequence[Path]


def module_tables(place: Place) -> Tables:
    """Return the standard's tables with a module's rows over them; TableError for the first wrong one."""
    found = tables()
    for rows in _sources(place):
        found = overlay(found, rows)
    return found


def packed(place: Place) -> bytes:
    """Return a module's rows as they travel, b"" if there are none; TableError for the first wrong one."""
    rows = pack(module_tables(place), tables())
    data: bytes = msgpack.packb(rows, use_bin_type=True) if rows else b""
    if len(data) > limits().rows:
        _fail(
            place,
            f"rows of {len(data)} bytes; at most {limits().rows} are allowed, leave out what is not used",
        )
    return data


def _sources(place: Place) -> Iterator[Rows]:
    for path in place.files:
        yield _file(place, path)
    inline = place.source.table["module"][place.module]
    if any(section in inline for section in SECTIONS):
        text, lines = place.source.text, locate(place.source.text)
        yield vendor_source(str(place.source.path), text, inline, lines, ("module", place.module))


def _file(place: Place, path: Path) -> Rows:
    """Read one file that holds nothing but rows."""
    try:
        text = read_text(path)
        data: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        _fail(place, f"{path}: cannot be read: {error.strerror}; check its path, owner and mode")
    except UnicodeDecodeError as error:
        _fail(place, f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8")
    except tomllib.TOMLDecodeError as error:
        raise TableError(str(path), 1, f"not TOML: {error}") from error
    except ValueError as error:
        _fail(place, f"{path}: {error}")
    lines = locate(text)
    for section in data:
        if section not in SECTIONS:
            asked = nearest(section, SECTIONS) or f"known are {', '.join(SECTIONS)}"
            raise TableError(str(path), lines.get((section,), 1), f"{section}: unknown table; {asked}")
    return vendor_source(str(path), text, data, lines, ())


def _fail(place: Place, text: str) -> NoReturn:
    """Raise TableError at the key that names the files."""
    line = locate(place.source.text).get(("module", place.module, "tables"), 1)
    raise TableError(str(place.source.path), line, f"module.{place.module}.tables: {text}")
