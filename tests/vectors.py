"""The conversation vectors of specs/vectors, for the tests in Python and, made into C, for those in C.

Knows the files' grammar, which the head of each explains. Must not know Cryptoki, nor ask the code under
test: the bytes are msgpack's.

usage: vectors.py c OUTPUT    a table for the C tests
       vectors.py fill        writes the bytes below every text, where they are missing or old
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgpack

PLACE = Path(__file__).resolve().parent.parent / "specs" / "vectors"
#: Keys that hold a message: as text, and with _hex behind the name as the bytes themselves.
MESSAGES = ("request", "response", "send")
#: Keys that hold a text for the C tests as it is.
TEXTS = (
    "file",
    "name",
    "promise",
    "function",
    "begun",
    "call",
    "given",
    "wrote",
    "late",
    "got",
    "answer",
    "after",
)
_TOKEN = re.compile(r"\"(?:[^\"\\]|\\.)*\"|h'[0-9a-fA-F ]*'|[A-Za-z]+")
_WORDS = {"nil": "None", "true": "True", "false": "False"}
_LINE = re.compile(r"^(request|response|send) = '''(.*)'''$")


@dataclass(frozen=True, slots=True)
class Vector:
    """One conversation, or half of one. What each key means stands at the head of its file."""

    file: str
    name: str
    promise: str
    function: str = ""
    operation: int = 0
    begun: str = ""
    call: str = ""
    request: str = ""
    response: str = ""
    send: str = ""
    request_hex: str = ""
    response_hex: str = ""
    send_hex: str = ""
    given: str = ""
    wrote: str = ""
    late: str = ""
    got: str = ""
    rv: str = ""
    answer: str = ""
    after: str = ""
    wire: str = ""

    def bytes_of(self, key: str) -> bytes:
        """Return a message of this vector as it goes over the wire."""
        return bytes_of(getattr(self, f"{key}_hex"))


def bytes_of(words: str) -> bytes:
    """Return the bytes of hex; `91*33` is 33 times 91."""
    found = bytearray()
    for word in words.split():
        digits, _, times = word.partition("*")
        found += bytes.fromhex(digits) * int(times or 1)
    return bytes(found)


def value_of(text: str) -> Any:
    """Return the value of diagnostic text: JSON, with h'00ff' for bytes and nil for nothing."""

    def python(match: re.Match[str]) -> str:
        token = match.group()
        if token.startswith("h'"):
            return repr(bytes.fromhex(token[2:-1]))
        return _WORDS.get(token, token)

    return ast.literal_eval(_TOKEN.sub(python, text))


def vectors(file: str | None = None) -> list[Vector]:
    """Return the vectors of all files, or of one."""
    return [
        vector for path in sorted(PLACE.glob("*.toml")) if file in (None, path.stem) for vector in _read(path)
    ]


def _read(path: Path) -> Iterator[Vector]:
    known = {field.name for field in fields(Vector)}
    for row in tomllib.loads(path.read_text())["vector"]:
        if unknown := set(row) - known:
            sys.exit(
                f"{path}: vector {row.get('name')!r} has keys that nobody reads: {', '.join(sorted(unknown))}"
            )
        yield Vector(path.stem, **row)


# ---- for the C tests ----


def write_c(output: Path) -> None:
    """Write the vectors as a table in C."""
    rows = [f"    {{{', '.join(_cells(vector))}}}," for vector in vectors()]
    lines = [
        "/* generated from specs/vectors, do not edit */",
        '#include "vectors.h"',
        "",
        '#include "tables.h"',
        "",
    ]
    lines += ["const struct vector vectors[] = {", *rows, "};", ""]
    lines += ["const unsigned vector_count = sizeof vectors / sizeof *vectors;", ""]
    output.write_text("\n".join(lines))


def _cells(vector: Vector) -> Iterator[str]:
    for name in TEXTS:
        yield f".{name} = {json.dumps(getattr(vector, name), ensure_ascii=True)}"
    yield f".rv = {vector.rv or 'CKR_OK'}"
    yield f".operation = {vector.operation}"
    for name in MESSAGES:
        data = vector.bytes_of(name)
        octal = "".join([f"\\{byte:03o}" for byte in data])
        yield f'.{name} = {{"{octal}", {len(data)}}}'


# ---- for people ----


def fill() -> None:
    """Write the bytes below every text."""
    for path in sorted(PLACE.glob("*.toml")):
        path.write_text("".join(f"{line}\n" for line in _filled(path.read_text().splitlines())))


def _filled(lines: list[str]) -> Iterator[str]:
    fresh = ""
    for line in lines:
        if fresh and line.startswith(f"{fresh}_hex = "):
            continue
        yield line
        found = _LINE.match(line)
        fresh = found[1] if found else ""
        if found:
            yield f'{fresh}_hex = "{msgpack.packb(value_of(found[2])).hex()}"'


def main(words: list[str]) -> None:
    """Do what the command line says."""
    match words:
        case ["c", output]:
            write_c(Path(output))
        case ["fill"]:
            fill()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
