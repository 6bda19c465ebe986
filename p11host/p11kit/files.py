"""One file of p11-kit's: lines of `name: value`, as pkcs11.conf(5) has them.

Knows the form of a line. Must not know what a name means.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: What isspace() says in C's own locale: no other space is one to p11-kit.
_BLANK = " \t\n\v\f\r"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it stands."""

    value: str
    file: Path
    line: int


@dataclass(frozen=True, slots=True)
class Remark:
    """What a person should know of a file of p11-kit's. `refused`: something in it does not count."""

    file: Path
    line: int
    text: str
    refused: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


class FormatError(Exception):
    """A line that p11-kit would not read either, and therefore nothing of its file."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


Settings = Mapping[str, Setting]


def parse(file: Path, text: str) -> Settings:
    """Return the settings of a file by their names; of two with one name the later counts.

    In `text` every byte that is not UTF-8 is a surrogate of its own: comments may be in any encoding.
    """
    return {name: Setting(value, file, number) for number, name, value in _fields(text)}


def _fields(text: str) -> Iterator[tuple[int, str, str]]:
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(_BLANK)
        if raw.startswith("-----BEGIN "):
            raise FormatError(number, "expected 'name: value', not PEM; remove it")
        if not line or line.startswith("#"):
            continue
        if not _is_utf8(line):
            raise FormatError(number, "not UTF-8; save it as UTF-8")
        name, colon, value = line.partition(":")
        if line.startswith("[") or not colon or "\0" in line:
            raise FormatError(number, f"expected 'name: value', not {line[:40]!a}; correct or remove it")
        yield number, name.strip(_BLANK), value.strip(_BLANK)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
