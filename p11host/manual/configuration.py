"""p11host.toml(5): every key of the schema, with what the sample configuration says of it.

Knows how the schema nests, and that a comment stands above the keys it is about.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from p11host import conf_path
from p11host.config_schema import FileTable, fields_of
from p11host.config_table import Table
from p11host.manual.roff import bold, heading, literal, page, paragraph, prose, text

_KEY = re.compile(r"#? ?([a-z][a-z0-9-]*) = ")
_HEADER = re.compile(r"#? ?\[([a-z]+)(?:\.[\w-]+)?\]")
_FAULTS = "Everything that is wrong in a file is told at once, by file, line and key."
_EXAMPLE = """\
[module.softhsm]
path = "/usr/lib/softhsm/libsofthsm2.so"
env = { SOFTHSM2_CONF = "/etc/softhsm/softhsm2.conf" }"""


def pages() -> Iterator[tuple[str, str]]:
    """Yield p11host.toml(5)."""
    yield (
        "p11host.toml.5",
        page("p11host.toml", 5, "which PKCS#11 providers there are, and how each is run", _body()),
    )


def _body() -> list[str]:
    sample = Sample.read((conf_path() / "p11host.toml").read_text(encoding="utf-8"))
    body = [heading("DESCRIPTION"), paragraph(sample.head)]
    body.append(paragraph(_FAULTS))
    for path, table in tables(FileTable):
        if path:
            body.append(heading(f"[{path}]"))
            body += _keys(path.partition(".")[0], table, sample)
    return [
        *body,
        heading("EXAMPLE"),
        literal(_EXAMPLE),
        heading("SEE ALSO"),
        paragraph("p11host(1), p11host.so(7); `p11host path --conf` says where a sample with every key is."),
    ]


def tables(table: type[Table], path: str = "") -> Iterator[tuple[str, type[Table]]]:
    """Yield a table and those within it, each with its path, in which NAME stands for any name."""
    yield path, table
    for key, info in fields_of(table).items():
        named = f"{path}.{key}".lstrip(".")
        for inner, is_map in _inner(info.annotation):
            yield from tables(inner, f"{named}.NAME" if is_map else named)


def _inner(annotation: Any, *, is_map: bool = False) -> Iterator[tuple[type[Table], bool]]:
    """Yield the tables that a type has in it, and whether they stand under names."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation, is_map
        return
    is_map = is_map or getattr(annotation, "__origin__", None) is dict
    for each in get_args(annotation):
        yield from _inner(each, is_map=is_map)


def _keys(section: str, table: type[Table], sample: "Sample") -> Iterator[str]:
    for key, info in fields_of(table).items():
        said = sample.said(section, key)
        yield ".TP"
        yield bold(key)
        yield prose(_expected(info))
        if said.like:
            yield f".IP\n{prose(f'See `{said.like}`.')}"
        elif said.lines:
            yield from _comment(said.lines)


def _expected(info: FieldInfo) -> str:
    """Return what may stand there, and what counts where nothing does."""
    expected = f"{info.description or 'a value'}"
    if info.is_required():
        return f"{expected}. Required."
    default = info.default
    if default is PydanticUndefined or default is None or isinstance(default, Table | dict | list | tuple):
        return f"{expected}."
    return f"{expected}; by default `{str(default).lower() if isinstance(default, bool) else default}`."


def _comment(lines: list[str]) -> Iterator[str]:
    """Yield a comment's lines; those that are indented stay lines of their own."""
    yield ".IP"
    for line in lines:
        if line.startswith(" "):
            yield ".br"
        yield text(line.strip())


@dataclass(frozen=True)
class Said:
    """The comment above a key, or the key whose comment it shares."""

    lines: list[str] = field(default_factory=list)
    like: str = ""


@dataclass(frozen=True)
class Sample:
    """The sample configuration: what it says at its head, and of each key by its table's first name."""

    head: str
    keys: Mapping[tuple[str, str], Said]

    def said(self, section: str, key: str) -> Said:
        """Return what is said of a key."""
        return self.keys.get((section, key), Said())

    @classmethod
    def read(cls, sample: str) -> "Sample":
        """Read a file in which blocks of lines are set off by blank ones."""
        first, *blocks = [block.split("\n") for block in re.split(r"\n\n+", sample.strip("\n"))]
        keys: dict[tuple[str, str], Said] = {}
        section = ""
        for block in blocks:
            headers = [found[1] for line in block if (found := _HEADER.match(line))]
            section = headers[0] if headers else section
            keys = _of_block(section, block) | keys
        head = " ".join(line.removeprefix("#").strip() for line in first)
        # What the file is stands in the page's own head.
        return cls(head.partition(". ")[2], keys)


def _of_block(section: str, block: list[str]) -> dict[tuple[str, str], Said]:
    """Return what a block says of the keys in it."""
    names = [found[1] for line in block if (found := _KEY.match(line))]
    lines = [
        line.removeprefix("# ")
        for line in block
        if line.startswith("# ") and not _KEY.match(line) and not _HEADER.match(line)
    ]
    if not names:
        return {}
    others = {(section, name): Said(like=names[0]) for name in names[1:]}
    return {(section, names[0]): Said(lines)} | (others if lines else {})
