"""README.md: what it shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from p11host.cli import cli
from p11host.tables import tables
from p11host.throwaway import Token

README = Path(__file__).resolve().parent.parent / "README.md"
COVERAGE = README.parent / "docs" / "coverage.md"
PAGES = sorted(
    [*README.parent.glob("*.md"), *README.parent.glob("docs/*.md"), *README.parent.glob("specs/*.md")]
)
PATIENCE = 30
#: A parameter of the standard's older text that is in no header, and so not counted.
UNPUBLISHED = "CK_GCM_PARAMS_LEGACY"
MOST_LINES = 20


def test_talking_to_a_helper(token: Token, tmp_path: Path) -> None:
    """The program that talks to a helper runs as it stands, and makes other random bytes each time."""
    section = README.read_text().partition("\n## Talking to a helper\n")[2].partition("\n## ")[0]
    program = re.search(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert program is not None
    lines = [line for line in program[1].splitlines() if line]

    first, second = (run(program[1], token, tmp_path) for _ in range(2))

    assert len(lines) <= MOST_LINES
    assert first[0].startswith("[2, 'hello', [{'protocol': 1, ")
    assert re.fullmatch(r"\[\d+, \d+\] [0-9a-f]{32}", first[1])
    assert first[1] != second[1]


def test_what_is_carried() -> None:
    """The figures are those of the tables, and of the list that the mirror provider's run writes."""
    functions, mechanisms, structs = (rows(name) for name in ("Functions", "Mechanisms", "Parameters"))
    lacking = {name for name in functions if name.startswith("C_Async")}
    standard = [
        row.name for row in tables().structs.values() if row.kind == "param" and row.name != UNPUBLISHED
    ]
    said = re.search(
        r"(\d+) of (\d+) functions .*, (\d+) of (\d+)\s+mechanism values and (\d+) of (\d+) ",
        README.read_text(),
    )

    assert set(standard) <= set(structs)
    assert said is not None
    assert [
        len(functions) - len(lacking),
        len(tables().functions),
        len(mechanisms),
        len({row.value for row in tables().mechanisms.values()}),
        len(standard),
        len(standard),
    ] == [int(figure) for figure in said.groups()]


def test_commands() -> None:
    """The table of commands has every command there is, and no other."""
    table = README.read_text().partition("\n## Commands\n")[2].partition("\n## ")[0]
    cells = re.findall(r"(?m)^\| (`.*?) \| ", table.replace("\\|", "/"))
    named = {
        words.removeprefix("p11host ").split()[0] for cell in cells for words in re.findall("`(.+?)`", cell)
    }

    assert set(cli.list_commands(click.Context(cli))) == named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Every file of ours that a page names is there, and so is every heading that a link leads to."""
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    quoted = re.findall(r"`((?:docs|conf|specs|tests|shim|scripts)/[\w./-]+\.\w+)`", text)
    absent = [name for name in quoted if not (README.parent / name).exists()]
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            absent.append(link)

    assert [] == absent


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as links have them."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(section: str) -> list[str]:
    """Return the names in a table of docs/coverage.md."""
    text = COVERAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)`", text, re.MULTILINE)


def run(program: str, token: Token, directory: Path) -> list[str]:
    """Run a Python program that finds a token; return the lines it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | dict(token.env),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.splitlines()
