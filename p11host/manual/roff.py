"""Text as man(7) has it.

Knows macros and what must be escaped. Must not know what a page is about.
"""

import re
from collections.abc import Sequence

from p11host import __version__

_ESCAPED = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
_FIRST = re.compile(r"(?m)^(\.S[HS] .*\n)\.PP\n")
_MARKED = re.compile(r"`([^`]+)`")


def page(name: str, section: int, short: str, body: Sequence[str]) -> str:
    """Return a whole page."""
    head = [
        '.\\" Made by python -m p11host.manual.',
        f'.TH "{text(name)}" "{section}" "" "p11host {__version__}" "p11host"',
        ".nh",
        ".ad l",
        heading("NAME"),
        f"{text(name)} \\- {text(short)}",
    ]
    # A section begins with a paragraph by itself.
    return _FIRST.sub(r"\1", "\n".join([*head, *body])) + "\n"


def text(words: str) -> str:
    """Return text that is printed as it is."""
    escaped = "".join(_ESCAPED.get(char, char) for char in words)
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "\\(aq")) else line for line in escaped.split("\n")
    )


def prose(words: str) -> str:
    """Return running text; what stands between backquotes is bold."""
    parts = _MARKED.split(" ".join(words.split()))
    marked = [f"\\fB{text(part)}\\fR" if number % 2 else text(part) for number, part in enumerate(parts)]
    joined = "".join(marked)
    return f"\\&{joined}" if joined.startswith((".", "'")) else joined


def bold(words: str) -> str:
    """Return words in bold."""
    return f"\\fB{text(words)}\\fR"


def heading(words: str) -> str:
    """Return the head of a section."""
    return f'.SH "{text(words)}"'


def subheading(words: str) -> str:
    """Return the head of a part of a section."""
    return f'.SS "{text(words)}"'


def paragraph(words: str) -> str:
    """Return a paragraph."""
    return f".PP\n{prose(words)}"


def tagged(tag: str, *paragraphs: str) -> str:
    """Return a term, and below it what is said of it."""
    first, *rest = [each for each in paragraphs if each] or ["\\&"]
    more = [f".IP\n{prose(each)}" for each in rest]
    return "\n".join([".TP", bold(tag), prose(first), *more])


def literal(words: str) -> str:
    """Return lines that are neither filled nor adjusted."""
    return "\n".join([".PP", ".in +4n", ".nf", text(words), ".fi", ".in"])
