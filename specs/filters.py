"""Write filters.h into a directory: ``python specs/filters.py OUTDIR [narrow]``.

Run by the build, with the standard library and libseccomp. `narrow`: for helpers of 32 bits too.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The tree that this file is in, whatever else is installed.
sys.path.insert(0, str(HERE.parent))

from specs.emit.filters import FilterError, Rules, filters_h  # noqa: E402


def main(arguments: list[str]) -> int:
    """Generate; return 2 for wrong usage, 1 where something is missing, with a line on stderr."""
    if not arguments or arguments[1:] not in ([], ["narrow"]):
        print("usage: filters.py OUTDIR [narrow]", file=sys.stderr)
        return 2
    try:
        text = filters_h(Rules.read(HERE / "syscalls.toml"), narrow="narrow" in arguments)
    except FilterError as error:
        print(error, file=sys.stderr)
        return 1
    path = Path(arguments[0]) / "filters.h"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
