"""The recipes of docs/servers.md, as this machine can follow them.

A recipe is a block whose first line names its file. What it says of places and ports is put right here, and
nothing else: a recipe that does not work is seen.
"""

import re
from collections.abc import Mapping
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "servers.md"
_RECIPE = re.compile(r"^```\w*\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: What the recipes call their token.
LABEL = "mine"


def recipe(name: str, places: Mapping[str, object]) -> str:
    """Return the recipe for a file, with each of these words, which must be there, replaced."""
    text: str = dict(_RECIPE.findall(DOCUMENT.read_text()))[name]
    for theirs, ours in places.items():
        assert theirs in text, f"{name} does not say {theirs}"
        text = text.replace(theirs, str(ours))
    return text
