"""Write the generated C into a directory: ``python specs/generate.py OUTDIR [SPECS]``.

Run by the build. Reads the tables of this directory, or of SPECS, and uses the standard library alone. A file
is written only if its text changed, so nothing is compiled again without need.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The tree that this file is in, whatever else is installed.
sys.path.insert(0, str(HERE.parent))

from p11host.tables import TableError, Tables, load  # noqa: E402
from specs.emit.calls import entries_c, entries_h, invoke_c, invoke_h  # noqa: E402
from specs.emit.checks import layouts_check_c  # noqa: E402
from specs.emit.header import cryptoki_h, layouts_h, limits_h  # noqa: E402
from specs.emit.tables import tables_c  # noqa: E402

FILES: dict[str, Callable[[Tables], str]] = {
    "cryptoki.h": cryptoki_h,
    "limits.h": limits_h,
    "layouts.h": layouts_h,
    "entries.h": entries_h,
    "invoke.h": invoke_h,
    "tables.c": tables_c,
    "entries.c": entries_c,
    "invoke.c": invoke_c,
    "layouts_check.c": layouts_check_c,
}
"""What is written, and the function that returns its text."""


def generate(out: Path, specs: Path) -> None:
    """Write every file into ``out``, which is made if need be; TableError where a table is wrong."""
    tables = load(specs)
    out.mkdir(parents=True, exist_ok=True)
    for name, emit in FILES.items():
        path, text = out / name, emit(tables)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Generate; return 2 for wrong usage, 1 for a wrong table, with the row on stderr."""
    if len(arguments) not in (1, 2):
        print("usage: generate.py OUTDIR [SPECS]", file=sys.stderr)
        return 2
    specs = Path(arguments[1]) if len(arguments) > 1 else HERE
    try:
        generate(Path(arguments[0]), specs)
    except TableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
