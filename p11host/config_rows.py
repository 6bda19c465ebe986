"""A vendor's rows in a configuration: in files of their own, and below a module's table.

Knows where such rows may stand and what a fault in them is called; what a row may say is for p11host.tables.
Must not know how rows travel.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgpack

from p11host.config import Source
from p11host.config_lines import locate
from p11host.config_read import read_text
from p11host.limits import limits
from p11host.tables import Source as Rows
from p11host.tables import TableError, Tables, tables
from p11host.tables.rows import pack
from p11host.tables.vendor import SECTIONS, vendor_source
from p11host.tables.wrong import MOST, Wrong, overlay_right
from p11host.text import nearest


@dataclass(frozen=True, slots=True)
class Place:
    """A module in a configuration file that has rows, or files with some."""

    source: Source
    module: str
    files: Sequence[Path]


def module_tables(place: Place, problems: list[str]) -> Tables:
    """Return the standard's tables with a module's rows over them; what is wrong is added to `problems`."""
    found, wrong = tables(), Wrong()
    for rows in takewhile(lambda rows: rows is not None, list(_sources(place, wrong))):
        found = overlay_right(found, rows, wrong) if rows and not wrong.full else found
    problems += map(str, wrong.faults)
    if wrong.full:
        problems.append(
            str(_fault(place, f"{MOST} faults in its rows are told; correct these to see the rest"))
        )
    return found


def packed(place: Place, problems: list[str]) -> bytes:
    """Return a module's rows as they travel, b"" if there are none or after adding to `problems`."""
    wrong: list[str] = []
    rows = pack(module_tables(place, wrong), tables())
    data: bytes = msgpack.packb(rows, use_bin_type=True) if rows else b""
    if not wrong and len(data) > limits().rows:
        text = f"rows of {len(data)} bytes; at most {limits().rows} are allowed, leave out what is not used"
        wrong.append(str(_fault(place, text, "tables")))
    problems += wrong
    return b"" if wrong else data


def _sources(place: Place, wrong: Wrong) -> Iterator[Rows | None]:
    """Yield the rows of each file, None for one that cannot be read, and those below the module's table."""
    for path in place.files:
        yield _file(place, path, wrong)
    inline = place.source.table["module"][place.module]
    if any(section in inline for section in SECTIONS):
        text, lines = place.source.text, locate(place.source.text)
        yield vendor_source(str(place.source.path), text, inline, lines, ("module", place.module))


def _file(place: Place, path: Path, wrong: Wrong) -> Rows | None:
    """Read one file that holds nothing but rows."""
    try:
        text = read_text(path)
        data: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        fault = _fault(
            place, f"{path}: cannot be read: {error.strerror}; check its path, owner and mode", "tables"
        )
    except UnicodeDecodeError as error:
        fault = _fault(place, f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8", "tables")
    except tomllib.TOMLDecodeError as error:
        fault = TableError(str(path), 1, f"not TOML: {error}")
    except ValueError as error:
        fault = _fault(place, f"{path}: {error}", "tables")
    else:
        return _rows_of(path, text, data, wrong)
    wrong.faults.append(fault)
    return None


def _rows_of(path: Path, text: str, data: Mapping[str, Any], wrong: Wrong) -> Rows:
    """Return the rows of a file. A table that nobody knows is wrong, and so is what leans on its rows."""
    lines = locate(text)
    for section in [section for section in data if section not in SECTIONS]:
        asked = nearest(section, SECTIONS) or f"known are {', '.join(SECTIONS)}"
        line = lines.get((section,), 1)
        wrong.faults.append(TableError(str(path), line, f"{section}: unknown table; {asked}"))
        wrong.names |= data[section].keys() if isinstance(data[section], dict) else set()
    return vendor_source(str(path), text, data, lines, ())


def _fault(place: Place, text: str, *key: str) -> TableError:
    """Return a fault of the module as a whole, or of one of its keys."""
    location = ("module", place.module, *key)
    line = locate(place.source.text).get(location, 1)
    return TableError(str(place.source.path), line, f"{'.'.join(location)}: {text}")
