"""Vendors' rows, packed by the broker's own code: what fuzz_rows begins with.

Each file of rows whole, and each of its mechanisms and attributes alone with the structs of all.

usage: pack_rows.py DIRECTORY FILE.toml…
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from p11host.config import Source
from p11host.config_rows import Place, packed


def rows_of(file: Path) -> bytes:
    """Return the rows of a module whose only rows are those of a file."""
    module: dict[str, Any] = {"module": {"fuzzed": {}}}
    problems: list[str] = []
    data = packed(Place(Source(file, "", module), "fuzzed", [file]), problems)
    if problems:
        sys.exit("\n".join(problems))
    return data


def seeds(data: bytes) -> Iterator[bytes]:
    """Yield rows, and the parts of them that are rows too."""
    yield data
    structs, lengths, mechanisms, attributes = msgpack.unpackb(data)
    for mechanism in mechanisms:
        yield msgpack.packb([structs, lengths, [mechanism], []])
    for attribute in attributes:
        yield msgpack.packb([[], [], [], [attribute]])


def main(directory: Path, files: list[Path]) -> None:
    """Write the seeds of every file."""
    target = directory / "fuzz_rows"
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        for number, seed in enumerate(seeds(rows_of(file))):
            (target / f"{file.stem}-{number}").write_bytes(seed)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
