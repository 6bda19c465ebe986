"""The matrix of hostile behaviour: what each does, in each phase and with each function, to everybody else.

    python tests/matrix.py                      the sample that the tests run
    python tests/matrix.py --whole              every cell
    python tests/matrix.py --write              every cell, and docs/containment-matrix.md from them
    python tests/matrix.py segv call C_Sign     the cells with these behaviours, phases and functions

Knows brokers and command lines. What an application sees of a cell is matrix_life.py's.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import pytest
from brokers import module
from life import TESTS, Host, Playing, Workshop
from matrix_cells import ACTS, LIES, PHASES, Cell, functions, sample, whole
from matrix_life import GOOD, HOSTILE, Found, live
from matrix_table import DOCUMENT, Result, text

from p11host.start import private_broker
from p11host.throwaway import make_token

#: Milliseconds after which a call that never returns is given up.
DEADLINE = 300
#: Bytes of memory a helper may have, where nothing else limits it.
MEMORY = 96 << 20
#: Cells that one application lives through.
BATCH = 60


@dataclass
class Matrix:
    """What lives through cells: a configuration with the hostile module and one that is as it should be."""

    directory: Path
    provider: Path
    template: str = field(init=False)

    def __post_init__(self) -> None:
        """Make the good module's token."""
        token = make_token(self.directory)
        deadlines = {"short": DEADLINE, "long": DEADLINE}
        self.template = module(HOSTILE, self.provider, env={"HOSTILE": "{wish}"}, deadlines=deadlines)
        self.template += module(GOOD, token.provider, env=dict(token.env))

    def run(self, cells: Sequence[Cell]) -> Iterator[Result]:
        """Live through cells; yield what came of each."""
        done = 0
        while done < len(cells):
            for result in self._live(cells[done : done + BATCH]):
                done += 1
                yield result

    def _live(self, cells: Sequence[Cell]) -> Iterator[Result]:
        """Live through cells with one broker and one application, until one of the two has ended."""
        config = self.directory / "matrix.toml"
        config.write_text(self.template.replace("{wish}", ""))
        words = [[cell.behaviour, cell.phase, cell.function] for cell in cells]
        with private_broker(config, "off") as broker:
            resource.prlimit(broker.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
            with Host(broker.env).playing(
                live, self.template, [str(config), str(self.provider), broker.pid], words
            ) as application:
                for cell in cells:
                    found = told_by(application)
                    yield Result(cell, found)
                    if not found.rv or has_ended(broker.pid):
                        return


def told_by(application: Playing) -> Found:
    """Return what the application tells of its next cell, or that it cannot."""
    try:
        return Found(**application.report())
    except pytest.fail.Exception as error:
        return Found(wrong=[str(error)])


def has_ended(child: int) -> bool:
    """Tell whether a child of ours has ended. Whoever started it still hears of that."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


# ---- by command ----


def chosen(words: Sequence[str]) -> list[Cell]:
    """Return the cells that a command line means."""
    if not words:
        return sample()
    cells = list(whole())
    for names in ((*ACTS, *LIES), PHASES, functions()):
        wanted = set(words) & set(names)
        cells = [each for each in cells if not wanted or wanted & set(vars(each).values())]
    return cells


def main(words: Sequence[str]) -> int:
    """Run what the command line says; return 1 if a cell is not as it must be."""
    cells = chosen([word for word in words if not word.startswith("--")])
    if {"--whole", "--write"} & set(words):
        cells = list(whole())
    results = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for generate in (TESTS.parent / "specs" / "generate.py", TESTS / "mirror_c.py"):
            subprocess.run([sys.executable, str(generate), str(directory)], check=True)
        provider = Workshop(directory, directory).provider("hostile")
        for result in Matrix(directory, provider).run(cells):
            results.append(result)
            print(result.line(), flush=True)
    bad = sum(bool(result.found.wrong) for result in results)
    print(f"{len(results)} cells, {bad} of them wrong")
    if "--write" in words:
        DOCUMENT.write_text(text(results))
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
