"""Text for people: what others say made safe for a terminal, and near misses named."""

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    r"""Return `text` with what would steer a terminal written out: an escape becomes \x1b."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a question that names the known word most like `word`, or "" if none is."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else ""
