"""The screens in docs/: what scripts/captures.py took, as a terminal of 80 columns shows it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 80
MARK = re.compile(r"<!-- screen: (.*) -->")
SCREEN = re.compile(r"<!-- screen: ([a-z-]+) -->\n```\n(.*?)\n```\n", re.DOTALL)
PAGES = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
SCREENS = [(found[1], found[2]) for text in PAGES for found in SCREEN.finditer(text)]


def test_readable() -> None:
    """Every screen fits and is plain; none is empty."""
    assert {"list", "doctor", "top", "trace"} <= dict(SCREENS).keys()
    for name, screen in SCREENS:
        lines = screen.split("\n")
        assert len(lines) > 2, name
        assert max(map(len, lines)) <= COLUMNS, name
        assert "".join(lines).isprintable(), name


def test_taken_by_the_script() -> None:
    """The script takes every screen that a page has, and finds it there."""
    taken = re.findall(
        r'Shot\(\s*"([a-z-]+)"', (ROOT / "scripts" / "captures.py").read_text(encoding="utf-8")
    )
    marked = [name for text in PAGES for name in MARK.findall(text)]

    assert marked == [name for name, _ in SCREENS]
    assert len(marked) == len(set(marked))
    assert set(marked) <= set(taken)
