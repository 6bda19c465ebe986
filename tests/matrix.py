"""The matrix of hostile behaviour: what each does, in each phase and with each function, to everybody else.

    python tests/matrix.py                      the sample that the tests run
    python tests/matrix.py --whole              every cell: an hour
    python tests/matrix.py --write              every cell, and docs/containment-matrix.md from them
    python tests/matrix.py segv call C_Sign     the cells with these behaviours, phases and functions
    … --bare                                    without the sandbox
    … --save FILE, then --write FILE…           in parts

Knows brokers and command lines. What an application sees of a cell is matrix_life.py's.
"""

from __future__ import annotations

import argparse
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
from matrix_left import all_processes, end_what_is_left
from matrix_life import GOOD, HOSTILE, Found, live
from matrix_table import DOCUMENT, Result, text

from p11host.start import private_broker
from p11host.throwaway import make_token

#: Milliseconds after which a call that never returns is given up, and a provider that never comes up.
DEADLINE, START = 300, 1000
#: Bytes of memory a helper may have, where nothing else limits it.
MEMORY = 96 << 20
#: Cells that one application lives through.
BATCH = 60


@dataclass
class Matrix:
    """What lives through cells: a configuration with the hostile module and one that is as it should be."""

    directory: Path
    provider: Path
    sandbox: bool = True
    template: str = field(init=False)

    def __post_init__(self) -> None:
        """Make the good module's token."""
        token = make_token(self.directory)
        home = self.directory / "home"
        (home / ".ssh").mkdir(mode=0o700, parents=True)
        env = {"HOSTILE": "{wish}", "HOME": str(home)}
        deadlines = {"short": DEADLINE, "long": DEADLINE, "start": START}
        more = {} if self.sandbox else {"sandbox": "off"}
        self.template = module(HOSTILE, self.provider, env=env, deadlines=deadlines, **more)
        self.template += module(GOOD, token.provider, env=dict(token.env))

    def run(self, cells: Sequence[Cell]) -> Iterator[Result]:
        """Live through cells; yield what came of each."""
        done = 0
        while done < len(cells):
            for result in self._live(cells[done : done + BATCH]):
                done += 1
                yield result
            # A spare helper that stops itself when nobody is there any more has ten minutes, as it is loaded.
            end_what_is_left(lambda: [each for each in all_processes() if each.is_helper_of(self.provider)])

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
    """Return the cells that a command line names, by default the sample."""
    if not words:
        return sample()
    cells = list(whole())
    for names in ((*ACTS, *LIES), PHASES, functions()):
        wanted = set(words) & set(names)
        cells = [each for each in cells if not wanted or wanted & set(vars(each).values())]
    return cells


def run_all(cells: Sequence[Cell], sandbox: bool) -> Iterator[Result]:  # noqa: FBT001
    """Live through cells with a provider made for that."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for generate in (TESTS.parent / "specs" / "generate.py", TESTS / "mirror_c.py"):
            subprocess.run([sys.executable, str(generate), str(directory)], check=True)
        provider = Workshop(directory, directory).provider("hostile")
        yield from Matrix(directory, provider, sandbox).run(cells)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a behaviour, phase or function")
    parser.add_argument("--whole", action="store_true", help="every cell")
    parser.add_argument("--bare", action="store_true", help="without the sandbox")
    parser.add_argument("--save", type=Path, help="append what came of it to a file")
    parser.add_argument(
        "--write", type=Path, nargs="*", help="write the document, from these files or a whole run"
    )
    return parser.parse_args()


def main(given: argparse.Namespace) -> int:
    """Run what the command line says; return 1 if a cell is not as it must be."""
    lines = [line for path in given.write or () for line in path.read_text().splitlines()]
    # What was done again counts as it was the last time.
    results = list({result.cell: result for result in map(Result.read, lines)}.values())
    if not results:
        cells = list(whole()) if given.whole or given.write is not None else chosen(given.names)
        for result in run_all(cells, not given.bare):
            results.append(result)
            print(result.line(), flush=True)
            if given.save:
                with given.save.open("a") as file:
                    file.write(result.json() + "\n")
    if given.write is not None:
        DOCUMENT.write_text(text(results))
    bad = sum(bool(result.found.wrong) for result in results)
    print(f"{len(results)} cells, {bad} of them wrong")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(arguments()))
